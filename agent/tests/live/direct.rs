//! Modules from their repositories: whose time it was, and which server git really asked.

use std::{collections::BTreeSet, io::Read, sync::Arc, time::Duration};

use gobuild_trace::build::{FetchKind, ModuleResult, Source};
use testkit::{
    authority::Authority,
    git::Repositories,
    module::{ModuleSet, Shape, Topology},
    namespace::{PrivateEtc, write_hosts},
    proxy::{Proxy, RequestRecord, Rule, Transport},
};

use crate::wrapper::{Wrapper, environment, possible, wait_until};

const HOST: &str = "git.test";
/// Where git goes instead, by its own configuration.
const MIRROR: &str = "mirror.test";

#[test]
fn a_module_has_the_host_that_git_asked() {
    if !possible() {
        return;
    }
    let shape = Shape { modules: 3, topology: Topology::Fan, prefix: format!("{HOST}/gen"), ..Shape::default() };
    let modules = Arc::new(ModuleSet::generate(&shape).unwrap());
    let authority = Authority::new().unwrap();
    let server = Proxy::builder("git")
        .transport(Transport::Http2(&authority))
        .repositories(Repositories::new([modules.clone().into()]).unwrap())
        .listen_on_port(443)
        .start()
        .unwrap();
    for mirrored in [false, true] {
        let go = environment().proxy("direct").authority(&authority).build().unwrap();
        modules.write_program(go.work_dir()).unwrap();
        let hosts = go.root().join("hosts");
        write_hosts(&hosts, [HOST, MIRROR].map(|name| (name, server.address().ip()))).unwrap();
        let mut wrapper = Wrapper::new(&go, &[], ["go", "mod", "download"]);
        PrivateEtc::new().hosts(hosts).apply(wrapper.command());
        if mirrored {
            let settings = [
                // Its name is not in the certificate.
                ("GIT_SSL_NO_VERIFY", "1"),
                ("GIT_CONFIG_COUNT", "1"),
                ("GIT_CONFIG_KEY_0", &format!("url.https://{MIRROR}/.insteadOf")),
                ("GIT_CONFIG_VALUE_0", &format!("https://{HOST}/")),
            ];
            wrapper.command().envs(settings.map(|(name, value)| (name, value.to_owned())));
        }
        let seen = server.log().len();
        let ran = wrapper.run();
        // The other name is one that the server has no repository for.
        assert_eq!(ran.status.success(), !mirrored, "{}", ran.stderr);
        let asked = server.log().split_off(seen);
        let by_git = |record: &&RequestRecord| record.path.contains("/info/refs");
        let hosts: BTreeSet<&str> = asked.iter().filter(by_git).map(|record| record.host.as_str()).collect();
        let expected = if mirrored { MIRROR } else { HOST };
        assert_eq!(hosts, BTreeSet::from([expected]), "{asked:#?}");
        let build = ran.build();
        let versioned: Vec<_> = build.modules.iter().filter(|module| module.version.is_some()).collect();
        assert_eq!(versioned.len(), 3);
        for module in versioned {
            assert_eq!(module.host.as_deref(), Some(expected), "{module:#?}");
            assert_eq!(module.source, Some(Source::Direct));
            let result = if mirrored { ModuleResult::Failed } else { ModuleResult::Downloaded };
            assert_eq!(module.result, result, "{module:#?}");
            assert!(module.fetches.iter().any(|fetch| fetch.kind == FetchKind::Vcs && fetch.host.is_some()));
        }
        let row = build.hosts.iter().find(|row| row.host == expected).unwrap();
        assert_eq!(row.source, Source::Direct);
    }
}

/// git's own work is seen only as data that moves through its processes.
#[test]
fn a_slow_clone_is_no_stall_and_a_silent_one_is() {
    if !possible() {
        return;
    }
    const BYTES: u64 = 400_000;
    for silent in [false, true] {
        let shape = Shape {
            modules: 1,
            payload_bytes: BYTES as usize,
            topology: Topology::Fan,
            prefix: format!("{HOST}/gen"),
            ..Shape::default()
        };
        let modules = Arc::new(ModuleSet::generate(&shape).unwrap());
        let authority = Authority::new().unwrap();
        let rule = Rule::on("*/git-upload-pack");
        let server = Proxy::builder("git")
            .transport(Transport::Http2(&authority))
            .repositories(Repositories::new([modules.clone().into()]).unwrap())
            .listen_on_port(443)
            .rule(if silent { rule.stall() } else { rule.body_rate(BYTES / 8) })
            .start()
            .unwrap();
        let go = environment().proxy("direct").authority(&authority).build().unwrap();
        modules.write_program(go.work_dir()).unwrap();
        let hosts = go.root().join("hosts");
        write_hosts(&hosts, [(HOST, server.address().ip())]).unwrap();
        let mut wrapper = Wrapper::new(&go, &["--stall-after", "2s"], ["go", "mod", "download"]);
        PrivateEtc::new().hosts(hosts).apply(wrapper.command());
        let mut running = wrapper.start();
        let mut pipe = running.take_stderr();
        let said = std::thread::spawn(move || {
            let mut text = String::new();
            pipe.read_to_string(&mut text).map(|_| text)
        });
        if silent {
            let hangs = || server.log().iter().any(|request| request.asked.kind() == "upload-pack");
            wait_until("git waits", Duration::from_secs(60), hangs);
            std::thread::sleep(Duration::from_secs(4));
            running.signal(libc::SIGTERM);
        }
        let ran = running.wait();
        let said = said.join().unwrap().unwrap();
        let stalls: Vec<&str> = said.lines().filter(|line| line.contains("stalled")).collect();
        if silent {
            let module = &modules.modules()[0];
            let [line] = stalls.as_slice() else { panic!("{said}") };
            for word in [module.path.as_str(), HOST, "version control command running"] {
                assert!(line.contains(word), "{word} is missing: {line}");
            }
        } else {
            assert!(ran.status.success(), "{said}");
            let mut fetches = ran.build().modules.iter().flat_map(|module| &module.fetches);
            let slow =
                |fetch: &gobuild_trace::build::Fetch| fetch.kind == FetchKind::Vcs && fetch.duration_ns > 6_000_000_000;
            assert!(fetches.any(slow), "{:#?}", ran.build().modules);
            assert_eq!(stalls, Vec::<&str>::new());
        }
    }
}
