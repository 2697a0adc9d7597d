//! An isolated Go environment below a temporary folder: nothing of the user's configuration, caches or proxies comes
//! in, and nothing is left behind.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs, io,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::{
    authority::{Authority, Roots},
    forward::ForwardProxy,
    sumdb::Sumdb,
};

/// What comes in from the caller's environment: `PATH` finds `go` and git, the rest is what profilers and CI need.
const KEPT: [&str; 4] = ["PATH", "LANG", "TERM", "CI"];

/// Builds a [`GoEnv`]; see [`GoEnv::builder`].
#[derive(Debug, Default)]
pub struct GoEnvBuilder<'a> {
    proxies: String,
    sumdb: Option<String>,
    authority: Option<(&'a Authority, Roots)>,
    variables: BTreeMap<OsString, OsString>,
    parent: Option<PathBuf>,
    go: Option<PathBuf>,
    owner: Option<(u32, u32)>,
}

impl<'a> GoEnvBuilder<'a> {
    /// Adds a proxy (a URL, `direct` or `off`) to `GOPROXY`, after a comma: it is asked when those before answer 404
    /// or 410.
    pub fn proxy(self, url: impl AsRef<str>) -> Self {
        self.add_proxy(',', url.as_ref())
    }

    /// Adds a proxy after a `|`: it is asked when those before fail in any way.
    pub fn proxy_after_any_error(self, url: impl AsRef<str>) -> Self {
        self.add_proxy('|', url.as_ref())
    }

    fn add_proxy(mut self, separator: char, url: &str) -> Self {
        if !self.proxies.is_empty() {
            self.proxies.push(separator);
        }
        self.proxies.push_str(url);
        self
    }

    /// Checks modules with this database, asked for through the proxies. Without a database, `GOSUMDB=off`.
    pub fn sumdb(mut self, sumdb: &Sumdb) -> Self {
        self.sumdb = Some(sumdb.verifier_key().to_owned());
        self
    }

    /// Checks modules with this database at `url`; `go` still asks the proxies first whether they pass it on.
    pub fn sumdb_at(mut self, sumdb: &Sumdb, url: &str) -> Self {
        self.sumdb = Some(format!("{} {url}", sumdb.verifier_key()));
        self
    }

    /// Asks for everything through this forward proxy, but for `localhost` and addresses on loopback.
    pub fn forward_proxy(self, forward: &ForwardProxy) -> Self {
        self.variable("HTTPS_PROXY", forward.url()).variable("HTTP_PROXY", forward.url())
    }

    /// Trusts this authority and no other.
    pub fn authority(mut self, authority: &'a Authority) -> Self {
        self.authority = Some((authority, Roots::Own));
        self
    }

    /// Trusts this authority beside the system's.
    pub fn authority_and_system_roots(mut self, authority: &'a Authority) -> Self {
        self.authority = Some((authority, Roots::OwnAndSystem));
        self
    }

    /// Sets a variable, over anything that this builder would set.
    pub fn variable(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.variables.insert(name.as_ref().to_owned(), value.as_ref().to_owned());
        self
    }

    /// Makes the folder below `parent` instead of the system's temporary folder.
    pub fn below(mut self, parent: impl Into<PathBuf>) -> Self {
        self.parent = Some(parent.into());
        self
    }

    /// Runs this `go`, an absolute path, instead of the one in `PATH`, and puts its folder first there.
    pub fn go(mut self, binary: impl Into<PathBuf>) -> Self {
        self.go = Some(binary.into());
        self
    }

    /// Gives the folders to a user and a group, for commands that run as them. Needs root.
    pub fn owner(mut self, user_id: u32, group_id: u32) -> Self {
        self.owner = Some((user_id, group_id));
        self
    }

    /// Makes the folders and writes the file with the roots.
    pub fn build(self) -> Result<GoEnv> {
        let mut folder = tempfile::Builder::new();
        let folder = folder.prefix("testkit-go-");
        let root = match &self.parent {
            Some(parent) => folder.tempdir_in(parent),
            None => folder.tempdir(),
        }
        .context("make a temporary folder")?;
        // An ordinary user's `go` may run below root's folder; what it holds is public anyway.
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755))
            .context("open the temporary folder to all")?;
        let path = |name: &str| root.path().join(name);
        let mut variables: BTreeMap<OsString, OsString> =
            KEPT.into_iter().filter_map(|name| Some((name.into(), std::env::var_os(name)?))).collect();
        let folders = [
            ("HOME", "home"),
            ("GOPATH", "gopath"),
            ("GOMODCACHE", "modcache"),
            ("GOCACHE", "buildcache"),
            ("TMPDIR", "tmp"),
        ];
        for (variable, name) in folders {
            fs::create_dir(path(name)).with_context(|| format!("make {name}"))?;
            variables.insert(variable.into(), path(name).into());
        }
        fs::create_dir(path("work")).context("make work")?;
        let proxies = match self.proxies.as_str() {
            "" => "off",
            proxies => proxies,
        };
        let sumdb = self.sumdb.as_deref().unwrap_or("off");
        let settings = [
            ("GOPROXY", proxies),
            ("GOSUMDB", sumdb),
            ("GOENV", "off"),
            ("GOTOOLCHAIN", "local"),
            ("GOTELEMETRY", "off"),
            ("GIT_CONFIG_NOSYSTEM", "1"),
            ("GOFLAGS", "-modcacherw -buildvcs=false"),
        ];
        variables.extend(settings.map(|(name, value)| (name.into(), value.into())));
        if let Some((authority, roots)) = self.authority {
            authority.write_roots(&path("roots.pem"), roots)?;
            variables.insert("SSL_CERT_FILE".into(), path("roots.pem").into());
            // git's libcurl does not look at SSL_CERT_FILE.
            variables.insert("GIT_SSL_CAINFO".into(), path("roots.pem").into());
            // Go reads every file of these folders too (`crypto/x509/root_unix.go`): it gets an empty one.
            fs::create_dir(path("no-roots")).context("make no-roots")?;
            variables.insert("SSL_CERT_DIR".into(), path("no-roots").into());
        }
        if let Some(folder) = self.go.as_ref().and_then(|go| go.parent()) {
            let old = variables.get(OsStr::new("PATH"));
            let rest = old.into_iter().flat_map(std::env::split_paths);
            let joined = std::env::join_paths([folder.to_owned()].into_iter().chain(rest));
            variables.insert("PATH".into(), joined.context("PATH with the folder of go")?);
        }
        variables.extend(self.variables);
        if let Some((user, group)) = self.owner {
            for folder in folders.iter().map(|(_, name)| *name).chain(["work", ""]) {
                chown(path(folder), Some(user), Some(group)).context("give a folder away")?;
            }
        }
        Ok(GoEnv { work: path("work"), root, go: self.go.unwrap_or_else(|| "go".into()), variables })
    }
}

/// An isolated Go environment; its folder goes when this is dropped.
#[derive(Debug)]
pub struct GoEnv {
    root: TempDir,
    work: PathBuf,
    go: PathBuf,
    variables: BTreeMap<OsString, OsString>,
}

impl GoEnv {
    /// An environment without proxy and checksum database, to be completed.
    pub fn builder<'a>() -> GoEnvBuilder<'a> {
        GoEnvBuilder::default()
    }

    /// The folder of it all.
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// Empty folder for the main module; commands start here.
    pub fn work_dir(&self) -> &Path {
        &self.work
    }

    /// `GOMODCACHE`.
    pub fn module_cache(&self) -> PathBuf {
        self.root.path().join("modcache")
    }

    /// `GOCACHE`.
    pub fn build_cache(&self) -> PathBuf {
        self.root.path().join("buildcache")
    }

    /// The whole environment, for a command that this does not start.
    pub fn variables(&self) -> impl Iterator<Item = (&OsStr, &OsStr)> {
        self.variables.iter().map(|(name, value)| (name.as_os_str(), value.as_os_str()))
    }

    /// `go` with these arguments, in the work folder.
    pub fn command(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
        let mut command = self.program(&self.go);
        command.args(args);
        command
    }

    /// Another program in this environment and in the work folder.
    pub fn program(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env_clear().envs(&self.variables).current_dir(&self.work);
        command
    }

    /// Empties the module cache, `GOPATH` (which remembers the database's tree) and the build cache.
    pub fn clear_caches(&self) -> io::Result<()> {
        for name in ["modcache", "gopath", "buildcache"] {
            let path = self.root.path().join(name);
            make_writable(&path)?;
            fs::remove_dir_all(&path)?;
            fs::create_dir(&path)?;
        }
        Ok(())
    }
}

impl Drop for GoEnv {
    fn drop(&mut self) {
        // The folder's own drop removes it; it cannot where folders are read-only, and reports nothing.
        let _ = make_writable(self.root.path());
    }
}

/// Without `-modcacherw`, `go` takes away write permission from the folders of the module cache, and then nothing in them
/// can be removed.
fn make_writable(folder: &Path) -> io::Result<()> {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            make_writable(&entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::GoEnv;

    #[test]
    fn nothing_is_left_behind_and_nothing_of_the_caller_comes_in() {
        let env = GoEnv::builder().variable("GOFLAGS", "-x").build().unwrap();
        let root = env.root().to_owned();
        let folder = env.module_cache().join("example.test/m@v1.0.0");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("go.mod"), "module m\n").unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o555)).unwrap();
        let allowed = ["PATH", "LANG", "TERM", "CI", "HOME", "TMPDIR", "GIT_CONFIG_NOSYSTEM"];
        for (name, value) in env.variables() {
            let name = name.to_str().unwrap();
            assert!(name.starts_with("GO") || allowed.contains(&name), "{name}");
            if name == "GOFLAGS" {
                assert_eq!(value, "-x");
            }
        }
        drop(env);
        assert!(!root.exists());
    }
}
