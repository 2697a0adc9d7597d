//! Where a proxy's module files come from.

use std::{fs, io, path::Path, path::PathBuf, sync::Arc};

use anyhow::{Context, Result};
use bytes::Bytes;
use semver::Version;

use super::{
    ModuleFile, ModuleSet,
    dirhash::{hash_go_mod, hash_zip},
    escape,
};

/// A place that module files come from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A folder in the layout of a module cache's `cache/download`. Lists and `@latest` are made from the files that
    /// are there: the cache's own `list` may be older than they are.
    Folder(PathBuf),
    /// Generated modules.
    Generated(Arc<ModuleSet>),
}

impl From<Arc<ModuleSet>> for Source {
    fn from(modules: Arc<ModuleSet>) -> Self {
        Self::Generated(modules)
    }
}

impl From<PathBuf> for Source {
    fn from(folder: PathBuf) -> Self {
        Self::Folder(folder)
    }
}

impl From<&Path> for Source {
    fn from(folder: &Path) -> Self {
        Self::Folder(folder.to_owned())
    }
}

/// The `h1:` hashes of those files of a module version that a source has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sums {
    pub zip: Option<String>,
    pub go_mod: Option<String>,
}

impl Source {
    /// The bytes of `file`, `None` when this source does not have it. Blocks on I/O.
    pub fn read(&self, file: &ModuleFile) -> Result<Option<Bytes>> {
        match self {
            Self::Folder(folder) => read_folder(folder, file),
            Self::Generated(set) => Ok(read_generated(set, file)),
        }
    }

    /// Path and version of every module that this source has the zip of, the versions of a module in their order. Blocks
    /// on I/O.
    pub(crate) fn versions(&self) -> Result<Vec<(String, String)>> {
        let mut versions = match self {
            Self::Folder(folder) => {
                let mut found = Vec::new();
                zips_below(folder, "", &mut found)?;
                found
            }
            Self::Generated(set) => {
                set.modules().iter().map(|module| (module.path.clone(), module.version.clone())).collect()
            }
        };
        versions.sort_by_cached_key(|(module, version)| (module.clone(), parse(version)));
        Ok(versions)
    }

    /// Hashes of a module version, `None` when this source has neither its zip nor its go.mod. Blocks on I/O.
    pub(crate) fn sums(&self, module: &str, version: &str) -> Result<Option<Sums>> {
        match self {
            Self::Folder(folder) => folder_sums(folder, module, version),
            Self::Generated(set) => Ok(set
                .get(module, version)
                .map(|module| Sums { zip: Some(module.zip_hash.clone()), go_mod: Some(module.go_mod_hash.clone()) })),
        }
    }
}

fn read_generated(set: &ModuleSet, file: &ModuleFile) -> Option<Bytes> {
    match file {
        ModuleFile::List { module } => {
            let versions: Vec<_> = versions(set, module);
            (!versions.is_empty()).then(|| lines(&versions).into())
        }
        ModuleFile::Latest { module } => {
            let version = latest(versions(set, module))?;
            set.get(module, &version).map(|module| module.info.clone())
        }
        ModuleFile::Info { module, version } => set.get(module, version).map(|module| module.info.clone()),
        ModuleFile::Mod { module, version } => set.get(module, version).map(|module| module.go_mod.clone()),
        ModuleFile::Zip { module, version } => set.get(module, version).map(|module| module.zip.clone()),
    }
}

fn versions(set: &ModuleSet, path: &str) -> Vec<String> {
    let of_path = set.modules().iter().filter(|module| module.path == path);
    of_path.map(|module| module.version.clone()).collect()
}

fn read_folder(folder: &Path, file: &ModuleFile) -> Result<Option<Bytes>> {
    match file {
        ModuleFile::List { module } => {
            let versions = folder_versions(folder, module)?;
            Ok((!versions.is_empty()).then(|| lines(&versions).into()))
        }
        ModuleFile::Latest { module } => match latest(folder_versions(folder, module)?) {
            Some(version) => read_version_file(folder, module, &version, "info"),
            None => Ok(None),
        },
        ModuleFile::Info { module, version } => read_version_file(folder, module, version, "info"),
        ModuleFile::Mod { module, version } => read_version_file(folder, module, version, "mod"),
        ModuleFile::Zip { module, version } => read_version_file(folder, module, version, "zip"),
    }
}

fn read_version_file(folder: &Path, module: &str, version: &str, extension: &str) -> Result<Option<Bytes>> {
    let path = folder.join(escape(module)).join("@v").join(format!("{}.{extension}", escape(version)));
    match fs::read(&path) {
        Ok(bytes) => Ok(Some(bytes.into())),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}

fn folder_versions(folder: &Path, module: &str) -> Result<Vec<String>> {
    let dir = folder.join(escape(module)).join("@v");
    let entries = match fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if is_absent(&error) => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("list {}", dir.display())),
    };
    let mut versions = Vec::new();
    for entry in entries {
        let name = entry.with_context(|| format!("list {}", dir.display()))?.file_name();
        let version = name.to_str().and_then(|name| name.strip_suffix(".info")).and_then(super::unescape);
        versions.extend(version.filter(|version| parse(version).is_some()));
    }
    versions.sort();
    Ok(versions)
}

/// Adds what `module`'s folder and those below it hold; `module` is the escaped path so far.
fn zips_below(folder: &Path, module: &str, found: &mut Vec<(String, String)>) -> Result<()> {
    let listing = || format!("list {}", folder.display());
    for entry in fs::read_dir(folder).with_context(listing)? {
        let entry = entry.with_context(listing)?;
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|_| entry.path().is_dir()) else {
            continue;
        };
        match name {
            "@v" => {
                let Some(path) = super::unescape(module) else { continue };
                for version in folder_versions(folder, "")? {
                    let zip = entry.path().join(format!("{}.zip", escape(&version)));
                    if zip.exists() {
                        found.push((path.clone(), version));
                    }
                }
            }
            name if module.is_empty() => zips_below(&entry.path(), name, found)?,
            name => zips_below(&entry.path(), &format!("{module}/{name}"), found)?,
        }
    }
    Ok(())
}

/// The cache keeps the hash that `go` computed when it fetched the zip in `.ziphash`; a folder made by hand has none.
/// Of a module that only the graph needs the cache has no zip, of a toolchain no go.mod.
fn folder_sums(folder: &Path, module: &str, version: &str) -> Result<Option<Sums>> {
    let go_mod = read_version_file(folder, module, version, "mod")?;
    let zip = match read_version_file(folder, module, version, "ziphash")? {
        Some(hash) => Some(String::from_utf8_lossy(&hash).trim().to_owned()),
        None => read_version_file(folder, module, version, "zip")?.map(|zip| hash_zip(&zip)).transpose()?,
    };
    let sums = Sums { zip, go_mod: go_mod.map(|go_mod| hash_go_mod(&go_mod)) };
    Ok((sums != Sums::default()).then_some(sums))
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory)
}

/// The version that `@latest` means: the highest release, else the highest pre-release.
fn latest(versions: Vec<String>) -> Option<String> {
    versions
        .into_iter()
        .filter_map(|version| Some((parse(&version)?, version)))
        .max_by(|(a, _), (b, _)| (a.pre.is_empty(), a).cmp(&(b.pre.is_empty(), b)))
        .map(|(_, version)| version)
}

fn parse(version: &str) -> Option<Version> {
    Version::parse(version.strip_prefix('v')?).ok()
}

fn lines(versions: &[String]) -> String {
    let mut text = versions.join("\n");
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{Source, latest};
    use crate::module::ModuleFile;

    #[test]
    fn latest_prefers_releases() {
        let versions = ["v1.10.0", "v1.9.0", "v2.0.0-rc.1"].map(str::to_owned);
        assert_eq!(latest(versions.to_vec()).as_deref(), Some("v1.10.0"));
        let pre = ["v0.1.0-a", "v0.1.0-b"].map(str::to_owned);
        assert_eq!(latest(pre.to_vec()).as_deref(), Some("v0.1.0-b"));
    }

    #[test]
    fn a_folder_is_searched_for_zips() {
        let dir = tempfile::tempdir().unwrap();
        for (module, file) in [
            ("b.test/!mixed", "v1.10.0"),
            ("b.test/!mixed", "v1.9.0"),
            ("b.test/!mixed/deep/v2", "v2.0.0"),
            ("a.test", "v0.1.0"),
        ] {
            let at_v = dir.path().join(module).join("@v");
            fs::create_dir_all(&at_v).unwrap();
            fs::write(at_v.join(format!("{file}.info")), "").unwrap();
            fs::write(at_v.join(format!("{file}.zip")), "").unwrap();
            fs::write(at_v.join("v9.9.9.info"), "").unwrap();
        }
        let found = Source::from(dir.path()).versions().unwrap();
        let found: Vec<_> = found.iter().map(|(path, version)| format!("{path}@{version}")).collect();
        assert_eq!(
            found,
            ["a.test@v0.1.0", "b.test/Mixed@v1.9.0", "b.test/Mixed@v1.10.0", "b.test/Mixed/deep/v2@v2.0.0"]
        );
    }

    #[test]
    fn a_folder_lists_what_it_holds() {
        let dir = tempfile::tempdir().unwrap();
        let at_v = dir.path().join("example.test/!mixed/@v");
        fs::create_dir_all(&at_v).unwrap();
        for version in ["v1.0.0", "v1.2.0"] {
            fs::write(at_v.join(format!("{version}.info")), version).unwrap();
        }
        let source = Source::from(dir.path());
        let module = || "example.test/Mixed".to_owned();
        let list = source.read(&ModuleFile::List { module: module() }).unwrap();
        assert_eq!(list.unwrap(), "v1.0.0\nv1.2.0\n");
        let latest = source.read(&ModuleFile::Latest { module: module() }).unwrap();
        assert_eq!(latest.unwrap(), "v1.2.0");
        let zip = ModuleFile::Zip { module: module(), version: "v1.0.0".to_owned() };
        assert_eq!(source.read(&zip).unwrap(), None);
    }
}
