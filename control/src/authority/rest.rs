//! How often a head that was left out is taken back (MA-20): one that falls out again soon waits twice as long each
//! time, since what cuts it off from its peers need not cut it off from control. A boot of its own waits for
//! nothing. Times are what passed since any fixed moment; remembered only while control runs.

use std::collections::BTreeMap;
use std::time::Duration;

use palisade_protocol::wire::NodeId;

/// Before a head that was taken back may be taken back again, at first and at most.
const REST_MIN: Duration = Duration::from_secs(1);
const REST_MAX: Duration = Duration::from_secs(60);

/// Until when a head that was taken back is not taken back again.
#[derive(Clone, Copy, Debug)]
struct Rest {
    over: Duration,
    span: Duration,
}

/// The rests of all heads.
#[derive(Clone, Debug, Default)]
pub struct Rests(BTreeMap<u32, Rest>);

impl Rests {
    /// Whether a head is not taken back yet.
    pub fn rests(&self, head: NodeId, now: Duration) -> bool {
        self.0.get(&head.0).is_some_and(|rest| now < rest.over)
    }

    /// It was taken back.
    pub fn taken_back(&mut self, head: NodeId, now: Duration) {
        let soon = self.0.get(&head.0).filter(|rest| now < rest.over + REST_MAX);
        let span = soon.map_or(REST_MIN, |rest| (rest.span * 2).min(REST_MAX));
        self.0.insert(head.0, Rest { over: now + span, span });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ma20_rests_double_while_a_head_keeps_falling_out_and_begin_anew_after_a_good_while() {
        let (head, second) = (NodeId(1), Duration::from_secs(1));
        let (mut rests, mut now) = (Rests::default(), Duration::ZERO);
        assert!(!rests.rests(head, now), "the first time it need not wait");
        for span in [1, 2, 4, 8, 16, 32, 60, 60] {
            rests.taken_back(head, now);
            assert!(rests.rests(head, now + second * span - Duration::from_nanos(1)), "{span}");
            assert!(!rests.rests(NodeId(2), now), "others do not wait");
            now += second * span;
            assert!(!rests.rests(head, now), "{span}");
        }
        now += REST_MAX;
        rests.taken_back(head, now);
        assert!(!rests.rests(head, now + REST_MIN), "it was well for long");
    }
}
