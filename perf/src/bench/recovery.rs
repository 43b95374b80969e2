//! Goals of DESIGN section 6 that only a rack of processes under load can show: the pause when a head is killed, and
//! the rebuild of a lost device.

use super::skip;
use super::verdict::{Goal, Verdicts};
use crate::faults::{killed_primaries, rebuild};

/// The pause of clients when their head is killed, `kills` times.
pub(super) fn failover(kills: u32, verdicts: &mut Verdicts) {
    for row in killed_primaries(kills) {
        if !row.trouble.is_empty() {
            skip(&row.name, &row.trouble);
            continue;
        }
        let worst = |of: fn(&crate::faults::Pause) -> f64| row.pauses.iter().map(of).fold(0.0, f64::max);
        let name = |what: &str| format!("{}: worst pause of {what} in {kills} kills, ms", row.name);
        verdicts.add(name("reads"), worst(|pause| pause.read_ms), Goal::AtMost(300.0));
        verdicts.add(name("writes"), worst(|pause| pause.write_ms), Goal::AtMost(300.0));
        if row.errors + row.wrong > 0 {
            println!("{}: {} errors, {} wrong blocks: {:?}", row.name, row.errors, row.wrong, row.findings);
        }
    }
}

/// A device is lost under load.
pub(super) fn rebuild(verdicts: &mut Verdicts) {
    let found = match rebuild::measure() {
        Ok(found) => found,
        Err(why) => return skip("rebuild", why),
    };
    println!(
        "rebuild: {:.1} MiB of clients in {:.1} s; {:.1} MiB/s of columns written, {:.1} MiB/s read and written; the disk \
         below takes {:.1} MiB/s from one writer",
        found.bytes as f64 / f64::from(1 << 20),
        found.took_s,
        found.mib_s,
        found.moved_mib_s(),
        found.device_mib_s
    );
    let ratio = found.moved_mib_s() / found.device_mib_s;
    verdicts.add("rebuild, read and written / what the disk takes", ratio, Goal::AtLeast(0.8));
    for (what, [calm, meanwhile]) in [("reads", found.read_p99_us), ("writes", found.write_p99_us)] {
        println!("rebuild: 99 % of {what} within {calm:.0} us before, {meanwhile:.0} us meanwhile");
        verdicts.add(format!("p99 of {what} during a rebuild / before"), meanwhile / calm, Goal::AtMost(2.0));
    }
}
