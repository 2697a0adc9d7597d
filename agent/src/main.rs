//! `gobuild-trace`: shows where a Go build's time goes and why.

use std::process::ExitCode;

fn main() -> ExitCode {
    gobuild_trace::cli::main()
}
