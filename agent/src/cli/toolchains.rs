//! Go commands that are likely to run, so that their very first instructions are seen as what they are: of a command those on
//! its PATH, and those that they switch to; of a host those where installers, distributions and users put them.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Toolchains that are looked at beyond those on PATH; each costs some milliseconds at start.
const MAX_SWITCHES: usize = 3;
/// Go commands of a host that are looked at: a start must not take long, and each is attached to.
const MAX_ON_HOST: usize = 32;
/// Of them in one folder, so that one user's many leave room for the others'.
const MAX_IN_FOLDER: usize = 8;
/// Users of a host whose homes are looked at.
const MAX_HOMES: usize = 64;
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

/// Go commands of the host with this root, the likeliest first; `value` gives the variables of our own environment.
pub fn of_host(root: &Path, value: impl Fn(&str) -> Option<PathBuf>) -> Vec<PathBuf> {
    let path = value("PATH").map(|path| std::env::split_paths(&path).collect::<Vec<_>>()).unwrap_or_default();
    let mut folders = path;
    folders.push(root.join("usr/local/go/bin"));
    let go_below = |folder: PathBuf| newest(&folder, |name| name.starts_with("go")).map(|go| go.join("bin"));
    folders.extend(go_below(root.join("usr/lib")));
    // actions/setup-go: version, then architecture.
    let versions = newest(&root.join("opt/hostedtoolcache/go"), |_| true);
    folders.extend(versions.flat_map(|version| newest(&version, |_| true)).map(|go| go.join("bin")));
    let downloaded = |cache: PathBuf| {
        newest(&cache.join("golang.org"), |name| name.starts_with("toolchain@")).map(|go| go.join("bin"))
    };
    folders.extend(module_cache(&value).into_iter().flat_map(downloaded));
    for home in homes(root) {
        folders.extend(downloaded(home.join("go/pkg/mod")));
        // golang.org/dl
        folders.extend(go_below(home.join("sdk")));
    }
    let mut seen = BTreeSet::new();
    let files = folders.into_iter().map(|folder| folder.join("go")).filter(|file| file.is_file());
    files.filter(|file| fs::canonicalize(file).is_ok_and(|file| seen.insert(file))).take(MAX_ON_HOST).collect()
}

/// Entries of a folder by their names, the last ones first.
fn newest(folder: &Path, wanted: impl Fn(&str) -> bool) -> std::vec::IntoIter<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> =
        entries.filter(|entry| entry.file_name().to_str().is_some_and(&wanted)).map(|entry| entry.path()).collect();
    found.sort_unstable_by(|a, b| b.cmp(a));
    found.truncate(MAX_IN_FOLDER);
    found.into_iter()
}

/// Homes of the host's users. Those on a network are left alone: a server that does not answer would hold us up.
fn homes(root: &Path) -> Vec<PathBuf> {
    let text = |file: &str| fs::read_to_string(root.join(file)).unwrap_or_default();
    let (users, mounts) = (text("etc/passwd"), text("proc/self/mounts"));
    let named = users.lines().filter_map(|user| user.split(':').nth(5)).filter_map(|home| home.strip_prefix('/'));
    let mut seen = BTreeSet::new();
    named
        .filter(|home| !home.is_empty() && !on_network(&mounts, home) && seen.insert(*home))
        .take(MAX_HOMES)
        .map(|home| root.join(home))
        .collect()
}

/// A path without its first slash lies on a file system that somebody else serves, or that is mounted when it is looked at.
fn on_network(mounts: &str, path: &str) -> bool {
    let kind = mounts
        .lines()
        .filter_map(|mount| {
            let mut fields = mount.split(' ').skip(1);
            Some((Path::new(fields.next()?.strip_prefix('/')?), fields.next()?))
        })
        .filter(|(point, _)| Path::new(path).starts_with(point))
        // Of those at one place the last covers the others.
        .max_by_key(|(point, _)| point.components().count())
        .map(|(_, kind)| kind);
    kind.is_some_and(|kind| {
        matches!(kind, "autofs" | "nfs" | "nfs4" | "cifs" | "smb3" | "afs" | "ceph") || kind.starts_with("fuse.")
    })
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

    fn executable(root: &Path, file: &str) {
        let file = root.join(file);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, "").unwrap();
    }

    #[test]
    fn a_hosts_go_commands_are_found_where_they_are_put() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let expected = [
            "bin/go",
            "usr/local/go/bin/go",
            "usr/lib/golang/bin/go",
            "usr/lib/go-1.24/bin/go",
            "usr/lib/go/bin/go",
            "opt/hostedtoolcache/go/1.25.1/x64/bin/go",
            "cache/golang.org/toolchain@v0.0.1-go1.25.0.linux-amd64/bin/go",
            "home/one/go/pkg/mod/golang.org/toolchain@v0.0.1-go1.26.8.linux-amd64/bin/go",
            "home/one/go/pkg/mod/golang.org/toolchain@v0.0.1-go1.24.1.linux-amd64/bin/go",
            "home/one/sdk/go1.26.1/bin/go",
            "root/sdk/gotip/bin/go",
        ];
        for file in expected {
            executable(root, file);
        }
        for file in [
            "usr/lib/gcc/bin/go",
            "home/one/go/pkg/mod/golang.org/x/bin/go",
            "home/far/sdk/go1.26.1/bin/go",
            "home/nobody/sdk/go1.26.1/bin/go",
            "sdk/go1.26.1/bin/go",
        ] {
            executable(root, file);
        }
        // The same one once more.
        std::os::unix::fs::symlink("../lib/go-1.24/bin", root.join("usr/bin")).unwrap();
        let passwd = "root:x:0:0:root:/root:/bin/sh\none:x:1:1::/home/one:/bin/sh\ntwo:x:2:2::/home/one:\n\
                      far:x:3:3::/home/far:\ndaemon:x:4:4::/:\nbroken\n";
        let mounts = "/dev/vda / ext4 rw 0 0\nhome:/far /home/far nfs4 rw 0 0\nauto /home/farther autofs rw 0 0\n";
        for (file, text) in [("etc/passwd", passwd), ("proc/self/mounts", mounts)] {
            fs::create_dir_all(root.join(file).parent().unwrap()).unwrap();
            fs::write(root.join(file), text).unwrap();
        }
        let value = |name: &str| match name {
            "PATH" => Some(root.join("bin")),
            "GOMODCACHE" => Some(root.join("cache")),
            _ => None,
        };
        let found = of_host(root, value);
        let mut found: Vec<&str> =
            found.iter().map(|file| file.strip_prefix(root).unwrap().to_str().unwrap()).collect();
        assert_eq!(found[..7], expected[..7]);
        found.sort_unstable();
        let mut all = expected;
        all.sort_unstable();
        assert_eq!(found, all);
        let bin = |name: &str| (name == "PATH").then(|| root.join("usr/bin"));
        assert_eq!(of_host(root, bin).len(), expected.len() - 2, "the link stands for what it leads to");
    }

    #[test]
    fn a_host_with_many_is_looked_at_in_part() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let mut passwd = String::new();
        for user in 0..10 {
            passwd.push_str(&format!("u{user}:x:1:1::/home/u{user}:\n"));
            for patch in 0..12 {
                executable(root, &format!("home/u{user}/sdk/go1.26.{patch}/bin/go"));
            }
        }
        fs::create_dir_all(root.join("etc")).unwrap();
        fs::write(root.join("etc/passwd"), passwd).unwrap();
        let found = of_host(root, |_| None);
        assert_eq!(found.len(), MAX_ON_HOST);
        assert_eq!(found.iter().filter(|file| file.starts_with(root.join("home/u0"))).count(), MAX_IN_FOLDER);
    }
}
