//! Makes the recordings that `tests/replay.rs` replays.

use std::{fs, path::Path, process::Stdio, time::Duration};

use testkit::{
    authority::Authority,
    goenv::GoEnv,
    module::{ModuleSet, Shape, Topology},
    proxy::{Proxy, Rule, Transport},
    sumdb::Sumdb,
};

use crate::wrapper::{BUILD_CACHE, PROGRAM, possible, wait_until};

/// Host name in the recordings.
const HOST_NAME: &str = "builder";

/// Records `go` with these arguments; `rule` is the proxy's. `kill`: once that many zips were asked for.
fn record(name: &str, arguments: &[&str], rule: Rule, kill: Option<usize>) {
    let parent = Path::new("/tmp/gobuild-demo");
    fs::create_dir_all(parent).unwrap();
    let shape =
        Shape { modules: 8, topology: Topology::Tree(3), prefix: "example.test/demo".to_owned(), ..Shape::default() };
    let modules = std::sync::Arc::new(ModuleSet::generate(&shape).unwrap());
    let authority = Authority::new().unwrap();
    let sumdb = Sumdb::new("sum.test", [modules.clone().into()]).unwrap();
    let proxy = Proxy::builder("main")
        .transport(Transport::Http2(&authority))
        .host_name("localhost")
        .source(modules.clone())
        .sumdb(sumdb.clone())
        .rule(rule)
        .rule(Rule::on("*.zip").first_byte(Duration::from_millis(30)))
        .start()
        .unwrap();
    let go = GoEnv::builder()
        .below(parent)
        .proxy(proxy.url())
        .authority(&authority)
        .sumdb(&sumdb)
        .variable("GOFLAGS", "-mod=mod -modcacherw")
        .build()
        .unwrap();
    modules.write_program_without_sums(go.work_dir()).unwrap();
    // Not the shared build cache itself: its place is this machine's.
    let copied = go.program("cp").arg("-r").arg(BUILD_CACHE.join(".")).arg(go.build_cache()).status().unwrap();
    assert!(copied.success());
    let recording =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recordings").join(name).with_extension("recording");
    let mut command = go.program("unshare");
    command.args(["--uts", "sh", "-c", &format!("hostname {HOST_NAME} && exec \"$0\" \"$@\"")]);
    command.arg(PROGRAM).arg("--record").arg(&recording).args(["--", "go"]).args(arguments);
    let mut child = command.stdin(Stdio::null()).spawn().unwrap();
    if let Some(zips) = kill {
        let asked = || proxy.log().iter().filter(|request| request.asked.kind() == "zip").count();
        wait_until("zips are asked for", Duration::from_secs(60), || asked() >= zips);
        std::thread::sleep(Duration::from_secs(2));
        // SAFETY: system call without pointers, to a child that was not waited for.
        assert_eq!(unsafe { libc::kill(i32::try_from(child.id()).unwrap(), libc::SIGTERM) }, 0);
    }
    assert_eq!(child.wait().unwrap().success(), kill.is_none());
}

#[test]
#[ignore = "writes the committed recordings; then UPDATE_SNAPSHOTS=1 cargo test --test replay"]
fn record_the_committed_builds() {
    if !possible() {
        return;
    }
    record(
        "build",
        &["build", "-o", "program", "."],
        Rule::on("*/mod003/@v/*.zip").first_byte(Duration::from_millis(250)),
        None,
    );
    record("killed", &["mod", "download"], Rule::on("*/mod003/@v/*.zip").stall(), Some(8));
}
