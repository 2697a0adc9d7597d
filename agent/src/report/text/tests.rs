use proptest::prelude::*;

use super::*;
use crate::build::{LostEvents, Probe, Run};
use crate::report::fixtures;

const PLAIN_TEXT: TextOptions = TextOptions { rows: Rows::Top(3), color: false, builds: BuildsShown::Costliest };

fn text(document: &Document) -> String {
    let text = render(document, &PLAIN_TEXT);
    assert_printable(&text);
    text
}

fn assert_printable(text: &str) {
    for line in text.lines() {
        assert!(line.chars().count() <= 80, "{} columns: {line:?}", line.chars().count());
        assert!(!line.chars().any(char::is_control), "{line:?}");
        assert!(!line.contains(['\u{202e}', '\u{200b}']), "{line:?}");
        assert_eq!(line.trim_end(), line);
    }
    assert!(text.ends_with('\n'));
    assert!(!text.starts_with('\n') && !text.contains("\n\n\n"), "{text:?}");
}

#[test]
fn example() {
    insta::assert_snapshot!(text(&fixtures::example()));
}

#[test]
fn example_all_rows() {
    let text = render(&fixtures::example(), &TextOptions { rows: Rows::All, ..PLAIN_TEXT });
    assert_printable(&text);
    assert!(!text.contains(" more\n"), "{text}");
    assert_eq!(text.lines().filter(|line| line.contains("example.com/lib/number")).count(), 80 + 370);
}

#[test]
fn warm() {
    insta::assert_snapshot!(text(&fixtures::document(None, vec![fixtures::warm()])));
}

#[test]
fn killed_in_flight() {
    insta::assert_snapshot!(text(&fixtures::killed_in_flight()));
}

#[test]
fn killed_in_flight_all_rows() {
    let text = render(&fixtures::killed_in_flight(), &TextOptions { rows: Rows::All, ..PLAIN_TEXT });
    assert_printable(&text);
    assert!(text.contains("in flight 9m48s"), "{text}");
    assert_eq!(text.lines().filter(|line| line.contains("example.com/m")).count(), 61);
}

#[test]
fn many_commands() {
    insta::assert_snapshot!(text(&fixtures::many_commands()));
}

#[test]
fn nested_commands() {
    insta::assert_snapshot!(text(&fixtures::nested_commands()));
}

#[test]
fn builds_that_contain_one_another_are_each_shown_once() {
    let mut document = fixtures::nested_commands();
    let parent = |document: &mut Document, id: &str, parent: &str| {
        let build = document.builds.iter_mut().find(|build| build.id == id).unwrap();
        build.parent_id = Some(parent.to_owned());
    };
    parent(&mut document, "generate", "build");
    parent(&mut document, "test", "test");
    let text = render(&document, &TextOptions { rows: Rows::All, ..PLAIN_TEXT });
    for command in ["go generate ./...", "go run ./internal/gen", "go build -o bin/tool", "go test ./...", "go vet"] {
        assert_eq!(text.lines().take(8).filter(|line| line.contains(command)).count(), 1, "{command}: {text}");
    }
}

#[test]
fn many_commands_each() {
    let text = render(&fixtures::many_commands(), &TextOptions { builds: BuildsShown::All, ..PLAIN_TEXT });
    assert_printable(&text);
    assert_eq!(text.lines().filter(|line| line.contains("of 4 cores")).count(), 14);
}

#[test]
fn lost_events() {
    insta::assert_snapshot!(text(&fixtures::lossy()));
}

#[test]
fn events_lost_outside_the_builds() {
    let mut document = fixtures::document(None, vec![fixtures::warm()]);
    document.complete = false;
    document.lost_events = LostEvents { total: 3, by_reason: [("ring_full".to_owned(), 3)].into() };
    insta::assert_snapshot!(text(&document));
}

#[test]
fn single_trivial_command() {
    let build = fixtures::build("/usr/local/go/bin/go env GOROOT", 12_000_000);
    let run = fixtures::run("go env GOROOT", 0, 13_000_000);
    insta::assert_snapshot!(text(&fixtures::document(Some(run), vec![build])));
}

#[test]
fn empty() {
    insta::assert_snapshot!(text(&fixtures::document(Some(fixtures::run("make image", 0, 3_000_000_000)), Vec::new())));
}

#[test]
fn empty_on_the_whole_host() {
    let run = Run { scope: Scope::All, ..fixtures::run("make image", 0, 3_000_000_000) };
    let text = text(&fixtures::document(Some(run), Vec::new()));
    assert!(!text.contains("--all-processes"), "{text}");
    assert!(text.contains("No go command was seen on this host"), "{text}");
}

#[test]
fn huge_names() {
    insta::assert_snapshot!(text(&fixtures::huge_names()));
}

#[test]
fn failure() {
    insta::assert_snapshot!(text(&fixtures::failure()));
}

#[test]
fn tiers_that_did_not_load_are_said_once() {
    let mut document = fixtures::example();
    let off =
        |name| Probe { name, state: ProbeState::Off, reason: Some("go1.99.0 is not in the offset tables".to_owned()) };
    document.probes[1] = Probe {
        name: Tier::Goroutine,
        state: ProbeState::Degraded,
        reason: Some("registers are read for amd64 only".to_owned()),
    };
    document.probes[2] = off(Tier::Spans);
    document.probes[3] = off(Tier::Requests);
    let text = text(&document);
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("Probes")).collect();
    assert_eq!(
        lines,
        [
            "Probes    goroutine degraded: registers are read for amd64 only",
            "Probes    spans, requests off: go1.99.0 is not in the offset tables",
        ]
    );
}

#[test]
fn p95_needs_20_samples_whatever_the_document_says() {
    let mut document = fixtures::example();
    document.builds[0].hosts[0].requests = 19;
    document.builds[0].disk = None;
    assert!(!text(&document).contains("p95"));
    document.builds[0].hosts[0].requests = 20;
    assert!(text(&document).contains("p95"));
}

#[test]
fn colours_change_nothing_else_and_only_when_asked() {
    for document in [fixtures::example(), fixtures::killed_in_flight(), fixtures::many_commands(), fixtures::failure()]
    {
        let plain = render(&document, &PLAIN_TEXT);
        let coloured = render(&document, &TextOptions { color: true, ..PLAIN_TEXT });
        assert!(!plain.contains('\u{1b}'));
        assert!(coloured.contains('\u{1b}'));
        assert_eq!(without_styles(&coloured), plain);
    }
}

/// Takes out `ESC [ … m`, the only sequences that there may be.
fn without_styles(text: &str) -> String {
    let mut pieces = text.split('\u{1b}');
    let mut plain = pieces.next().unwrap().to_owned();
    for piece in pieces {
        let (style, rest) = piece.split_once('m').unwrap();
        let digits = style.strip_prefix('[').unwrap();
        assert!(digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b';'), "{style:?}");
        plain.push_str(rest);
    }
    plain
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn any_document_is_printable(
        document in fixtures::arbitrary::documents(),
        rows in prop_oneof![Just(Rows::All), (0usize..6).prop_map(Rows::Top)],
        each in any::<bool>(),
        diagnosed in any::<bool>(),
    ) {
        let mut document = document;
        if diagnosed {
            for build in &mut document.builds {
                build.findings = crate::diagnose::findings(build);
            }
        }
        let builds = if each { BuildsShown::All } else { BuildsShown::Costliest };
        let options = TextOptions { rows, color: false, builds };
        let plain = render(&document, &options);
        assert_printable(&plain);
        prop_assert_eq!(without_styles(&render(&document, &TextOptions { color: true, ..options })), plain);
    }
}
