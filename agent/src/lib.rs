//! The library behind `gobuild-trace`.
