//! Downloads that fail: the row, the reason, the go command's own words, its exit code.

use std::{collections::BTreeSet, fs};

use gobuild_trace::build::{ErrorType, Finding, ModuleResult};
use testkit::{
    authority::Authority,
    dns::{DnsAnswer, DnsRule, DnsServer},
    goenv::GoEnv,
    module::ModuleSet,
    namespace::{PrivateEtc, ResolverOptions, write_resolv_conf},
    proxy::{Proxy, Rule, Transport},
    sumdb::Sumdb,
};

use crate::wrapper::{Ran, Wrapper, environment, module, modules, possible};

const DOWNLOAD: [&str; 3] = ["go", "mod", "download"];

/// Holds the row of the only failed module to what is said of it.
fn assert_failed(ran: &Ran, path: &str, error_type: ErrorType, words: &str) {
    assert_eq!(ran.status.code(), Some(1), "{}", ran.stderr);
    let build = ran.build();
    assert_eq!(build.exit_code, Some(1));
    let row = module(build, path);
    assert_eq!(row.result, ModuleResult::Failed, "{row:#?}");
    assert_eq!(row.error_type, Some(error_type), "{row:#?}\n{}", ran.stderr);
    let error = row.error.as_deref().unwrap_or_else(|| panic!("no text: {row:#?}"));
    assert!(error.contains(words), "{error}");
    assert!(ran.stderr.lines().any(|line| line.contains(error)), "not the go command's words: {error}");
    // One for each server and reason, which names each file.
    let names = |finding: &&Finding| {
        finding.code == "fetch_failed"
            && (finding.message.contains(path) || finding.evidence.iter().any(|line| line.contains(path)))
    };
    assert!(build.findings.iter().any(|finding| names(&finding)), "no finding: {:#?}", build.findings);
    assert!(build.summary.failed_fetches >= 1);
    assert!(ran.text.contains(path), "{}", ran.text);
}

/// The go command gives up at the first failure, so that others may still be under way.
fn assert_all_failed(ran: &Ran, error_type: ErrorType, words: &str) {
    let (failed, others): (Vec<_>, Vec<_>) =
        ran.build().modules.iter().partition(|module| module.result == ModuleResult::Failed);
    assert!(others.iter().all(|module| module.result == ModuleResult::InFlight), "{others:#?}");
    for module in &failed {
        assert_eq!(module.error_type, Some(error_type), "{module:#?}");
        assert!(!module.fetches.is_empty(), "{module:#?}");
    }
    // The go command names the first one only.
    let named = failed.iter().find(|module| module.error.is_some()).unwrap_or_else(|| panic!("{failed:#?}"));
    assert_failed(ran, &named.path, error_type, words);
}

fn downloaded(ran: &Ran) -> usize {
    ran.build().modules.iter().filter(|module| module.result == ModuleResult::Downloaded).count()
}

fn write_program(modules: &ModuleSet, go: &GoEnv) {
    modules.write_program(go.work_dir()).unwrap();
}

#[test]
fn a_zip_that_is_not_there() {
    if !possible() {
        return;
    }
    let modules = modules(3);
    let lacking = modules.modules()[2].path.clone();
    let authority = Authority::new().unwrap();
    for transport in [Transport::Plain, Transport::Http2(&authority)] {
        let proxy = Proxy::builder("main")
            .transport(transport)
            .host_name("localhost")
            .source(modules.clone())
            .rule(Rule::on("*/mod002/@v/*.zip").status(404))
            .start()
            .unwrap();
        let go = environment().proxy(proxy.url()).authority(&authority).build().unwrap();
        write_program(&modules, &go);
        let ran = Wrapper::new(&go, &[], DOWNLOAD).run();
        assert_failed(&ran, &lacking, ErrorType::Http404, "404 Not Found");
        assert_eq!(downloaded(&ran), 2);
        assert_eq!(module(ran.build(), &lacking).host.as_deref(), Some(proxy.host().as_str()));
    }
}

/// Over plain HTTP the status is seen on the wire, also where the go command goes on to the next proxy and says nothing.
#[test]
fn a_proxy_that_has_nothing_is_named_with_the_status() {
    if !possible() {
        return;
    }
    let modules = modules(4);
    let empty = Proxy::builder("empty").rule(Rule::on("*").status(404)).start().unwrap();
    let full = Proxy::builder("full").host_name("localhost").source(modules.clone()).start().unwrap();
    let go = environment().proxy(format!("{},{}", empty.url(), full.url())).build().unwrap();
    write_program(&modules, &go);
    let ran = Wrapper::new(&go, &[], DOWNLOAD).run().succeeded();
    let build = ran.build();
    assert_eq!(downloaded(&ran), 4, "{}\n{:#?}", ran.text, build.modules);
    let log = empty.log();
    let asked: BTreeSet<&str> = log.iter().map(|request| request.path.as_str()).collect();
    let host = build.hosts.iter().find(|row| row.host == empty.host()).unwrap_or_else(|| panic!("{:#?}", build.hosts));
    assert_eq!(host.errors, [(ErrorType::Http404, asked.len() as u64)].into(), "{asked:#?}");
    let line = ran.text.lines().find(|line| line.contains(&empty.host())).unwrap_or_else(|| panic!("{}", ran.text));
    assert!(line.contains(&format!("  {} 404  ", asked.len())), "{line}");
    assert!(build.hosts.iter().any(|row| row.host == full.host() && row.errors.is_empty()), "{:#?}", build.hosts);
}

#[test]
fn a_go_mod_that_is_refused() {
    if !possible() {
        return;
    }
    let modules = modules(3);
    let lacking = modules.modules()[0].path.clone();
    let proxy =
        Proxy::builder("main").source(modules.clone()).rule(Rule::on("*/mod000/@v/*").status(403)).start().unwrap();
    let go = environment().proxy(proxy.url()).build().unwrap();
    write_program(&modules, &go);
    let ran = Wrapper::new(&go, &[], DOWNLOAD).run();
    assert_failed(&ran, &lacking, ErrorType::Http403, "403 Forbidden");
}

#[test]
fn a_zip_that_is_not_what_go_sum_says() {
    if !possible() {
        return;
    }
    let modules = modules(3);
    let proxy = Proxy::builder("main").source(modules.clone()).start().unwrap();
    // One at a time: a mismatch ends the go command at once, whatever else is under way.
    let go = environment().proxy(proxy.url()).variable("GOMAXPROCS", "1").build().unwrap();
    write_program(&modules, &go);
    let forged = &modules.modules()[2];
    let sums = go.work_dir().join("go.sum");
    let other = &modules.modules()[0].zip_hash;
    fs::write(&sums, fs::read_to_string(&sums).unwrap().replace(&forged.zip_hash, other)).unwrap();
    let ran = Wrapper::new(&go, &[], DOWNLOAD).run();
    assert_failed(&ran, &forged.path, ErrorType::Checksum, "checksum mismatch");
    assert_eq!(downloaded(&ran), 2);
}

#[test]
fn a_zip_that_the_checksum_database_knows_otherwise() {
    if !possible() {
        return;
    }
    let modules = modules(3);
    let forged = modules.modules()[2].path.clone();
    let authority = Authority::new().unwrap();
    let sumdb = Sumdb::misreporting("sum.test", [modules.clone().into()], &forged).unwrap();
    let proxy = Proxy::builder("main")
        .transport(Transport::Http2(&authority))
        .source(modules.clone())
        .sumdb(sumdb.clone())
        .start()
        .unwrap();
    let go = environment()
        .proxy(proxy.url())
        .authority(&authority)
        .sumdb(&sumdb)
        .variable("GOFLAGS", "-mod=mod -modcacherw")
        .build()
        .unwrap();
    modules.write_program_without_sums(go.work_dir()).unwrap();
    let ran = Wrapper::new(&go, &[], DOWNLOAD).run();
    assert_failed(&ran, &forged, ErrorType::Checksum, "checksum mismatch");
}

#[test]
fn a_proxy_that_refuses_connections() {
    if !possible() {
        return;
    }
    let modules = modules(2);
    let proxy = Proxy::builder("main").source(modules.clone()).start().unwrap();
    proxy.refuse().unwrap();
    let go = environment().proxy(proxy.url()).build().unwrap();
    write_program(&modules, &go);
    let ran = Wrapper::new(&go, &[], DOWNLOAD).run();
    assert_all_failed(&ran, ErrorType::ConnectionRefused, "connection refused");
    let build = ran.build();
    assert!(!build.connections.is_empty());
    assert!(build.connections.iter().all(|connection| connection.error_type == Some(ErrorType::ConnectionRefused)));
}

#[test]
fn a_proxy_whose_name_does_not_exist() {
    if !possible() {
        return;
    }
    let modules = modules(2);
    let server = DnsServer::start().unwrap();
    let go = environment().proxy("https://nowhere.test/").build().unwrap();
    write_program(&modules, &go);
    let resolv_conf = go.root().join("resolv.conf");
    write_resolv_conf(&resolv_conf, server.address(), ResolverOptions::default()).unwrap();
    let mut wrapper = Wrapper::new(&go, &[], DOWNLOAD);
    PrivateEtc::new().resolv_conf(&resolv_conf).apply(wrapper.command());
    let ran = wrapper.run();
    assert_all_failed(&ran, ErrorType::HostNotFound, "no such host");
    let build = ran.build();
    let queries = || build.dns.iter().filter(|query| query.name.trim_end_matches('.') == "nowhere.test");
    let last_answer_ns = queries().map(|query| query.start_ns + query.duration_ns).max().unwrap();
    for fetch in build.modules.iter().flat_map(|module| &module.fetches) {
        assert_eq!(fetch.host.as_deref(), Some("nowhere.test"));
        // One that joins another's look-up may find its answers there.
        let dns_ns = fetch.stages.dns_ns.unwrap_or(0);
        assert!(dns_ns > 0 || fetch.start_ns >= last_answer_ns, "{last_answer_ns} {fetch:#?}");
    }
    let query = queries().next().unwrap();
    assert_eq!(query.rcode.as_deref(), Some("NXDOMAIN"));
    assert_eq!(query.server, Some(server.address().to_string()));
}

#[test]
fn a_name_server_that_never_answers() {
    if !possible() {
        return;
    }
    let modules = modules(2);
    let server = DnsServer::start().unwrap();
    server.set_rules([DnsRule::on("*").answer(DnsAnswer::Drop)]);
    let go = environment().proxy("https://silent.test/").build().unwrap();
    write_program(&modules, &go);
    let resolv_conf = go.root().join("resolv.conf");
    let options = ResolverOptions { timeout_s: Some(1), attempts: Some(3) };
    write_resolv_conf(&resolv_conf, server.address(), options).unwrap();
    let mut wrapper = Wrapper::new(&go, &["--stall-after", "1s"], DOWNLOAD);
    PrivateEtc::new().resolv_conf(&resolv_conf).apply(wrapper.command());
    let ran = wrapper.run();
    assert_all_failed(&ran, ErrorType::TimedOut, "i/o timeout");
    let hung: Vec<&str> = ran.stderr.lines().filter(|line| line.contains("stalled")).collect();
    assert!(
        !hung.is_empty() && hung.iter().all(|line| line.ends_with("silent.test, no answer to the DNS query")),
        "{hung:#?}"
    );
    let mut longest_ns = 0;
    for fetch in ran.build().modules.iter().flat_map(|module| &module.fetches) {
        let dns_ns = fetch.stages.dns_ns.unwrap_or(0);
        assert!(fetch.duration_ns - dns_ns < 300_000_000, "{fetch:#?}");
        longest_ns = longest_ns.max(dns_ns);
    }
    // The others join its look-up, some of them late.
    assert!(longest_ns > 2_900_000_000, "{:#?}", ran.build().modules);
    assert!(ran.build().dns.iter().all(|query| query.rcode.is_none() && query.attempts == 3), "{:#?}", ran.build().dns);
}
