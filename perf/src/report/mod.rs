//! What a run leaves behind: a table for people, JSON, and latencies as `.hgrm`, `.hlog` and SVG.

pub mod hist;
pub mod progress;
pub mod summary;
pub mod svg;
pub mod timeline;
