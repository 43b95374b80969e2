//! `palisade bind` and `palisade unbind`: an NVMe controller from the kernel's driver to programs of this host, and
//! back. What is in use is left where it is.

use palisade_control::cli::{self, BindArgs};
use palisade_runtime::block::nvme::{BindError, Host, Plan};

/// Carries out `bind`; its exit code.
pub fn bind(args: &BindArgs) -> u8 {
    let host = Host::default();
    ended(host.plan_bind(&args.address).and_then(|plan| go(&host, &plan, args.dry_run)))
}

/// Carries out `unbind`; its exit code.
pub fn unbind(args: &BindArgs) -> u8 {
    let host = Host::default();
    ended(host.plan_unbind(&args.address).and_then(|plan| go(&host, &plan, args.dry_run)))
}

fn ended(result: Result<(), BindError>) -> u8 {
    match result {
        Ok(()) => 0,
        Err(error) => {
            cli::complain(&error.to_string());
            1
        }
    }
}

fn go(host: &Host, plan: &Plan, dry_run: bool) -> Result<(), BindError> {
    let address = &plan.address;
    if plan.steps.is_empty() {
        cli::say(&format!("{address} is with {} already", plan.from.as_deref().unwrap_or("no driver")));
        return Ok(());
    }
    if !plan.disks.is_empty() {
        cli::say(&format!("{address} has {}, which the kernel gives up", plan.disks.join(", ")));
    }
    if dry_run {
        for step in &plan.steps {
            cli::say(&step.to_string());
        }
        return Ok(());
    }
    let driver = host.carry_out(plan, &mut |path, text| std::fs::write(path, text))?;
    cli::say(&match (driver, plan.group) {
        (Some(driver), Some(group)) if plan.is_bind() => {
            format!("{address} is with {driver} now (/dev/vfio/{group})")
        }
        (Some(driver), _) => format!("{address} is with {driver} now"),
        (None, _) => format!("{address} is with no driver now; `modprobe nvme` makes it a disk again"),
    });
    Ok(())
}
