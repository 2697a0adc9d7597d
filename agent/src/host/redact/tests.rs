use proptest::prelude::*;

use super::*;

#[test]
fn urls_lose_user_info_query_values_and_fragment() {
    for (from, to) in [
        ("https://proxy.example", "https://proxy.example"),
        ("https://user:pass@proxy.example:8443/go", "https://proxy.example:8443/go"),
        ("https://token@proxy.example/a/@v/v1.0.0.zip", "https://proxy.example/a/@v/v1.0.0.zip"),
        ("https://a:b@c@proxy.example/x", "https://proxy.example/x"),
        ("https://u:p/w@proxy.example/x", "https://proxy.example/x"),
        ("https://[::1]:8080/x", "https://[::1]:8080/x"),
        (
            "https://h.example/z?sig=abc&X-Amz-Date=1&flag#part",
            "https://h.example/z?sig=REDACTED&X-Amz-Date=REDACTED&REDACTED",
        ),
        ("https://example.com/pkg?go-get=1", "https://example.com/pkg?go-get=1"),
        ("user:pass@proxy.example/go", "proxy.example/go"),
        ("file:///srv/proxy", "file:///srv/proxy"),
        ("ssh://git@h.example:22/x", "ssh://h.example:22/x"),
        ("https://user:broken", "https://REDACTED"),
    ] {
        assert_eq!(url(from), to, "{from}");
    }
}

#[test]
fn texts_keep_what_is_no_secret() {
    for same in [
        "go: downloading k8s.io/api v0.31.2",
        "./token.go:12:3: undefined: secretStore",
        "go/token: package go/token is not in std",
        "reading https://proxy.example/k8s.io/api/@v/v0.31.2.zip: 404 Not Found",
        "k8s.io/api@v0.31.2: verifying module: checksum mismatch",
        "dial tcp 127.0.0.1:443: connect: connection refused",
        "fatal: Could not read from remote repository. git@git.example:team/auth.git",
        "# example.com/x [example.com/x.test]",
        "basic usage",
        "curl -X POST https://h.example/x && curl -X \"PUT\" -d a=b h.example",
        "tar -X --exclude=a; test \"$1\" = -X; y=1",
        "link: -X flag requires argument of the form importpath.name=value",
        "main.key: cannot set with -X: not a var of type string (type:int)",
        "java -Xmx1g -Dx=y",
    ] {
        assert_eq!(text(same), same);
    }
}

#[test]
fn texts_lose_secrets() {
    for (from, to) in [
        ("Get \"https://u:p@h.example/x?t=1\": EOF", "Get \"https://h.example/x?t=REDACTED\": EOF"),
        ("parse \"https://u:my pass@h.example/x\": bad", "parse \"https://h.example/x\": bad"),
        (
            "GOPROXY=https://u:p@a.example,https://t@b.example|direct",
            "GOPROXY=https://a.example,https://b.example|direct",
        ),
        ("Authorization: Basic abcdef\nnext", "Authorization: REDACTED\nnext"),
        ("sent Bearer abcdefghijk to it", "sent Bearer REDACTED to it"),
        ("{\"token\": \"abc def\", \"x\": 1}", "{\"token\": REDACTED, \"x\": 1}"),
        ("export API_TOKEN=abc; go build", "export API_TOKEN=REDACTED go build"),
        ("remote ann:abc@h.example/x", "remote REDACTED@h.example/x"),
        ("clone abcdef@h.example:x/y", "clone REDACTED@h.example:x/y"),
        ("used ghp_0123456789abcdef here", "used REDACTED here"),
    ] {
        assert_eq!(text(from), to);
    }
}

#[test]
fn texts_lose_linker_definitions_and_keep_what_stands_around() {
    for (from, to) in [
        ("go build -ldflags \"-X main.key=abc\" .", "go build -ldflags \"-X main.key=REDACTED\" ."),
        (
            "go build -ldflags '-s -X main.key=abc -X main.b=c -w' ./cmd && echo \"done\"",
            "go build -ldflags '-s -X main.key=REDACTED -X main.b=REDACTED -w' ./cmd && echo \"done\"",
        ),
        ("go build -ldflags=-X=main.key=abc ./cmd", "go build -ldflags=-X=main.key=REDACTED ./cmd"),
        ("go build --ldflags=all=-X=main.key=abc ./cmd", "go build --ldflags=all=-X=main.key=REDACTED ./cmd"),
        (
            "go build -ldflags=\"-X 'main.key=a b' -s\" ./cmd; ls -a",
            "go build -ldflags=\"-X 'main.key=REDACTED' -s\" ./cmd; ls -a",
        ),
        ("-ldflags \"-X main.key='a b' -s\" ./cmd", "-ldflags \"-X main.key=REDACTED -s\" ./cmd"),
        ("-ldflags \"-s -X main.key=a b -w\" ./cmd", "-ldflags \"-s -X main.key=REDACTED -w\" ./cmd"),
        ("-ldflags \"-X 'main.key=it\\\"s' -w\" ./cmd", "-ldflags \"-X 'main.key=REDACTED' -w\" ./cmd"),
        ("-ldflags \"-X \\\"main.key=a b\\\" -w\" ./cmd", "-ldflags \"-X \\\"main.key=REDACTED\\\" -w\" ./cmd"),
        ("-ldflags -X\\ main.key=a\\ b ./cmd", "-ldflags -X\\ main.key=REDACTED ./cmd"),
        ("-ldflags \"-X main.key=$(git log -1 | cat) -w\" ./cmd", "-ldflags \"-X main.key=REDACTED -w\" ./cmd"),
        // What `go build -x` prints: of the linker's words those with a space are quoted as Go does.
        ("link -o a.out -X main.key=abc -s main.a", "link -o a.out -X main.key=REDACTED -s main.a"),
        ("link -X \"main.key=a \\\"b\\\" -c\" -s main.a", "link -X \"main.key=REDACTED\" -s main.a"),
        ("link \"-X=main.key=a -b c\" -s main.a", "link \"-X=main.key=REDACTED\" -s main.a"),
        // And in the build info that it hands to the linker.
        (
            "modinfo \"path\\tmain\\nbuild\\t-ldflags=\\\"-s -X main.key=a -w\\\"\\nbuild\\tGOOS=linux\\n\"",
            "modinfo \"path\\tmain\\nbuild\\t-ldflags=\\\"-s -X main.key=REDACTED -w\\\"\\nbuild\\tGOOS=linux\\n\"",
        ),
        ("[\"link\",\"-X\",\"main.key=a b\",\"-s\"]", "[\"link\",\"-X\",\"main.key=REDACTED\",\"-s\"]"),
        ("can't: go build -ldflags \"-X main.key=a b\" .", "can't: go build -ldflags \"-X main.key=REDACTED\" ."),
    ] {
        assert_eq!(text(from), to);
        assert_eq!(arguments(&["sh", "-c", from])[2], to);
    }
}

#[test]
fn arguments_lose_linker_definitions() {
    for (from, to) in [
        (
            &["go", "build", "-ldflags", "-s -w -X main.key=abc"][..],
            &["go", "build", "-ldflags", "-s -w -X main.key=REDACTED"][..],
        ),
        (&["-ldflags=-X 'main.key=a b' -s"], &["-ldflags=-X main.key=REDACTED -s"]),
        (&["--ldflags=-X=main.key=abc"], &["--ldflags=-X=main.key=REDACTED"]),
        (&["-ldflags=all=-X main.key=abc -w"], &["-ldflags=all=-X main.key=REDACTED -w"]),
        (&["-ldflags=all=-X=main.key=abc"], &["-ldflags=all=-X=main.key=REDACTED"]),
        (&["-ldflags=-X main.key=\"a b c\""], &["-ldflags=-X REDACTED"]),
        (&["-ldflags=-X 'main.key=a"], &["-ldflags=REDACTED"]),
        (
            &["link", "-X", "main.key=abc", "-X=a.b=c", "-o", "x"],
            &["link", "-X", "main.key=REDACTED", "-X=a.b=REDACTED", "-o", "x"],
        ),
        (&["curl", "-X", "POST", "-u", "me:pw"], &["curl", "-X", "POST", "-u", "me:REDACTED"]),
        (
            &["tool", "--token", "abc", "--api-key=x", "PASSWORD=y"],
            &["tool", "--token", "REDACTED", "--api-key=REDACTED", "PASSWORD=REDACTED"],
        ),
        (&["git", "-c", "http.extraHeader=Authorization: Basic x"], &["git", "-c", "http.extraHeader=REDACTED"]),
        (&["go", "test", "-run", "TestToken", "./..."], &["go", "test", "-run", "TestToken", "./..."]),
        (
            &["compile", "-p", "go/token", "-trimpath", "/w/b003=>"],
            &["compile", "-p", "go/token", "-trimpath", "/w/b003=>"],
        ),
    ] {
        assert_eq!(arguments(from), to);
    }
    assert_eq!(flag_list("-mod=mod '-ldflags=-X main.key=a b'"), "-mod=mod '-ldflags=-X main.key=REDACTED REDACTED'");
}

/// Ways in which people put a secret on a command line or into a text; `CANARY` is its place.
const TEMPLATES: [&str; 38] = [
    "https://user:CANARY@proxy.example/go",
    "https://CANARY@proxy.example/go",
    "https://proxy.example/x?token=CANARY",
    "https://proxy.example/x?a=b&X-Amz-Signature=CANARY&c=d",
    "https://proxy.example/x#CANARY",
    "see \"https://user:CANARY@proxy.example/x?y=CANARY\" or (https://proxy.example?CANARY)",
    "GOPROXY=https://u:CANARY@a.example|https://CANARY@b.example,direct",
    "GOPROXY=u:CANARY@a.example",
    "git clone https://x-access-token:CANARY@h.example/x.git",
    "x-access-token:CANARY@h.example:x.git",
    "-ldflags=-X main.key=CANARY",
    "-ldflags=-s -X 'main.key=CANARY'",
    "-ldflags=-X \"main.key=CANARY CANARY\"",
    "-ldflags=-X main.key='CANARY CANARY'",
    "-ldflags=all=-X=main.key=CANARY",
    "--ldflags=-X=main.key=CANARY",
    "-X=main.key=CANARY",
    "go build -ldflags \"-X main.key=CANARY\" .",
    "go build -ldflags '-s -w -X main.key=CANARY -X main.other=CANARY' ./...",
    "go build -ldflags=-X=main.key=CANARY .",
    "go build -ldflags \"-X 'main.key=CANARY CANARY'\" .",
    "go build -ldflags '-X \"main.key=CANARY CANARY\" -s' .",
    "go build -ldflags \"-X \\\"main.key=CANARY CANARY\\\" -s\" .",
    "go build -ldflags \"-X main.key='CANARY CANARY'\" .",
    "go build -ldflags -X\\ main.key=CANARY\\ CANARY .",
    "go build -ldflags \"-s \\\n\t-X main.key=CANARY \\\n\t-X $(PKG).other=CANARY\" .",
    "set -e; LDFLAGS=\"-X 'main.key=CANARY, CANARY'\"; go build -ldflags \"$LDFLAGS\"",
    "/sdk/link -o $WORK/b001/exe/a.out -X main.key=CANARY -X \"main.other=CANARY \\\"CANARY\" $WORK/b001/_pkg_.a",
    "/sdk/link \"-X=main.key=CANARY -x CANARY\" $WORK/b001/_pkg_.a",
    "modinfo \"build\\t-ldflags=\\\"-X 'main.key=CANARY CANARY'\\\"\\nbuild\\tCGO_ENABLED=1\\n\"",
    "[\"-X\", \"main.key=CANARY CANARY\"]",
    "--token=CANARY",
    "API_SECRET=CANARY",
    "password: CANARY",
    "curl -H 'Authorization: Bearer CANARY' x",
    "sh -c \"tool --password CANARY x\"",
    "AWS_SECRET_ACCESS_KEY=CANARY go build",
    "{\"token\":\"CANARY\"}",
];

proptest! {
    #[test]
    fn a_canary_never_survives(template in proptest::sample::select(&TEMPLATES[..]), canary in "[A-Za-z0-9%_.~!-]{8,40}") {
        prop_assume!(!canary.contains(REDACTED));
        let written = template.replace("CANARY", &canary);
        for clean in [arguments(std::slice::from_ref(&written)).join(" "), arguments(&["-v", &written]).join(" ")] {
            prop_assert!(!clean.contains(&canary), "{written} gave {clean}");
        }
        let script = format!("cd x && {written} && echo it's done");
        for written in [&written, &script] {
            let clean = text(written);
            prop_assert!(!clean.contains(&canary), "{written} gave {clean}");
        }
    }

    #[test]
    fn a_canary_in_the_next_argument_never_survives(
        flag in proptest::sample::select(vec!["--token", "-password", "--api-key", "--auth-token"]),
        canary in "[ -~]{1,40}",
    ) {
        let clean = arguments(&["tool", flag, &canary, "x"]);
        prop_assert_eq!(&clean[2], REDACTED);
    }

    #[test]
    fn linker_definitions_never_survive(value in "[A-Za-z0-9 ]{8,40}", quote in proptest::sample::select(vec!["'", "\""])) {
        let secret = value.trim().to_owned();
        prop_assume!(secret.len() >= 8);
        for flags in [
            format!("-s -X {quote}main.key={secret}{quote} -w"),
            format!("-X main.key={quote}{secret}{quote}"),
            format!("{quote}-X=main.key={secret}{quote}"),
            format!("-extldflags {quote}-static{quote} -X {quote}main.key={secret}{quote}"),
        ] {
            let clean = arguments(&["go", "build", "-ldflags", &flags, "."]).join(" ");
            let last = secret.rsplit(' ').next().unwrap_or_default();
            prop_assert!(last.len() < 3 || !clean.contains(&secret), "{flags} gave {clean}");
            prop_assert!(!clean.contains(&secret), "{flags} gave {clean}");
        }
    }

    #[test]
    fn any_quoting_is_survived(value in "([-X=m '\"`\\\\(){},\n]|-X |-X main.k=|é){0,60}") {
        let clean = text(&value);
        // A text without a name has no definition.
        prop_assert!(value.contains('m') || value.contains('=') || clean == value, "{} gave {}", value, clean);
    }

    #[test]
    fn any_text_is_survived(value in "\\PC*") {
        let _ = text(&value);
        let _ = url(&value);
        let _ = flag_list(&value);
    }
}
