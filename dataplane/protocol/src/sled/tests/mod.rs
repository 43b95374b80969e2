//! Tests of the sled machine on a device in memory.
