use proptest::prelude::*;

use super::*;

fn parse(entries: &[&str]) -> Environ {
    Environ::parse(format!("{}\0", entries.join("\0")).as_bytes(), Start::Whole)
}

#[test]
fn keeps_what_matters_without_its_secrets() {
    let environ = parse(&[
        "GOPROXY=https://user:canary@proxy.example/go|https://canary@b.example?x=canary,direct",
        "GOSUMDB=sum.example+1234abcd+canaryKEY https://user:canary@sum.example/db?k=canary",
        "GOFLAGS=-mod=mod '-ldflags=-X main.key=canary'",
        "GOCACHEPROG=/opt/bin/cacheprog --token canary",
        "HTTPS_PROXY=http://user:canary@forward.example:3128",
        "no_proxy=localhost,.example",
        "TRACEPARENT=00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "GOPRIVATE=git.corp.example/*",
        "AWS_SECRET_ACCESS_KEY=canary",
        "GOAUTH=netrc canary",
        "GOBUILD_TRACE_RUN=a1b2:3",
        "GOBUILD_TRACE_BAD=has space canary",
        "GOPROXY=https://second.example",
    ]);
    let all = serde_json::to_string(&environ).unwrap();
    assert!(!all.contains("canary"), "{all}");
    assert_eq!(environ.get(Variable::GoProxy), Some("https://proxy.example/go|https://b.example?x=REDACTED,direct"));
    assert_eq!(environ.get(Variable::GoSumDb), Some("sum.example https://sum.example/db?k=REDACTED"));
    assert_eq!(environ.get(Variable::GoFlags), Some("-mod=mod '-ldflags=-X main.key=REDACTED'"));
    assert_eq!(environ.get(Variable::GoCacheProg), Some("cacheprog"));
    assert_eq!(environ.get(Variable::HttpsProxy), Some("http://forward.example:3128"));
    assert_eq!(environ.get(Variable::NoProxyLower), Some("localhost,.example"));
    assert!(environ.get(Variable::TraceParent).is_some());
    assert_eq!(environ.markers.len(), 1);
    assert_eq!(serde_json::from_str::<Environ>(&all).unwrap(), environ);
}

#[test]
fn a_cut_environment_starts_at_the_next_variable() {
    let environ =
        Environ::parse(b"HOME=/not/whole\0TOOLEXEC_IMPORTPATH=example.com/p [p.test]\0PWD=/src\0", Start::Cut);
    assert_eq!(environ.get(Variable::Home), None);
    assert_eq!(environ.get(Variable::ToolexecImportPath), Some("example.com/p [p.test]"));
    assert_eq!(environ.get(Variable::Pwd), Some("/src"));
}

#[test]
fn a_trace_context_that_is_none_is_left_out() {
    for value in ["00-xyz-b7ad6b7169203331-01", "canary", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x"] {
        assert_eq!(parse(&[&format!("TRACEPARENT={value}")]).get(Variable::TraceParent), None);
    }
}

#[test]
fn every_variable_is_found_under_its_name() {
    for variable in Variable::ALL {
        assert_eq!(Variable::parse(variable.name()), Some(*variable));
        assert_eq!(serde_json::to_value(variable).unwrap(), variable.name());
    }
}

proptest! {
    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        let _ = Environ::parse(&bytes, Start::Whole);
        let _ = Environ::parse(&[b"GOPROXY=", &bytes[..]].concat(), Start::Whole);
        let _ = Environ::parse(&[b"GOFLAGS=", &bytes[..]].concat(), Start::Cut);
    }
}
