//! Exploring a model to its end, and saying what was found in words.
//!
//! A state remembers the first rule that a run broke; it is judged by the step that breaks it, since most
//! rules are about an order of events and not about a state. Nothing is explored beyond a broken rule.

use stateright::{Checker, HasDiscoveries, Model, Property};
use std::collections::BTreeSet;
use std::fmt::{Debug, Display};
use std::hash::Hash;

/// An invariant of DESIGN section 3, under its name there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rule {
    /// A write is acknowledged that is not durable on every member.
    AckedIsDurable,
    /// A read returns older data than was acknowledged, or than was read before.
    NewestWins,
    /// A column changes by a number lower than one granted for it, or for a generation that is over.
    OneWriter,
    /// A token leaves before its record is durable.
    FenceIsDurable,
    /// A write admitted under an old token lands after a newer grant.
    FenceDrains,
    /// A number is granted twice, to two heads, or falls.
    NumbersRise,
    /// Two proposals of one pair are granted, or one is answered in two ways (MA-05, P-02).
    OneWinner,
    /// A head acknowledges alone without leave.
    SoloByLeave,
    /// An extent is trusted with fewer good columns than its code needs.
    FullStripes,
    /// A head is refused for a number that is not above its own (P-22).
    NoFalseFence,
    /// Columns that nobody names stay, more with each take-over.
    Bounded,
    /// Faults stop, and nobody serves though one lives who holds everything and may lead.
    ServiceReturns,
}

impl Rule {
    /// Every rule.
    pub const ALL: [Self; 12] = [
        Self::AckedIsDurable,
        Self::NewestWins,
        Self::OneWriter,
        Self::FenceIsDurable,
        Self::FenceDrains,
        Self::NumbersRise,
        Self::OneWinner,
        Self::SoloByLeave,
        Self::FullStripes,
        Self::NoFalseFence,
        Self::Bounded,
        Self::ServiceReturns,
    ];

    /// The name in code, tests and documents.
    pub fn name(self) -> &'static str {
        match self {
            Self::AckedIsDurable => "AckedIsDurable",
            Self::NewestWins => "NewestWins",
            Self::OneWriter => "OneWriter",
            Self::FenceIsDurable => "FenceIsDurable",
            Self::FenceDrains => "FenceDrains",
            Self::NumbersRise => "NumbersRise",
            Self::OneWinner => "OneWinner",
            Self::SoloByLeave => "SoloByLeave",
            Self::FullStripes => "FullStripes",
            Self::NoFalseFence => "NoFalseFence",
            Self::Bounded => "Bounded",
            Self::ServiceReturns => "ServiceReturns",
        }
    }
}

/// A state that knows which rule the run to it broke.
pub trait Judged {
    /// The first broken rule.
    fn broken(&self) -> Option<Rule>;
}

fn keeps<M: Model<State: Judged>>(state: &M::State, rule: Rule) -> bool {
    state.broken() != Some(rule)
}

/// The properties of a model whose states are judged: each rule, under its name.
pub fn rules<M: Model<State: Judged>>() -> Vec<Property<M>> {
    vec![
        Property::always("AckedIsDurable", |_, state| keeps::<M>(state, Rule::AckedIsDurable)),
        Property::always("NewestWins", |_, state| keeps::<M>(state, Rule::NewestWins)),
        Property::always("OneWriter", |_, state| keeps::<M>(state, Rule::OneWriter)),
        Property::always("FenceIsDurable", |_, state| keeps::<M>(state, Rule::FenceIsDurable)),
        Property::always("FenceDrains", |_, state| keeps::<M>(state, Rule::FenceDrains)),
        Property::always("NumbersRise", |_, state| keeps::<M>(state, Rule::NumbersRise)),
        Property::always("OneWinner", |_, state| keeps::<M>(state, Rule::OneWinner)),
        Property::always("SoloByLeave", |_, state| keeps::<M>(state, Rule::SoloByLeave)),
        Property::always("FullStripes", |_, state| keeps::<M>(state, Rule::FullStripes)),
        Property::always("Bounded", |_, state| keeps::<M>(state, Rule::Bounded)),
        Property::always("NoFalseFence", |_, state| keeps::<M>(state, Rule::NoFalseFence)),
    ]
}

/// What an exploration came to.
#[derive(Clone, Debug)]
pub struct Explored {
    /// States that differ.
    pub states: usize,
    /// States reached, the same ones counted again.
    pub steps: usize,
    /// Length of the longest shortest run.
    pub depth: usize,
    /// Things that ought to happen in some run, and did.
    pub reached: BTreeSet<&'static str>,
    /// Broken rules, each with the shortest run to it, a line a step.
    pub broken: Vec<(&'static str, Vec<String>)>,
}

impl Explored {
    /// The broken rules and the runs to them, for people.
    pub fn tell(&self) -> String {
        let run = |(rule, lines): &(&str, Vec<String>)| {
            let steps = lines.iter().enumerate().map(|(at, line)| format!("  {:>2}. {line}\n", at + 1));
            format!("{rule} is broken:\n{}", steps.collect::<String>())
        };
        self.broken.iter().map(run).collect()
    }
}

/// Explores `model` to its end, or to the first broken rule.
pub fn explore<M>(model: M) -> Explored
where
    M: Model + Send + Sync + 'static,
    M::State: Judged + Clone + Debug + Hash + PartialEq + Send + Sync,
    M::Action: Display + Clone + Debug + PartialEq + Send + Sync,
{
    let checker = model.checker().finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let mut found = Explored {
        states: checker.unique_state_count(),
        steps: checker.state_count(),
        depth: checker.max_depth(),
        reached: BTreeSet::new(),
        broken: Vec::new(),
    };
    for (name, path) in checker.discoveries() {
        if Rule::ALL.iter().any(|rule| rule.name() == name) {
            found.broken.push((name, path.into_actions().iter().map(ToString::to_string).collect()));
        } else {
            found.reached.insert(name);
        }
    }
    found
}

/// Explores a whole model, asserts that no rule breaks, that at least `floor` states were looked at, and
/// that each of `reached` happened in some run, so that a model that does nothing fails.
pub fn must_hold<M>(what: &str, model: M, floor: usize, reached: &[&str])
where
    M: Model + Send + Sync + 'static,
    M::State: Judged + Clone + Debug + Hash + PartialEq + Send + Sync,
    M::Action: Display + Clone + Debug + PartialEq + Send + Sync,
{
    let found = explore(model);
    println!("{what}: {} states, {} steps, longest run {}", found.states, found.steps, found.depth);
    assert!(found.broken.is_empty(), "{what}: {}", found.tell());
    assert!(found.states >= floor, "{what}: only {} states, {floor} expected", found.states);
    for name in reached {
        assert!(found.reached.contains(name), "{what}: no run in which {name}; {:?}", found.reached);
    }
}

/// Explores a model with a broken rule and asserts that one of `rules` is found broken; prints the run.
pub fn must_break<M>(what: &str, model: M, rules: &[Rule])
where
    M: Model + Send + Sync + 'static,
    M::State: Judged + Clone + Debug + Hash + PartialEq + Send + Sync,
    M::Action: Display + Clone + Debug + PartialEq + Send + Sync,
{
    let found = explore(model);
    println!("{what}, found after {} states: {}", found.states, found.tell());
    let named = |rule: &Rule| found.broken.iter().any(|(name, _)| *name == rule.name());
    assert!(rules.iter().any(named), "{what} is not caught by {rules:?} in {} states", found.states);
}
