//! Go commands: official releases, those that a release builds of its own source, and a distribution's.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    process::Command,
};

use testkit::goenv::{GoEnv, GoEnvBuilder};

/// The machine's own release, the newest patch release of each, a release candidate, and a patch release that no other
/// test names: what is known of a minor release holds for all of it.
pub const RELEASES: [&str; 10] = [
    "local",
    "go1.21.13",
    "go1.22.12",
    "go1.23.12",
    "go1.24.13",
    "go1.25.14",
    "go1.26.11",
    "go1.27.4",
    "go1.26rc1",
    "go1.23.4",
];

/// Releases of which the go command is built of its own source too: both ends of the range.
pub const REBUILT: [&str; 2] = ["go1.21.13", "go1.27.4"];

/// Folder of a Go distribution that `cargo xtask setup debian-go` leaves below `<target>/tools`.
const DEBIAN: &str = "tools/golang-1.19/usr/lib/go-1.19";

/// A go command.
#[derive(Clone, Debug)]
pub struct Go {
    /// `go1.26.8`.
    pub version: String,
    /// How it differs from the official one.
    variant: Option<&'static str>,
    binary: PathBuf,
    /// Set in its environment; an official one finds it itself.
    root: Option<PathBuf>,
}

impl Go {
    /// The machine's own.
    pub fn local() -> Self {
        Self::release("local").expect("a go command")
    }

    /// A release, fetched if need be. A missing one is a skip with its reason, and a failure in CI.
    pub fn release(name: &str) -> Option<Self> {
        let mut command = Command::new("go");
        command.env("GOTOOLCHAIN", name);
        let (version, root) = asked(command).map_err(|reason| missing(name, &reason)).ok()?;
        Some(Self { version, variant: None, binary: root.join("bin/go"), root: None })
    }

    /// The go command of a release built of its own source, linked by the C linker against libc and stripped, as
    /// distributions do it.
    pub fn rebuilt(name: &str) -> Option<Self> {
        let mut command = Command::new("go");
        command.env("GOTOOLCHAIN", name);
        let (version, root) = asked(command).map_err(|reason| missing(name, &reason)).ok()?;
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("rebuilt").join(&version);
        let binary = folder.join("go");
        if !binary.exists() {
            fs::create_dir_all(&folder).expect("a folder");
            let made = folder.join("go.made");
            let output = Command::new("go")
                .args(["build", "-ldflags=-s -w -linkmode=external", "-o"])
                .arg(&made)
                .arg("cmd/go")
                .envs([("GOTOOLCHAIN", name), ("CGO_ENABLED", "1"), ("GOFLAGS", "-mod=mod"), ("GOWORK", "off")])
                .current_dir(&folder)
                .output()
                .expect("go");
            if !output.status.success() {
                missing(name, &String::from_utf8_lossy(&output.stderr));
                return None;
            }
            fs::rename(&made, &binary).expect("the go command is put in its place");
        }
        Some(Self { version, variant: Some("linked by cc and stripped"), binary, root: Some(root) })
    }

    /// Debian's stripped one, of a release that no table has. A missing one is a skip with its reason, and a failure in CI.
    pub fn debian() -> Option<Self> {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("a target directory");
        let root = target.join(DEBIAN);
        let binary = root.join("bin/go");
        if !binary.exists() {
            missing("Debian's go", &format!("{} is not there: `cargo xtask setup debian-go`", root.display()));
            return None;
        }
        let mut command = Command::new(&binary);
        command.env("GOROOT", &root);
        let (version, root) = asked(command).unwrap_or_else(|reason| panic!("{}: {reason}", binary.display()));
        Some(Self { version, variant: Some("Debian"), binary, root: Some(root) })
    }

    /// The 24 of `go1.24.9`.
    pub fn minor(&self) -> u32 {
        let rest = self.version.strip_prefix("go1.").expect("Go 1");
        let digits = rest.split(|other: char| !other.is_ascii_digit()).next().expect("a minor version");
        digits.parse().expect("a number")
    }

    /// An environment in which it is `go`.
    pub fn environment<'a>(&self, processors: u32) -> GoEnvBuilder<'a> {
        let builder = GoEnv::builder().go(&self.binary).variable("GOMAXPROCS", processors.to_string());
        match &self.root {
            Some(root) => builder.variable("GOROOT", root),
            None => builder,
        }
    }

    /// A build cache that has the standard library and nothing else, at `to`: what compiling it again would show is shown
    /// where the cache is cold.
    pub fn standard_library(&self, to: &Path) {
        let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join("standard-library").join(&self.version);
        if !kept.join("whole").exists() {
            let go = self.environment(2).variable("GOCACHE", &kept).build().expect("an environment");
            let status = go.command(["build", "std"]).status().expect("go");
            assert!(status.success(), "{self}: go build std: {status}");
            fs::write(kept.join("whole"), "").expect("a file");
        }
        let status = Command::new("cp").args(["-a", "--reflink=auto", "-T"]).args([&kept, to]).status().expect("cp");
        assert!(status.success(), "cp: {status}");
    }
}

impl fmt::Display for Go {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.variant {
            Some(variant) => write!(f, "{} ({variant})", self.version),
            None => f.write_str(&self.version),
        }
    }
}

/// GOVERSION and GOROOT, or what the go command says instead.
fn asked(mut command: Command) -> Result<(String, PathBuf), String> {
    command.args(["env", "GOVERSION", "GOROOT"]).env("GOWORK", "off").current_dir(std::env::temp_dir());
    let output = command.output().map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let (version, root) = text.trim().split_once('\n').expect("two lines");
    Ok((version.to_owned(), PathBuf::from(root)))
}

fn missing(name: &str, reason: &str) {
    assert!(std::env::var_os("CI").is_none(), "{name}: {reason}");
    eprintln!("skipped: {name}: {reason}");
}
