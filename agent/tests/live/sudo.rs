//! Under sudo, with a real build: everything is the invoking user's.

use std::{
    fs,
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use gobuild_trace::{build::BuildResult, report::json};
use testkit::{goenv::GoEnv, proxy::Proxy};

use crate::{
    schema::assert_valid,
    wrapper::{PROGRAM, modules, possible},
};

/// A user of this machine who may become root, for one test.
struct TestUser {
    name: String,
    uid: u32,
    gid: u32,
    rules: PathBuf,
}

impl TestUser {
    fn create() -> Option<Self> {
        for program in ["useradd", "userdel", "sudo", "id"] {
            let there =
                Command::new("sh").args(["-c", &format!("command -v {program}")]).stdout(Stdio::null()).status();
            if !there.is_ok_and(|status| status.success()) {
                assert!(std::env::var_os("CI").is_none(), "no {program}");
                eprintln!("skipped: no {program}");
                return None;
            }
        }
        let name = format!("gbl{}", std::process::id());
        let added = Command::new("useradd").args(["-M", "-d", "/nonexistent", &name]).output().unwrap();
        assert!(added.status.success(), "{added:?}");
        let id = |option: &str| {
            let output = Command::new("id").arg(option).arg(&name).output().unwrap();
            String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
        };
        let (uid, gid) = (id("-u"), id("-g"));
        let user = Self { rules: Path::new("/etc/sudoers.d").join(&name), uid, gid, name };
        fs::write(&user.rules, format!("{} ALL=(ALL) NOPASSWD: ALL\n", user.name)).unwrap();
        fs::set_permissions(&user.rules, fs::Permissions::from_mode(0o440)).unwrap();
        Some(user)
    }
}

impl Drop for TestUser {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.rules);
        let _ = Command::new("userdel").arg(&self.name).stderr(Stdio::null()).status();
    }
}

/// All files below a folder.
fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        found.push(entry.path());
        if entry.file_type().unwrap().is_dir() {
            files(&entry.path(), found);
        }
    }
}

#[test]
fn a_build_under_sudo_is_the_invoking_users() {
    if !possible() {
        return;
    }
    let Some(user) = TestUser::create() else { return };
    let modules = modules(3);
    let proxy = Proxy::builder("main").source(modules.clone()).start().unwrap();
    let go = GoEnv::builder().proxy(proxy.url()).owner(user.uid, user.gid).build().unwrap();
    modules.write_program(go.work_dir()).unwrap();
    // In force only when the user's GOFLAGS are.
    fs::write(
        go.work_dir().join("tagged.go"),
        "//go:build only_by_goflags\n\npackage main\n\nvar _ int = \"not an int\"\n",
    )
    .unwrap();
    let mut own = Vec::new();
    files(go.work_dir(), &mut own);
    for path in own {
        std::os::unix::fs::chown(path, Some(user.uid), Some(user.gid)).unwrap();
    }
    let program = go.root().join("gobuild-trace");
    fs::copy(PROGRAM, &program).unwrap();
    for path in [program.as_path(), go.root()] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    // A package of a module: it is compiled without the standard library, and nothing is linked.
    let package = &modules.modules()[0].packages[0];
    let sudo = |flags: &str, arguments: &[&str]| {
        let mut command = go.program("sudo");
        command.arg("-n").arg(&program).args(["--json", "report.json", "--record", "recording", "-o", "report.txt"]);
        command.args(arguments).env("GOFLAGS", flags).uid(user.uid).gid(user.gid).stdin(Stdio::null());
        command.output().unwrap()
    };
    let output = sudo("-modcacherw -v", &["go", "build", "-o", "package.a", package]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    assert!(stderr.contains(package.as_str()), "GOFLAGS=-v names what is compiled: {stderr}");
    let text = fs::read_to_string(go.work_dir().join("report.json")).unwrap();
    assert_valid(&text, &stderr);
    let document = json::from_slice(text.as_bytes()).unwrap();
    let [build] = document.builds.as_slice() else { panic!("{text}") };
    assert_eq!(build.result, Some(BuildResult::Success));
    assert!(build.modules.iter().any(|module| module.host.as_deref() == Some(proxy.host().as_str())), "GOPROXY");
    assert!(!proxy.log().is_empty());

    let mut made = vec![go.work_dir().to_owned()];
    let history = go.root().join("home/.cache/gobuild-trace");
    for folder in [go.work_dir().to_owned(), go.build_cache(), go.module_cache(), history] {
        let before = made.len();
        files(&folder, &mut made);
        assert!(made.len() > before, "nothing in {}", folder.display());
    }
    for path in &made {
        let metadata = fs::symlink_metadata(path).unwrap();
        assert_eq!((metadata.uid(), metadata.gid()), (user.uid, user.gid), "{}", path.display());
    }
    for file in ["report.json", "recording", "report.txt"] {
        assert!(made.contains(&go.work_dir().join(file)), "{file}");
    }

    let failed = sudo("-modcacherw -tags=only_by_goflags", &["go", "vet", "."]);
    assert_eq!(failed.status.code(), Some(1), "{failed:?}");
    assert!(String::from_utf8_lossy(&failed.stderr).contains("tagged.go"), "{failed:?}");
}
