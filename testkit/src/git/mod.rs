//! Git repositories of a source's modules, one for each module path with a tag for each version, and what a git server
//! answers about them: `?go-get=1` and git's smart HTTP protocol.
//!
//! Repositories are made once (`make`); git's own `http-backend` reads them (`backend`). Nothing here listens: a
//! [proxy](crate::proxy) with repositories is the server, with its rules and its log.
//!
//! ```no_run
//! use std::sync::Arc;
//! use testkit::{authority::Authority, git::Repositories, goenv::GoEnv, module::{ModuleSet, Shape}};
//! use testkit::{namespace::{PrivateEtc, write_hosts}, proxy::{Proxy, Transport}};
//!
//! # fn main() -> anyhow::Result<()> {
//! let shape = Shape { prefix: "git.test/gen".to_owned(), ..Shape::default() };
//! let modules = Arc::new(ModuleSet::generate(&shape)?);
//! let authority = Authority::new()?;
//! let git = Proxy::builder("git")
//!     .transport(Transport::Http2(&authority))
//!     .repositories(Repositories::new([modules.clone().into()])?)
//!     // Go asks for `?go-get=1` on no other port: a module path has none.
//!     .listen_on_port(443)
//!     .start()?;
//! let go = GoEnv::builder().proxy("direct").authority(&authority).build()?;
//! modules.write_program(go.work_dir())?;
//! let hosts = go.root().join("hosts");
//! write_hosts(&hosts, [("git.test", git.address().ip())])?;
//! let mut command = go.command(["mod", "download"]);
//! PrivateEtc::new().hosts(hosts).apply(&mut command);
//! assert!(command.status()?.success());
//! assert!(git.log().iter().any(|request| request.asked.kind() == "upload-pack"));
//! # Ok(())
//! # }
//! ```

mod make;
use make::{Version, make};

mod backend;
pub(crate) use backend::{BackendAnswer, BackendRequest};

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::module::{GitRequest, Source};

/// The repositories of the modules of some sources; they go when this is dropped.
#[derive(Debug)]
pub struct Repositories {
    root: TempDir,
    modules: BTreeSet<String>,
    backend: PathBuf,
}

impl Repositories {
    /// Makes the repositories of all modules that `sources` have the zip of. Pseudo-versions are left out: the commits
    /// that they name cannot be made.
    ///
    /// A server finds a repository below the host in the module's path, with and without `.git`. Blocks on I/O. Fails
    /// when there is no git, or a zip is none of a module.
    pub fn new(sources: impl IntoIterator<Item = Source>) -> Result<Arc<Self>> {
        let mut modules: BTreeMap<String, Vec<Version>> = BTreeMap::new();
        for source in sources {
            for (module, version) in source.versions()? {
                if is_pseudo(&version) {
                    continue;
                }
                let version = Version::read(&source, &module, &version)
                    .with_context(|| format!("module {module}@{version} of a repository"))?;
                modules.entry(module).or_default().push(version);
            }
        }
        let root = tempfile::Builder::new().prefix("testkit-git-").tempdir().context("make a temporary folder")?;
        for (module, versions) in &modules {
            make(&folder(root.path(), module), versions).with_context(|| format!("repository of {module}"))?;
        }
        let backend = backend::find()?;
        Ok(Arc::new(Self { root, modules: modules.into_keys().collect(), backend }))
    }

    /// The hosts of the modules' paths.
    pub fn hosts(&self) -> BTreeSet<&str> {
        self.modules.iter().filter_map(|module| module.split('/').next()).collect()
    }

    /// The bare repository of a module, for a test that looks into it or changes it.
    pub fn folder(&self, module: &str) -> Option<PathBuf> {
        self.modules.contains(module).then(|| folder(self.root.path(), module))
    }

    /// What a request asks for, when that is one of these repositories. `host` may have a port, `path` has its percent
    /// escapes resolved.
    pub(crate) fn asked(&self, host: &str, path: &str, query: Option<&str>) -> Option<GitRequest> {
        let host = host.rsplit_once(':').map_or(host, |(name, _)| name);
        let path = format!("{host}{path}");
        if query.is_some_and(|query| query.split('&').any(|pair| pair == "go-get=1")) {
            return self.above(&path).map(|module| GitRequest::GoGet { module });
        }
        if let Some(repository) = path.strip_suffix("/info/refs") {
            let is_smart = query == Some("service=git-upload-pack");
            return self.named(repository).filter(|_| is_smart).map(|module| GitRequest::InfoRefs { module });
        }
        let module = self.named(path.strip_suffix("/git-upload-pack")?)?;
        Some(GitRequest::UploadPack { module })
    }

    /// The page for `?go-get=1` that leads to the repository of `module` below `base`, the URL of its host.
    pub(crate) fn go_import(module: &str, base: &str) -> String {
        let below = module.split_once('/').map_or("", |(_, below)| below);
        format!(
            "<!DOCTYPE html>\n<html><head><meta name=\"go-import\" content=\"{module} git {base}/{below}.git\"></head></html>\n"
        )
    }

    /// Has git answer a request for the repository of `module`. Blocks until git has ended.
    pub(crate) fn serve(&self, module: &str, request: &BackendRequest<'_>) -> Result<BackendAnswer> {
        backend::run(&self.backend, self.root.path(), module, request)
    }

    /// The longest module path that `path` is or lies below.
    fn above(&self, path: &str) -> Option<String> {
        let mut path = path.trim_end_matches('/');
        loop {
            if let Some(module) = self.modules.get(path) {
                return Some(module.clone());
            }
            path = path.rsplit_once('/')?.0;
        }
    }

    /// The module whose repository is at `repository`, host and path.
    fn named(&self, repository: &str) -> Option<String> {
        let without = repository.strip_suffix(".git").map(|rest| rest.trim_end_matches('/'));
        [Some(repository), without].into_iter().flatten().find_map(|path| self.modules.get(path)).cloned()
    }
}

fn folder(root: &Path, module: &str) -> PathBuf {
    root.join(format!("{module}.git"))
}

/// Whether a version names a commit: its pre-release ends with 14 digits of a time and 12 of a hash
/// (`golang.org/x/mod/module.IsPseudoVersion`).
fn is_pseudo(version: &str) -> bool {
    let version = version.strip_suffix("+incompatible").unwrap_or(version);
    let Some((rest, hash)) = version.rsplit_once('-') else {
        return false;
    };
    let digits = rest.bytes().rev().take_while(u8::is_ascii_digit).count();
    digits == 14 && hash.len() == 12 && hash.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use std::{process::Command, sync::Arc};

    use super::{Repositories, is_pseudo};
    use crate::module::{Asked, ModuleSet, Shape};

    fn repositories(prefix: &str, change: impl FnOnce(&mut Vec<crate::module::ModuleSpec>)) -> Arc<Repositories> {
        let mut specs = Shape { modules: 2, prefix: prefix.to_owned(), ..Shape::default() }.specs();
        change(&mut specs);
        Repositories::new([Arc::new(ModuleSet::build(&specs).unwrap()).into()]).unwrap()
    }

    #[test]
    fn requests_are_told_by_path_and_query() {
        let repositories = repositories("git.test/gen", |_| {});
        assert_eq!(repositories.hosts().into_iter().collect::<Vec<_>>(), ["git.test"]);
        let asked = |host: &str, path: &str, query: &str| {
            let asked = repositories.asked(host, path, Some(query).filter(|query| !query.is_empty()));
            asked.map_or("none".to_owned(), |asked| {
                let asked = Asked::Git(asked);
                format!("{} {}", asked.kind(), asked.module().unwrap())
            })
        };
        let smart = "service=git-upload-pack";
        assert_eq!(asked("git.test", "/gen/Mod001", "go-get=1"), "go-get git.test/gen/Mod001");
        assert_eq!(asked("git.test:443", "/gen/mod000/p1", "x&go-get=1"), "go-get git.test/gen/mod000");
        assert_eq!(asked("git.test", "/gen/mod000.git/info/refs", smart), "info-refs git.test/gen/mod000");
        assert_eq!(asked("git.test", "/gen/mod000/info/refs", smart), "info-refs git.test/gen/mod000");
        assert_eq!(asked("git.test", "/gen/mod000.git/git-upload-pack", ""), "upload-pack git.test/gen/mod000");
        for (host, path, query) in [
            ("other.test", "/gen/mod000", "go-get=1"),
            ("git.test", "/gen", "go-get=1"),
            ("git.test", "/gen/mod000", ""),
            ("git.test", "/gen/mod000.git/info/refs", ""),
            ("git.test", "/gen/mod000.git/info/refs", "service=git-receive-pack"),
            ("git.test", "/gen/mod000.git/git-receive-pack", ""),
            ("git.test", "/gen/../gen/mod000.git/git-upload-pack", ""),
        ] {
            assert_eq!(asked(host, path, query), "none", "{path}?{query}");
        }
    }

    #[test]
    fn a_repository_has_a_tag_for_each_version_and_the_last_one_is_its_head() {
        let repositories = repositories("git.test/gen", |specs| {
            specs[1] = specs[0].clone();
            specs[0].version = "v1.10.0".to_owned();
            specs[1].version = "v1.9.0".to_owned();
        });
        let folder = repositories.folder("git.test/gen/mod000").unwrap();
        assert_eq!(repositories.folder("git.test/gen/other"), None);
        let git = |args: &[&str]| {
            let output = Command::new("git").arg("-C").arg(&folder).args(args).output().unwrap();
            assert!(output.status.success());
            String::from_utf8(output.stdout).unwrap()
        };
        assert_eq!(git(&["tag", "--sort=version:refname"]), "v1.9.0\nv1.10.0\n");
        assert_eq!(git(&["log", "--format=%s %ct"]), "v1.10.0 1704164645\nv1.9.0 1704164645\n");
        assert_eq!(git(&["ls-tree", "-r", "--name-only", "HEAD"]), "gen.go\ngo.mod\np1/gen.go\npayload.bin\n");
        git(&["fsck", "--strict"]);
    }

    #[test]
    fn pseudo_versions_are_told_from_pre_releases() {
        for version in [
            "v0.0.0-20240102030405-0123456789ab",
            "v1.2.4-0.20240102030405-0123456789ab",
            "v2.0.0-20240102030405-0123456789ab+incompatible",
        ] {
            assert!(is_pseudo(version), "{version}");
        }
        for version in ["v1.0.0", "v1.0.0-rc.1", "v1.0.0-20240102030405", "v2.0.0+incompatible"] {
            assert!(!is_pseudo(version), "{version}");
        }
    }
}
