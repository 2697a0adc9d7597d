//! Flags and settings that every compilation of a build depends on: builds with others have actions of their own.

/// Flags that alter what a package is compiled from or to (cmd/go/internal/work/build.go, `AddBuildFlags`), and whether
/// a value follows.
const FLAGS: [(&str, bool); 18] = [
    ("asan", false),
    ("asmflags", true),
    ("buildmode", true),
    ("compiler", true),
    ("cover", false),
    ("covermode", true),
    ("coverpkg", true),
    ("gccgoflags", true),
    ("gcflags", true),
    ("installsuffix", true),
    ("linkshared", false),
    ("msan", false),
    ("overlay", true),
    ("pgo", true),
    ("race", false),
    ("tags", true),
    ("toolexec", true),
    ("trimpath", false),
];

/// One word for the flags of a command line, GOFLAGS and the settings.
pub fn of(arguments: &[String], go_flags: &str, target: &[String]) -> String {
    let words = arguments.iter().skip(1).map(String::as_str).take_while(|word| !matches!(*word, "--" | "-args"));
    let mut words = go_flags.split_whitespace().chain(words);
    let mut found: Vec<String> = target.to_vec();
    while let Some(word) = words.next() {
        let Some(flag) = word.strip_prefix("--").or_else(|| word.strip_prefix('-')) else { continue };
        let (name, value) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (flag, None),
        };
        match (FLAGS.iter().find(|(known, _)| *known == name), value) {
            (None, _) | (Some((_, false)), Some("false" | "0")) => {}
            (Some((_, false)), _) => found.push(format!("-{name}")),
            (Some((_, true)), value) => {
                found.push(format!("-{name}={}", value.or_else(|| words.next()).unwrap_or_default()));
            }
        }
    }
    found.sort();
    found.dedup();
    found.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spelling_and_order_do_not_matter() {
        let of = |arguments: &str, flags: &str| {
            of(&arguments.split(' ').map(str::to_owned).collect::<Vec<_>>(), flags, &["GOOS=js".to_owned()])
        };
        assert_eq!(of("go build -v -o x ./...", ""), "GOOS=js");
        assert_eq!(of("go build --race -tags a,b .", ""), "-race -tags=a,b GOOS=js");
        assert_eq!(of("go test -race=true . -args -msan", "-tags=a,b"), of("go build -tags a,b -race", ""));
        assert_eq!(of("go build -race=false", ""), "GOOS=js");
    }
}
