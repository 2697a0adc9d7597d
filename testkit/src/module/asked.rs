//! What a request asks for, from its path.

use serde::{Deserialize, Serialize};

use super::unescape;

/// What a request asks a proxy or a checksum database for. In JSON a flat object with `kind`, the word that the
/// product's reports use for it, and `module` and `version` where the request names them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Asked {
    /// A file of a module.
    Module(ModuleFile),
    /// A file of a checksum database.
    Sumdb(SumdbFile),
    /// Something of a git server.
    Git(GitRequest),
    /// Anything else; `kind` is `other`.
    Other(Other),
}

/// A file of the GOPROXY protocol; paths and versions are unescaped.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum ModuleFile {
    /// `@v/list`.
    List {
        /// Module path.
        module: String,
    },
    /// `@latest`.
    Latest {
        /// Module path.
        module: String,
    },
    /// `@v/VERSION.info`; the version may be a branch or a commit.
    Info {
        /// Module path.
        module: String,
        /// Version or query.
        version: String,
    },
    /// `@v/VERSION.mod`.
    Mod {
        /// Module path.
        module: String,
        /// Version.
        version: String,
    },
    /// `@v/VERSION.zip`.
    Zip {
        /// Module path.
        module: String,
        /// Version.
        version: String,
    },
}

/// A file of a checksum database.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum SumdbFile {
    /// `/sumdb/NAME/supported`: does this proxy pass requests on to the database?
    Supported,
    /// `/lookup/MODULE@VERSION`.
    Lookup {
        /// Module path.
        module: String,
        /// Version.
        version: String,
    },
    /// `/tile/H/L/K[.p/W]`.
    Tile {
        /// What follows `/tile/`.
        tile: String,
    },
    /// `/latest`, the signed tree head.
    #[serde(rename = "tree")]
    Latest,
}

/// A request to a git server. `module` is the module whose repository it is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum GitRequest {
    /// `?go-get=1`: where is the repository of this import path?
    GoGet {
        /// Module path.
        module: String,
    },
    /// `info/refs?service=git-upload-pack`, the start of every exchange.
    InfoRefs {
        /// Module path.
        module: String,
    },
    /// `git-upload-pack`: the references, or objects.
    UploadPack {
        /// Module path.
        module: String,
    },
}

/// The marker of [`Asked::Other`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename = "other")]
pub struct Other {}

impl Asked {
    /// Reads a request path with percent escapes resolved. `sumdb` is the name of the database whose
    /// `/sumdb/NAME/…` and root paths count as such; another database's are [`Asked::Other`].
    pub fn parse(path: &str, sumdb: Option<&str>) -> Self {
        let Some(rest) = path.strip_prefix('/') else {
            return Self::Other(Other {});
        };
        if let Some(name) = sumdb {
            let below = rest
                .strip_prefix("sumdb/")
                .and_then(|rest| rest.strip_prefix(name))
                .and_then(|rest| rest.strip_prefix('/'));
            if let Some(file) = sumdb_file(below.unwrap_or(rest)) {
                return Self::Sumdb(file);
            }
        }
        match module_file(rest) {
            Some(file) => Self::Module(file),
            None => Self::Other(Other {}),
        }
    }

    /// `list`, `latest`, `info`, `mod`, `zip`, `supported`, `lookup`, `tile`, `tree`, `go-get`, `info-refs`,
    /// `upload-pack` or `other`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Module(ModuleFile::List { .. }) => "list",
            Self::Module(ModuleFile::Latest { .. }) => "latest",
            Self::Module(ModuleFile::Info { .. }) => "info",
            Self::Module(ModuleFile::Mod { .. }) => "mod",
            Self::Module(ModuleFile::Zip { .. }) => "zip",
            Self::Sumdb(SumdbFile::Supported) => "supported",
            Self::Sumdb(SumdbFile::Lookup { .. }) => "lookup",
            Self::Sumdb(SumdbFile::Tile { .. }) => "tile",
            Self::Sumdb(SumdbFile::Latest) => "tree",
            Self::Git(GitRequest::GoGet { .. }) => "go-get",
            Self::Git(GitRequest::InfoRefs { .. }) => "info-refs",
            Self::Git(GitRequest::UploadPack { .. }) => "upload-pack",
            Self::Other(_) => "other",
        }
    }

    /// The module path that the request names.
    pub fn module(&self) -> Option<&str> {
        match self {
            Self::Module(
                ModuleFile::List { module }
                | ModuleFile::Latest { module }
                | ModuleFile::Info { module, .. }
                | ModuleFile::Mod { module, .. }
                | ModuleFile::Zip { module, .. },
            )
            | Self::Sumdb(SumdbFile::Lookup { module, .. })
            | Self::Git(
                GitRequest::GoGet { module } | GitRequest::InfoRefs { module } | GitRequest::UploadPack { module },
            ) => Some(module),
            Self::Sumdb(SumdbFile::Supported | SumdbFile::Tile { .. } | SumdbFile::Latest) | Self::Other(_) => None,
        }
    }

    /// The version that the request names.
    pub fn version(&self) -> Option<&str> {
        match self {
            Self::Module(
                ModuleFile::Info { version, .. } | ModuleFile::Mod { version, .. } | ModuleFile::Zip { version, .. },
            )
            | Self::Sumdb(SumdbFile::Lookup { version, .. }) => Some(version),
            Self::Module(ModuleFile::List { .. } | ModuleFile::Latest { .. })
            | Self::Sumdb(SumdbFile::Supported | SumdbFile::Tile { .. } | SumdbFile::Latest)
            | Self::Git(_)
            | Self::Other(_) => None,
        }
    }
}

fn sumdb_file(path: &str) -> Option<SumdbFile> {
    if path == "supported" {
        return Some(SumdbFile::Supported);
    }
    if path == "latest" {
        return Some(SumdbFile::Latest);
    }
    if let Some(tile) = path.strip_prefix("tile/") {
        return Some(SumdbFile::Tile { tile: tile.to_owned() });
    }
    let (module, version) = path.strip_prefix("lookup/")?.split_once('@')?;
    Some(SumdbFile::Lookup { module: unescape(module)?, version: unescape(version)? })
}

fn module_file(path: &str) -> Option<ModuleFile> {
    if let Some(module) = path.strip_suffix("/@latest") {
        return Some(ModuleFile::Latest { module: module_path(module)? });
    }
    let (module, file) = path.split_once("/@v/")?;
    let module = module_path(module)?;
    if file == "list" {
        return Some(ModuleFile::List { module });
    }
    let (version, extension) = file.rsplit_once('.')?;
    let version = unescape(version).filter(|version| is_plain(version))?;
    match extension {
        "info" => Some(ModuleFile::Info { module, version }),
        "mod" => Some(ModuleFile::Mod { module, version }),
        "zip" => Some(ModuleFile::Zip { module, version }),
        _ => None,
    }
}

fn module_path(escaped: &str) -> Option<String> {
    unescape(escaped).filter(|path| is_plain(path))
}

/// Whether a path stays below the folder it is joined to.
fn is_plain(path: &str) -> bool {
    !path.contains(['\\', '\0']) && path.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

#[cfg(test)]
mod tests {
    use super::{Asked, GitRequest, ModuleFile, Other, SumdbFile};

    #[test]
    fn every_file_of_the_protocol_is_recognised() {
        let kinds = [
            ("/example.test/!mixed/m/@v/list", "list"),
            ("/example.test/!mixed/m/@latest", "latest"),
            ("/example.test/!mixed/m/@v/v1.2.3.info", "info"),
            ("/example.test/!mixed/m/@v/v1.2.3.mod", "mod"),
            ("/example.test/!mixed/m/@v/v1.2.3-!r!c1.zip", "zip"),
            ("/sumdb/sum.test/supported", "supported"),
            ("/sumdb/sum.test/lookup/example.test/m@v1.0.0", "lookup"),
            ("/sumdb/sum.test/tile/8/0/000.p/7", "tile"),
            ("/latest", "tree"),
            ("/lookup/example.test/m@v1.0.0", "lookup"),
            ("/sumdb/other.test/supported", "other"),
            ("/", "other"),
            ("", "other"),
        ];
        for (path, kind) in kinds {
            assert_eq!(Asked::parse(path, Some("sum.test")).kind(), kind, "{path}");
        }
        let zip = Asked::parse("/example.test/!mixed/m/@v/v1.2.3-!r!c1.zip", None);
        assert_eq!(zip.module(), Some("example.test/Mixed/m"));
        assert_eq!(zip.version(), Some("v1.2.3-RC1"));
    }

    #[test]
    fn paths_that_leave_the_folder_are_not_module_files() {
        for path in ["/../@v/list", "/a/../../b/@v/list", "/a//b/@v/list", "/a/@v/../../x.mod", "/a/@v/..mod"] {
            assert_eq!(Asked::parse(path, None), Asked::Other(Other {}), "{path}");
        }
    }

    #[test]
    fn json_is_flat_and_comes_back() {
        let all = [
            Asked::Module(ModuleFile::Latest { module: "m".into() }),
            Asked::Module(ModuleFile::Zip { module: "m".into(), version: "v1.0.0".into() }),
            Asked::Sumdb(SumdbFile::Supported),
            Asked::Sumdb(SumdbFile::Lookup { module: "m".into(), version: "v1.0.0".into() }),
            Asked::Git(GitRequest::GoGet { module: "m".into() }),
            Asked::Git(GitRequest::InfoRefs { module: "m".into() }),
            Asked::Git(GitRequest::UploadPack { module: "m".into() }),
            Asked::Other(Other {}),
        ];
        for asked in all {
            let json = serde_json::to_value(&asked).unwrap();
            assert_eq!(json["kind"], asked.kind());
            assert_eq!(serde_json::from_value::<Asked>(json).unwrap(), asked);
        }
    }
}
