//! Values of the closed lists in the few words that a reader gets to see.

use crate::build::{Build, ErrorType, FetchKind, RebuildReason};

/// As in the JSON; the checksum database's kinds say whose they are.
pub fn fetch_kind(kind: FetchKind) -> &'static str {
    match kind {
        FetchKind::List => "list",
        FetchKind::Latest => "latest",
        FetchKind::Info => "info",
        FetchKind::Mod => "mod",
        FetchKind::Zip => "zip",
        FetchKind::GoGet => "go-get",
        FetchKind::Vcs => "vcs",
        FetchKind::Supported => "sumdb supported",
        FetchKind::Lookup => "sumdb lookup",
        FetchKind::Tile => "sumdb tile",
    }
}

/// The status where there is one, the word in plain English otherwise.
pub fn error_type(error: ErrorType) -> &'static str {
    match error {
        ErrorType::HostNotFound => "host not found",
        ErrorType::TryAgain => "name server failed",
        ErrorType::TimedOut => "timed out",
        ErrorType::ConnectionRefused => "refused",
        ErrorType::NetworkUnreachable => "network unreachable",
        ErrorType::HostUnreachable => "host unreachable",
        ErrorType::Reset => "reset",
        ErrorType::TlsHandshake => "TLS handshake",
        ErrorType::Certificate => "certificate",
        ErrorType::Http401 => "401",
        ErrorType::Http403 => "403",
        ErrorType::Http404 => "404",
        ErrorType::Http410 => "410",
        ErrorType::Http429 => "429",
        ErrorType::Http4xx => "4xx",
        ErrorType::Http500 => "500",
        ErrorType::Http502 => "502",
        ErrorType::Http503 => "503",
        ErrorType::Http504 => "504",
        ErrorType::Http5xx => "5xx",
        ErrorType::Checksum => "checksum",
        ErrorType::Vcs => "vcs",
        ErrorType::FileSystem => "file system",
        ErrorType::Cancelled => "cancelled",
        ErrorType::Other => "other",
    }
}

/// What holds for a package that was compiled, after a number of them.
pub fn rebuild_reason(reason: RebuildReason) -> &'static str {
    match reason {
        RebuildReason::NeverBuilt => "never built here",
        RebuildReason::InputsChanged => "had changed inputs",
        RebuildReason::ToolchainChanged => "had another Go before",
        RebuildReason::Trimmed => "no longer in the cache",
        RebuildReason::OutputMissing => "without their output in the cache",
        RebuildReason::CacheUnwritable => "could not be stored before",
        RebuildReason::Forced => "forced by -a",
    }
}

/// What fetched without a proxy: git is nearly always meant, and only the tools know of another.
pub fn version_control(build: &Build) -> &'static str {
    let other = |tool: &str| matches!(tool, "hg" | "svn" | "bzr" | "fossil");
    if build.tools.iter().any(|run| other(&run.tool)) { "version control" } else { "git" }
}
