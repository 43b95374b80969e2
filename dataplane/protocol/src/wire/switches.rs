//! How machines declare their test-only switches: each breaks exactly one rule, so that a test can show that
//! breaking it is noticed (canaries). All are off, and without the feature `canary` nobody can turn one on.

/// Declares `Faults`, a flag for each switch, and a method of its name that asks for it. Without the feature
/// the flags are not there, and the methods are constants.
macro_rules! switches {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Which rules are broken on purpose.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Faults {
            $($(#[$doc])* #[cfg(any(test, feature = "canary"))] pub $name: bool,)*
        }
        impl Faults {
            $(
                $(#[$doc])*
                #[inline(always)]
                pub fn $name(&self) -> bool {
                    #[cfg(any(test, feature = "canary"))]
                    { self.$name }
                    #[cfg(not(any(test, feature = "canary")))]
                    { false }
                }
            )*
        }
    };
}

pub(crate) use switches;
