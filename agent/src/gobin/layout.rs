//! Where the values that calls of the go command carry lie in memory, for each release of Go.

use super::version::{GoVersion, PreRelease};

/// Byte offsets in structs whose addresses are in registers at a probed function's entry or return; the same on amd64
/// and arm64. A string is its data pointer, then its length 8 bytes on.
///
/// Of all of these only the last two fields of [`UrlOffsets`] ever moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallLayout {
    /// `net/url.URL`, pointed to by `web.get`'s argument, by a request, by a module proxy's client.
    pub url: UrlOffsets,
    /// `Request.Method`, a string (`net/http/request.go`).
    pub request_method: u16,
    /// `Request.URL`, a pointer.
    pub request_url: u16,
    /// `Response.StatusCode`, an int (`net/http/response.go`).
    pub response_status_code: u16,
    /// `Response.StatusCode`, an int (`cmd/go/internal/web/api.go`).
    pub web_response_status_code: u16,
    /// `Action.Mode`, a string (`cmd/go/internal/work/action.go`).
    pub action_mode: u16,
    /// `Action.Package`, a pointer; nil for actions of no package.
    pub action_package: u16,
    /// `Package.ImportPath`, a string (`cmd/go/internal/load/pkg.go`).
    pub package_import_path: u16,
    /// `proxyRepo.url`, a pointer (`cmd/go/internal/modfetch/proxy.go`).
    pub proxy_repo_url: u16,
    /// `proxyRepo.path`, a string: the module's path, not escaped.
    pub proxy_repo_path: u16,
    /// `codeRepo.modPath`, a string (`cmd/go/internal/modfetch/coderepo.go`).
    pub code_repo_path: u16,
}

/// Byte offsets of strings in `net/url.URL` (`net/url/url.go`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UrlOffsets {
    /// `Scheme`.
    pub scheme: u16,
    /// `Host`, with the port.
    pub host: u16,
    /// `Path`, decoded.
    pub path: u16,
    /// `RawPath`, empty unless it differs from the default encoding of `Path`.
    pub raw_path: u16,
    /// `RawQuery`.
    pub raw_query: u16,
}

impl CallLayout {
    /// Layout for a version of Go, or none when it is not known. Measured from the DWARF of the go command that one late
    /// release of each minor version built; a test repeats that for the releases at hand. The candidates of 1.25 to 1.27
    /// were read in source.
    #[must_use]
    pub fn of_version(version: &GoVersion) -> Option<Self> {
        if version.major != 1 || matches!(version.pre_release, Some(PreRelease::Devel | PreRelease::Beta(_))) {
            return None;
        }
        let (raw_path, raw_query) = match version.minor {
            21..=25 => (72, 96),
            // Since 1.26 `Fragment` follows `Path`, and the two bools are last.
            26 | 27 => (104, 88),
            _ => return None,
        };
        Some(Self {
            url: UrlOffsets { scheme: 0, host: 40, path: 56, raw_path, raw_query },
            request_method: 0,
            request_url: 16,
            response_status_code: 16,
            web_response_status_code: 32,
            action_mode: 0,
            action_package: 16,
            package_import_path: 16,
            proxy_repo_url: 0,
            proxy_repo_path: 8,
            code_repo_path: 0,
        })
    }
}
