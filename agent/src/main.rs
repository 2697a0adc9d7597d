//! `gobuild-trace`.

fn main() {}
