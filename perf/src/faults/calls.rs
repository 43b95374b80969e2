//! How long calls to control take while the reactors are saturated (issue 3, item 13: within 100 ms).

use super::rack::Shape;
use super::scene::Scene;
use super::{FaultArgs, Trouble};
use serde::Serialize;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Requests in flight of each of the two clients meanwhile.
const DEPTH: u32 = 128;
/// Calls of each kind.
const CALLS: usize = 40;
/// Calls of each kind that moves a role.
const MOVES: usize = 6;
/// Between two calls.
const BETWEEN: Duration = Duration::from_millis(25);

/// One kind of call.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Call {
    /// The method.
    pub method: String,
    /// Calls.
    pub count: usize,
    /// Median of their times, in milliseconds.
    pub median_ms: f64,
    /// The slowest, in milliseconds.
    pub worst_ms: f64,
}

fn call(method: &str, mut times: Vec<f64>) -> Call {
    times.sort_by(f64::total_cmp);
    let median_ms = crate::bench::median(times.clone());
    let worst_ms = times.last().copied().unwrap_or(0.0);
    Call { method: method.to_owned(), count: times.len(), median_ms, worst_ms }
}

/// Times calls on a rack whose clients keep all they may in flight.
pub(super) fn measure(args: &FaultArgs) -> Result<Vec<Call>, Trouble> {
    let args = FaultArgs { depth: DEPTH, ..args.clone() };
    let scene = Scene::set(Shape::default(), &args)?;
    let mut all = Vec::new();
    let time = |method: &str, params: &Value| -> Result<f64, Trouble> {
        let begin = Instant::now();
        scene.rack.call(method, params)?;
        let took = begin.elapsed().as_secs_f64() * 1e3;
        std::thread::sleep(BETWEEN);
        Ok(took)
    };
    for method in ["rack.status", "events", "volume.list", "device.list"] {
        let times: Result<Vec<f64>, Trouble> = (0..CALLS).map(|_| time(method, &json!({}))).collect();
        all.push(call(method, times?));
    }
    let (mut drains, mut resumes) = (Vec::new(), Vec::new());
    for _ in 0..MOVES {
        let [primary, _] = scene.rack.whole()?;
        let name = json!({ "name": primary });
        drains.push(time("head.drain", &name)?);
        scene.rack.taken_over(&primary)?;
        resumes.push(time("head.resume", &name)?);
    }
    all.extend([call("head.drain", drains), call("head.resume", resumes)]);
    scene.rack.whole()?;
    let (both, ..) = scene.finish()?;
    let bad = both.sum(|outcome| outcome.errors + outcome.wrong_count);
    if bad > 0 {
        return Err(Trouble::Failed(format!(
            "{bad} errors or wrong blocks meanwhile: {:?}",
            both.findings()
        )));
    }
    Ok(all)
}
