//! Devices that a node drives itself: NVMe controllers by PCI address (EF-01, DESIGN section 5), in the rack file and
//! against the host.

use palisade_control::check::{self, HostFacts, PciFacts};
use palisade_control::config::{self, DeviceKind, Finding, Severity};

const GOOD: &str = include_str!("../../configs/one-box.toml");

/// The one-box rack whose second head and first sled have controllers: the first file devices are replaced.
fn rack(log: &str, device: &str) -> String {
    let file = "kind = \"file\", size = \"2 GiB\", sparse = true";
    assert!(GOOD.matches(file).count() >= 2, "the rack has files");
    GOOD.replacen(file, log, 1).replacen(file, device, 1)
}

fn findings(text: &str) -> Vec<Finding> {
    check::file(&config::parse(text, None))
}

fn controller(address: &str) -> String {
    format!("kind = \"nvme\", address = \"{address}\"")
}

#[test]
fn a_controller_is_named_by_its_address_and_needs_no_size() {
    let text = rack(&controller("0000:03:00.0"), &controller("10001:c4:1f.7"));
    let parsed = config::parse(&text, None);
    let mut kinds: Vec<&DeviceKind> = parsed.rack.heads.iter().map(|head| &head.log.kind).collect();
    kinds.extend(parsed.rack.sleds.iter().flat_map(|sled| &sled.devices).map(|device| &device.kind));
    for address in ["0000:03:00.0", "10001:c4:1f.7"] {
        let wanted = DeviceKind::Nvme(address.to_owned());
        assert_eq!(kinds.iter().filter(|kind| ***kind == wanted).count(), 1, "{kinds:?}");
    }
    assert_eq!(kinds.iter().filter(|kind| kind.path().is_none()).count(), 2);
    let found = check::file(&parsed);
    assert!(found.iter().all(|finding| finding.severity != Severity::Error), "{found:#?}");
}

#[test]
fn what_is_no_address_is_said_with_its_line_and_how_one_looks() {
    for bad in ["", "03:00.0", "0000:03:00", "0000:03:00.0.1", "0000.03.00:0", "0000:03:00.g", "/dev/nvme0"] {
        let text = rack(&controller("0000:03:00.0"), &controller(bad));
        let found = findings(&text);
        let errors: Vec<_> = found.iter().filter(|finding| finding.severity == Severity::Error).collect();
        let [error] = errors[..] else { panic!("{bad}: {found:#?}") };
        assert!(error.what.contains(&format!("`{bad}` is no PCI address")), "{error:?}");
        assert!(error.remedy.contains("0000:03:00.0"), "{error:?}");
        let line =
            text.lines().position(|line| line.contains(&controller(bad))).map_or(0, |at| at as u32 + 1);
        assert_eq!(error.place.expect("placed").line, line, "{error:?}");
    }
}

#[test]
fn a_controller_of_two_nodes_and_keys_that_it_does_not_have_are_errors() {
    let twice = rack(&controller("0000:03:00.0"), &controller("0000:03:00.0"));
    let found = findings(&twice);
    assert!(found.iter().any(|finding| finding.what.contains("`0000:03:00.0` is used twice")), "{found:#?}");
    for (key, value) in [("path", "\"/dev/nvme0\""), ("size", "\"2 GiB\""), ("sparse", "true")] {
        let found =
            findings(&rack(&controller("0000:03:00.0"), &format!("kind = \"nvme\", {key} = {value}")));
        let what = format!("unknown key `{key}`");
        assert!(found.iter().any(|finding| finding.what.contains(&what)), "{found:#?}");
    }
    let address = "kind = \"file\", size = \"2 GiB\", address = \"0000:03:00.0\"";
    let found = findings(&rack(&controller("0000:03:00.0"), address));
    assert!(found.iter().any(|finding| finding.what.contains("unknown key `address`")), "{found:#?}");
}

#[test]
fn a_controller_that_no_program_can_drive_is_told_with_its_remedy() {
    let text = rack(&controller("0000:03:00.0"), &controller("0000:04:00.0"));
    let parsed = config::parse(&text, None);
    let told = |function: PciFacts| {
        let functions = [("0000:03:00.0".to_owned(), function)].into();
        let facts = HostFacts { functions, ..HostFacts::default() };
        let found = check::host(&parsed, &facts, false);
        found.into_iter().find(|finding| finding.what.contains("0000:03:00.0"))
    };
    let nvme = Some("nvme".to_owned());
    let rows = [
        (PciFacts::default(), "there is no PCI function", "plug it in"),
        (PciFacts { exists: true, driver: nvme.clone(), ..Default::default() }, "no IOMMU", "intel_iommu=on"),
        (
            PciFacts { exists: true, confined: true, driver: nvme },
            "is with nvme",
            "palisade bind 0000:03:00.0",
        ),
        (PciFacts { exists: true, confined: true, driver: None }, "is with no driver", "palisade bind"),
    ];
    for (function, what, remedy) in rows {
        let found = told(function.clone()).unwrap_or_else(|| panic!("{function:?}"));
        assert_eq!(found.severity, Severity::Error);
        assert!(found.what.contains(what) && found.remedy.contains(remedy), "{found:?}");
    }
    let bound = PciFacts { exists: true, confined: true, driver: Some("vfio-pci".to_owned()) };
    assert_eq!(told(bound), None);
    let here = HostFacts::look(&parsed.rack);
    assert_eq!(here.functions.len(), 2, "both are looked for");
}
