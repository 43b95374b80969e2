//! What happened in a run, line by line: printed as it happens, or kept for a readable trace.

use palisade_protocol::wire::Time;
use std::collections::VecDeque;

/// Most lines that are kept; older ones are forgotten.
const LINES_MAX: usize = 200_000;

/// Where lines go.
#[derive(Debug)]
pub enum Diary {
    /// To the standard output.
    Print,
    /// Here.
    Keep(VecDeque<(Time, String)>),
}

impl Diary {
    /// Takes a line.
    pub fn line(&mut self, now: Time, line: String) {
        match self {
            Self::Print => println!("{:>12} {line}", now.0),
            Self::Keep(lines) => {
                if lines.len() == LINES_MAX {
                    lines.pop_front();
                }
                lines.push_back((now, line));
            }
        }
    }
}
