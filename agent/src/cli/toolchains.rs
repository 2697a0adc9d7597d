//! Go commands that a command is likely to run, so that their very first instructions are seen as what they are: those on
//! its PATH, and those that they switch to.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Toolchains that are looked at beyond those on PATH; each costs some milliseconds at start.
const MAX_SWITCHES: usize = 3;
/// A go.mod file of more is no go.mod file.
const GO_MOD_BYTES_MAX: u64 = 4 << 20;

/// `value` gives the variables of the command's environment; `directory` is where it runs.
pub fn likely(value: impl Fn(&str) -> Option<PathBuf>, directory: Option<&Path>) -> Vec<PathBuf> {
    let path = value("PATH").map(|path| std::env::split_paths(&path).collect::<Vec<_>>()).unwrap_or_default();
    let root = value("GOROOT").map(|root| root.join("bin"));
    let on_path = path.into_iter().chain(root).map(|directory| directory.join("go")).filter(|file| file.is_file());
    let wanted = wanted(value("GOTOOLCHAIN").as_deref(), directory);
    on_path.chain(switches(module_cache(&value).as_deref(), &wanted)).collect()
}

/// GOMODCACHE or what stands for it (cmd/go/internal/cfg, `gopathDir`).
fn module_cache(value: &impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    let below_path = || {
        let first = value("GOPATH").and_then(|path| std::env::split_paths(&path).next());
        let path = first.or_else(|| value("HOME").map(|home| home.join("go")))?;
        Some(path.join("pkg/mod"))
    };
    value("GOMODCACHE").or_else(below_path)
}

/// Versions that a switch would go to: of GOTOOLCHAIN, and of the `toolchain` and `go` lines of go.work and go.mod
/// (cmd/go/internal/toolchain, `Select`).
fn wanted(setting: Option<&Path>, directory: Option<&Path>) -> BTreeSet<String> {
    let mut versions = BTreeSet::new();
    let setting = setting.and_then(Path::to_str).unwrap_or_default();
    versions.extend(setting.split('+').next().and_then(|name| name.strip_prefix("go")).map(str::to_owned));
    for name in ["go.work", "go.mod"] {
        let file = directory.into_iter().flat_map(Path::ancestors).map(|directory| directory.join(name));
        let Some(file) = file.into_iter().find(|file| file.is_file()) else { continue };
        if fs::metadata(&file).is_ok_and(|metadata| metadata.len() <= GO_MOD_BYTES_MAX)
            && let Ok(text) = fs::read_to_string(&file)
        {
            for line in text.lines() {
                let mut words = line.split_whitespace();
                match (words.next(), words.next()) {
                    (Some("go"), Some(version)) => versions.insert(version.to_owned()),
                    (Some("toolchain"), Some(name)) => versions.insert(name.trim_start_matches("go").to_owned()),
                    _ => false,
                };
            }
        }
    }
    versions.retain(|version| version.starts_with(|digit: char| digit.is_ascii_digit()));
    versions
}

/// Downloaded toolchains of these versions, newest names first; a version without a patch number stands for all of its
/// releases.
fn switches(module_cache: Option<&Path>, wanted: &BTreeSet<String>) -> Vec<PathBuf> {
    let Some(folder) = module_cache.map(|cache| cache.join("golang.org")) else { return Vec::new() };
    let mut found: Vec<PathBuf> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().to_str().is_some_and(|name| is_wanted(name, wanted)))
        .map(|entry| entry.path().join("bin/go"))
        .filter(|file| file.is_file())
        .collect();
    found.sort_unstable_by(|a, b| b.cmp(a));
    found.truncate(MAX_SWITCHES);
    found
}

/// `toolchain@v0.0.1-go1.24.9.linux-amd64`.
fn is_wanted(directory: &str, wanted: &BTreeSet<String>) -> bool {
    let version = directory.strip_prefix("toolchain@v0.0.1-go").and_then(|rest| rest.rsplit_once('.'));
    version.is_some_and(|(version, _)| {
        wanted.iter().any(|wanted| {
            version.strip_prefix(wanted.as_str()).is_some_and(|rest| {
                let minor_only = wanted.split('.').count() == 2;
                rest.is_empty() || minor_only && rest.starts_with('.')
            })
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_switch_is_named_by_the_environment_and_by_go_mod() {
        let root = tempfile::tempdir().unwrap();
        let toolchains = root.path().join("mod/golang.org");
        for name in ["go1.21.13", "go1.24.2", "go1.24.9", "go1.27.2"] {
            let bin = toolchains.join(format!("toolchain@v0.0.1-{name}.linux-amd64/bin"));
            fs::create_dir_all(&bin).unwrap();
            fs::write(bin.join("go"), "").unwrap();
        }
        let project = root.path().join("project/below");
        fs::create_dir_all(&project).unwrap();
        fs::write(root.path().join("project/go.mod"), "module m\n\ngo 1.24 // or newer\n\ntoolchain go1.27.2\n")
            .unwrap();
        let value = |name: &str| match name {
            "GOMODCACHE" => Some(root.path().join("mod")),
            "GOTOOLCHAIN" => Some(PathBuf::from("go1.21.13+auto")),
            _ => None,
        };
        let names: Vec<String> = likely(value, Some(&project))
            .iter()
            .map(|path| path.strip_prefix(&toolchains).unwrap().to_string_lossy().into_owned())
            .collect();
        let expected = ["go1.27.2", "go1.24.9", "go1.24.2"];
        assert_eq!(names, expected.map(|name| format!("toolchain@v0.0.1-{name}.linux-amd64/bin/go")));
        assert_eq!(likely(|_| None, None), Vec::<PathBuf>::new());
    }
}
