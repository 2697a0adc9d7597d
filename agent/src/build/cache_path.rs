//! The grammar of paths in the module cache and the build cache.
//!
//! Source: cmd/go/internal/modfetch/cache.go (`CachePath`, `tempFile`), cmd/go/internal/cache/cache.go (`fileName`);
//! equal in Go 1.21 to 1.27.

use super::types::FileKind;

/// What a path in a cache is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CachePath {
    /// `$GOMODCACHE/cache/download/<module>/@v/<version>.<ext>`.
    Module {
        /// Which module version.
        module: ModuleVersion,
        /// Which of its files.
        file: ModuleFile,
    },
    /// `$GOMODCACHE/<module>@<version>`, the unpacked tree itself.
    Tree(ModuleVersion),
    /// A file in the checksum database's cache.
    Sumdb {
        /// Name of the database.
        database: String,
        /// What of it.
        record: SumdbRecord,
    },
    /// `$GOCACHE/xx/<hash>-a` or `-d`.
    Build(BuildCacheEntry),
}

/// A module path and version, unescaped.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModuleVersion {
    /// Module path.
    pub path: String,
    /// Version.
    pub version: String,
}

/// A file of a module version in `cache/download`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ModuleFile {
    /// `.info`, `.mod`, `.zip`.
    Final(FileKind),
    /// The same while it is being written: `.zip123456.tmp`.
    Temporary(FileKind),
    /// `.ziphash`.
    ZipHash,
    /// `.lock`.
    Lock,
    /// `.partial`: exists while the zip is being unpacked.
    Partial,
}

/// A record of the checksum database's cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SumdbRecord {
    /// `lookup/<module>@<version>`.
    Lookup(ModuleVersion),
    /// `tile/H/L/K[.p/W]`.
    Tile(String),
}

/// An entry of the build cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BuildCacheEntry {
    /// SHA-256 in the file name.
    pub hash: [u8; 32],
    /// `-a` (what an action made) or `-d` (the content).
    pub kind: EntryKind,
}

/// Suffix of a build cache file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EntryKind {
    /// `-a`.
    Action,
    /// `-d`.
    Output,
}

const DOWNLOAD: &str = "/cache/download/";

impl CachePath {
    /// Reads a path; `module_cache` is GOMODCACHE where it is known, without which trees are not recognised.
    pub fn parse(path: &str, module_cache: Option<&str>) -> Option<Self> {
        if let Some(entry) = BuildCacheEntry::parse(path) {
            return Some(Self::Build(entry));
        }
        if let Some(at) = path.find(DOWNLOAD) {
            return Self::parse_download(&path[at + DOWNLOAD.len()..]);
        }
        let below = path.strip_prefix(module_cache?)?.strip_prefix('/')?;
        if below.starts_with("cache/") {
            return None;
        }
        ModuleVersion::parse_at(below).map(Self::Tree)
    }

    fn parse_download(below: &str) -> Option<Self> {
        if let Some(sumdb) = below.strip_prefix("sumdb/") {
            let (database, rest) = sumdb.split_once('/')?;
            let record = match rest.split_once('/')? {
                ("lookup", module) => SumdbRecord::Lookup(ModuleVersion::parse_at(module)?),
                ("tile", tile) => SumdbRecord::Tile(tile.to_owned()),
                _ => return None,
            };
            return Some(Self::Sumdb { database: database.to_owned(), record });
        }
        let (module, name) = below.rsplit_once("/@v/")?;
        let (version, file) = ModuleFile::parse(name)?;
        Some(Self::Module { module: ModuleVersion { path: unescape(module)?, version: unescape(version)? }, file })
    }
}

/// GOMODCACHE, from a path below its `cache/download`.
pub fn module_cache_root(path: &str) -> Option<&str> {
    path.find(DOWNLOAD).map(|at| &path[..at])
}

/// The module version whose unpacked tree a path lies in, and the rest of the path.
pub fn tree_member<'a>(path: &'a str, module_cache: &str) -> Option<(ModuleVersion, &'a str)> {
    let below = path.strip_prefix(module_cache)?.strip_prefix('/')?;
    let at = below.find('@')?;
    let end = below[at..].find('/').map_or(below.len(), |slash| at + slash);
    Some((ModuleVersion::parse_at(&below[..end])?, below[end..].trim_start_matches('/')))
}

impl ModuleVersion {
    /// `<escaped module>@<escaped version>` with nothing behind it.
    fn parse_at(text: &str) -> Option<Self> {
        let (path, version) = text.split_once('@')?;
        let plausible = !path.is_empty() && version.starts_with('v') && !version.contains('/');
        plausible.then_some(())?;
        Some(Self { path: unescape(path)?, version: unescape(version)? })
    }
}

impl ModuleFile {
    /// Splits a name in `@v/` into version and file.
    fn parse(name: &str) -> Option<(&str, Self)> {
        if let Some(stem) = name.strip_suffix(".tmp") {
            // The digits follow the suffix directly, so parse from the right (modfetch `tempFile`).
            let stem = stem.trim_end_matches(|c: char| c.is_ascii_digit());
            let (version, kind) = Self::kind(stem)?;
            return Some((version, Self::Temporary(kind)));
        }
        if let Some((version, kind)) = Self::kind(name) {
            return Some((version, Self::Final(kind)));
        }
        let (version, extension) = name.rsplit_once('.')?;
        let file = match extension {
            "ziphash" => Self::ZipHash,
            "lock" => Self::Lock,
            "partial" => Self::Partial,
            _ => return None,
        };
        Some((version, file))
    }

    fn kind(name: &str) -> Option<(&str, FileKind)> {
        let (version, extension) = name.rsplit_once('.')?;
        let kind = match extension {
            "info" => FileKind::Info,
            "mod" => FileKind::Mod,
            "zip" => FileKind::Zip,
            _ => return None,
        };
        Some((version, kind))
    }
}

impl BuildCacheEntry {
    /// Reads `…/xx/<64 hex>-(a|d)` where `xx` begins the hash.
    pub fn parse(path: &str) -> Option<Self> {
        let (directory, name) = path.rsplit_once('/')?;
        let (hex, kind) = match name.split_at_checked(64)? {
            (hex, "-a") => (hex, EntryKind::Action),
            (hex, "-d") => (hex, EntryKind::Output),
            _ => return None,
        };
        if !directory.ends_with(hex.get(..2)?) {
            return None;
        }
        let mut hash = [0; 32];
        for (byte, pair) in hash.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
            *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
        }
        Some(Self { hash, kind })
    }

    /// GOCACHE, from the path of an entry.
    pub fn root(path: &str) -> Option<&str> {
        path.rsplitn(3, '/').nth(2)
    }
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

/// Undoes the escaping of upper-case letters (`!x` is `X`; golang.org/x/mod/module, `EscapePath`).
pub fn unescape(escaped: &str) -> Option<String> {
    let mut plain = String::with_capacity(escaped.len());
    let mut letters = escaped.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '!' => {
                let lower = letters.next().filter(char::is_ascii_lowercase)?;
                plain.push(lower.to_ascii_uppercase());
            }
            'A'..='Z' => return None,
            other => plain.push(other),
        }
    }
    Some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(path: &str, version: &str) -> ModuleVersion {
        ModuleVersion { path: path.to_owned(), version: version.to_owned() }
    }

    #[test]
    fn module_files() {
        let parse = |path| CachePath::parse(path, Some("/mc"));
        assert_eq!(
            parse("/mc/cache/download/github.com/!foo!corp/x/@v/v1.2.3-!r!c1.zip372354186.tmp"),
            Some(CachePath::Module {
                module: version("github.com/FooCorp/x", "v1.2.3-RC1"),
                file: ModuleFile::Temporary(FileKind::Zip)
            })
        );
        assert_eq!(
            parse("/mc/cache/download/example.com/b/@v/v1.2.3.ziphash"),
            Some(CachePath::Module { module: version("example.com/b", "v1.2.3"), file: ModuleFile::ZipHash })
        );
        assert_eq!(parse("/mc/cache/download/example.com/b/@v/list"), None);
        assert_eq!(parse("/mc/example.com/b@v1.2.3"), Some(CachePath::Tree(version("example.com/b", "v1.2.3"))));
        assert_eq!(parse("/mc/example.com/b@v1.2.3/b.go"), None);
        assert_eq!(
            parse("/mc/cache/download/sumdb/sum.example/lookup/example.com/b@v1.2.3"),
            Some(CachePath::Sumdb {
                database: "sum.example".to_owned(),
                record: SumdbRecord::Lookup(version("example.com/b", "v1.2.3"))
            })
        );
    }

    #[test]
    fn tree_members_name_the_package_directory() {
        assert_eq!(
            tree_member("/mc/github.com/!a/b@v1.0.0/c/d.go", "/mc"),
            Some((version("github.com/A/b", "v1.0.0"), "c/d.go"))
        );
        assert_eq!(tree_member("/elsewhere/b@v1.0.0/d.go", "/mc"), None);
    }

    #[test]
    fn build_cache_entries() {
        let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let path = format!("/gc/e3/{hex}-d");
        let entry = BuildCacheEntry::parse(&path).expect("a cache path");
        assert_eq!((entry.hash[0], entry.hash[31], entry.kind), (0xe3, 0x55, EntryKind::Output));
        assert_eq!(BuildCacheEntry::root(&path), Some("/gc"));
        assert_eq!(BuildCacheEntry::parse(&format!("/gc/e4/{hex}-d")), None);
        assert_eq!(BuildCacheEntry::parse("/gc/e3/é"), None);
    }

    #[test]
    fn unescape_refuses_what_escape_never_makes() {
        assert_eq!(unescape("a!bc"), Some("aBc".to_owned()));
        assert_eq!(unescape("aB"), None);
        assert_eq!(unescape("a!"), None);
        assert_eq!(unescape("a!!b"), None);
    }
}
