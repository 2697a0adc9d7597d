//! Canaries in every place that secrets live: none of them is in anything that we write.

use std::sync::Arc;

use testkit::{
    authority::Authority,
    goenv::GoEnv,
    module::ModuleSet,
    proxy::{Proxy, Rule, Transport},
};

use crate::{
    canary::{self, CANARY},
    wrapper::{Ran, Wrapper, environment, modules, possible},
};

fn assert_clean(ran: &Ran, stderr_too: bool) {
    for (what, bytes) in ran.everything() {
        if what != "stdout" && (what != "stderr" || stderr_too) {
            canary::assert_none(what, bytes);
        }
    }
}

fn with_secrets(modules: &Arc<ModuleSet>, proxy: &str, authority: &Authority, variables: &[(&str, &str)]) -> GoEnv {
    canary::environment(environment().proxy(proxy).authority(authority), modules, variables)
}

#[test]
fn a_build_with_secrets_everywhere() {
    if !possible() {
        return;
    }
    let modules = modules(4);
    let authority = Authority::new().unwrap();
    let serve = |name: &str| {
        let transport = Transport::Http2(&authority);
        Proxy::builder(name).transport(transport).host_name("localhost").source(modules.clone())
    };
    let storage = serve("storage").start().unwrap();
    let target = format!("{}{{path}}?token={CANARY}-redirect&x=1", storage.url().trim_end_matches('/'));
    let proxy = serve("main").rule(Rule::on("*.zip").redirect(&target)).start().unwrap();
    let url = proxy.url().replace("https://", &format!("https://ann:{CANARY}-userinfo@"));
    let go = with_secrets(&modules, &url, &authority, &[]);
    let flags = format!("-ldflags=-X main.secret={CANARY}-ldflags");
    let ran = Wrapper::new(&go, &[], ["go", "build", &flags, "-o", "program", "."]).run();
    let ran = ran.succeeded();
    // The secrets were in use.
    assert!(proxy.log().iter().any(|request| request.has_authorization));
    assert!(storage.log().iter().any(|request| request.has_query));
    assert_eq!(ran.build().summary.modules_downloaded, 4);
    assert_clean(&ran, true);
}

/// A variable whose name says nothing is set by a script, and `-x` prints it with every command of the build.
#[test]
fn linker_definitions_in_a_script_and_in_what_the_go_command_prints() {
    if !possible() {
        return;
    }
    let go = environment().build().unwrap();
    crate::wrapper::write_program(
        go.work_dir(),
        "package main\n\nvar colour string\n\nfunc main() { print(colour) }\n",
    );
    let build = |flags: &str| format!("set -e; go build -x -ldflags {flags} -o program .");
    for flags in [
        format!("\"-s -X main.colour={CANARY}-plain\""),
        format!("\"-X 'main.colour={CANARY}-quoted and {CANARY}-spaced' -s\""),
        format!("-X=main.colour={CANARY}-assigned"),
    ] {
        let ran = Wrapper::new(&go, &[], ["sh", "-c", &build(&flags)]).run().succeeded();
        // It was in use, printed and taken down.
        assert!(ran.stderr.lines().any(|line| line.contains("/link ") && line.contains(CANARY)), "{}", ran.stderr);
        let kept = b"main.colour=REDACTED";
        assert!(ran.recording.windows(kept.len()).any(|window| window == kept));
        let run = ran.document.run.as_ref().unwrap();
        assert!(run.command[2].contains("main.colour=REDACTED") && run.command[2].ends_with("-o program ."), "{run:?}");
        // stderr is the go command's, which prints what it likes.
        assert_clean(&ran, false);
    }
}

#[test]
fn a_failure_whose_message_names_a_url_with_a_token() {
    if !possible() {
        return;
    }
    let modules = modules(2);
    let authority = Authority::new().unwrap();
    let storage =
        Proxy::builder("storage").transport(Transport::Http2(&authority)).host_name("localhost").start().unwrap();
    let target = format!("{}{{path}}?token={CANARY}-redirect", storage.url().trim_end_matches('/'));
    let proxy = Proxy::builder("main")
        .transport(Transport::Http2(&authority))
        .host_name("localhost")
        .source(modules.clone())
        .rule(Rule::on("*.zip").redirect(&target))
        .start()
        .unwrap();
    let url = proxy.url().replace("https://", &format!("https://ann:{CANARY}-userinfo@"));
    let go = with_secrets(&modules, &url, &authority, &[]);
    let ran = Wrapper::new(&go, &[], ["go", "mod", "download", "-x"]).run();
    assert_eq!(ran.status.code(), Some(1));
    assert!(storage.log().iter().any(|request| request.has_query && request.status == Some(404)));
    assert!(ran.build().modules.iter().any(|module| module.error.is_some()), "{:#?}", ran.build().modules);
    // stderr is the go command's, which prints what it likes.
    assert_clean(&ran, false);
}

#[test]
fn headers_over_plain_http() {
    if !possible() {
        return;
    }
    let modules = modules(3);
    let authority = Authority::new().unwrap();
    // Sent in clear: `Proxy-Authorization` to an HTTP proxy, and what a program of the user's sends itself.
    let proxy = Proxy::builder("main").source(modules.clone()).start().unwrap();
    let through = proxy.url().replace("http://", &format!("http://ann:{CANARY}-proxy@"));
    let go = with_secrets(&modules, "http://modules.test/", &authority, &[("HTTP_PROXY", &through)]);
    let ran = Wrapper::new(&go, &[], ["go", "mod", "download"]).run().succeeded();
    assert!(proxy.log().iter().any(|request| request.host == "modules.test"), "{:#?}", proxy.log());
    assert_eq!(ran.build().summary.modules_downloaded, 3);
    assert_clean(&ran, true);

    let program = format!(
        "package main\n\nimport \"net/http\"\n\nfunc main() {{\n\trequest, err := http.NewRequest(\"GET\", \"{}/x?key={CANARY}-query\", nil)\n\
         \tif err != nil {{\n\t\tpanic(err)\n\t}}\n\trequest.Header.Set(\"Authorization\", \"Bearer {CANARY}-bearer\")\n\
         \trequest.SetBasicAuth(\"bob\", \"{CANARY}-basic\")\n\tif _, err := http.DefaultClient.Do(request); err != nil {{\n\t\tpanic(err)\n\t}}\n}}\n",
        proxy.url().trim_end_matches('/')
    );
    let direct = environment().build().unwrap();
    crate::wrapper::write_program(direct.work_dir(), &program);
    let ran = Wrapper::new(&direct, &[], ["go", "run", "."]).run().succeeded();
    assert!(proxy.log().iter().any(|request| request.has_authorization && request.has_query));
    assert_clean(&ran, true);
}
