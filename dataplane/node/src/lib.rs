//! Wires machines to drivers.
