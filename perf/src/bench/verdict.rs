//! Ratios held against the goals of DESIGN section 6.

use serde::Serialize;

/// A measured number beside its goal.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verdict {
    /// What was measured.
    pub what: String,
    /// The number.
    pub value: f64,
    /// The goal.
    pub goal: Goal,
    /// Whether it is met.
    pub met: bool,
}

/// A goal.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    /// At least.
    AtLeast(f64),
    /// At most.
    AtMost(f64),
}

/// All verdicts of a run.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(transparent)]
pub struct Verdicts {
    list: Vec<Verdict>,
}

impl Verdicts {
    /// Holds a number against its goal; numbers that were not measured (zero, infinite) are left out.
    pub fn add(&mut self, what: impl Into<String>, value: f64, goal: Goal) {
        if !value.is_finite() || value == 0.0 {
            return;
        }
        let met = match goal {
            Goal::AtLeast(goal) => value >= goal,
            Goal::AtMost(goal) => value <= goal,
        };
        self.list.push(Verdict { what: what.into(), value, goal, met });
    }

    /// The table.
    pub fn print(&self) {
        if self.list.is_empty() {
            return println!("no goal was measured");
        }
        println!("{:<62} {:>10} {:>10}", "goals of DESIGN section 6", "measured", "goal");
        for verdict in &self.list {
            let goal = match verdict.goal {
                Goal::AtLeast(goal) => format!(">= {goal}"),
                Goal::AtMost(goal) => format!("<= {goal}"),
            };
            let met = if verdict.met { "met" } else { "MISSED" };
            println!("{:<62} {:>10.2} {goal:>10}  {met}", verdict.what, verdict.value);
        }
        let met = self.list.iter().filter(|v| v.met).count();
        println!("{met} of {} goals met", self.list.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goals_are_met_at_their_bound_and_what_was_not_measured_is_left_out() {
        let mut verdicts = Verdicts::default();
        verdicts.add("a", 2.0, Goal::AtLeast(2.0));
        verdicts.add("b", 2.1, Goal::AtMost(2.0));
        verdicts.add("c", f64::NAN, Goal::AtMost(2.0));
        verdicts.add("d", 0.0, Goal::AtMost(2.0));
        let met: Vec<bool> = verdicts.list.iter().map(|v| v.met).collect();
        assert_eq!(met, [true, false]);
    }
}
