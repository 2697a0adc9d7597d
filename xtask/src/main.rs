//! Set-up, tests, demo and packaging of gobuild-trace.

fn main() {}
