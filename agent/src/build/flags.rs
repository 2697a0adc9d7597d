//! The go command's own flags, told from the arguments of the program that it runs.

use super::state::split;

/// Whether a boolean flag is on, by GOFLAGS or the command line. The last one counts.
pub fn is_on(name: &str, arguments: &[String], goflags: &str) -> bool {
    let mut on = false;
    for word in goflags.split_whitespace().chain(own(arguments)) {
        let flag = flag(word).unwrap_or_default();
        let (flag, value) = flag.split_once('=').unwrap_or((flag, "true"));
        if flag == name {
            // As strconv.ParseBool.
            on = matches!(value, "1" | "t" | "T" | "true" | "TRUE" | "True");
        }
    }
    on
}

/// The flags of the go command itself. They end where its `flag` package ends them, at the first word that is neither a
/// flag nor the value of one. `go test` alone also takes them behind its packages.
fn own(arguments: &[String]) -> Vec<&str> {
    let (subcommand, words) = split(arguments);
    let mut packages = match subcommand.as_str() {
        "test" => Packages::Before,
        _ => Packages::End,
    };
    let mut flags = Vec::new();
    let mut words = words.iter().map(String::as_str);
    let mut may_be_value = false;
    while let Some(word) = words.next() {
        let after_unknown = std::mem::take(&mut may_be_value);
        if matches!(word, "--" | "-args" | "--args") {
            break;
        }
        let Some(flag) = flag(word) else {
            packages = match packages {
                Packages::Before | Packages::Among => Packages::Among,
                // cmd/go/internal/test/testflag.go, `testFlags`: what follows a flag of the test's may be its value.
                Packages::After if after_unknown => Packages::After,
                Packages::After | Packages::End => break,
            };
            continue;
        };
        packages = match packages {
            Packages::Before => Packages::Before,
            Packages::Among | Packages::After => Packages::After,
            Packages::End => Packages::End,
        };
        flags.push(word);
        let (name, value) = flag.split_once('=').map_or((flag, None), |(name, value)| (name, Some(value)));
        let name = name.strip_prefix("test.").unwrap_or(name);
        if value.is_none() && VALUED.contains(&name) {
            words.next();
        } else if packages != Packages::End && !VALUED.contains(&name) && !BOOLEAN_OF_TEST.contains(&name) {
            // Unknown, so the test's: the list of packages is complete.
            packages = Packages::After;
            may_be_value = value.is_none();
        }
    }
    flags
}

/// Where `go test` is with its list of packages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Packages {
    /// None came.
    Before,
    /// The last word was one.
    Among,
    /// All came.
    After,
    /// The first one ends the flags: it is not `go test`.
    End,
}

/// A word without the dashes of a flag.
fn flag(word: &str) -> Option<&str> {
    let flag = word.strip_prefix("--").or_else(|| word.strip_prefix('-'))?;
    (!flag.is_empty()).then_some(flag)
}

/// Flags of `go build` and what takes its flags whose value may be the next word (work/build.go, test/testflag.go and
/// others below cmd/go/internal, Go 1.26).
#[rustfmt::skip]
const VALUED: [&str; 51] = [
    "C", "asmflags", "bench", "benchtime", "blockprofile", "blockprofilerate", "buildmode", "compiler", "count",
    "covermode", "coverpkg", "coverprofile", "cpu", "cpuprofile", "debug-actiongraph", "debug-runtime-trace",
    "debug-trace", "exec", "f", "fixtool", "fuzz", "fuzzminimizetime", "fuzztime", "gccgoflags", "gcflags",
    "installsuffix", "ldflags", "list", "memprofile", "memprofilerate", "mod", "modfile", "mutexprofile",
    "mutexprofilefraction", "o", "outputdir", "overlay", "p", "parallel", "pgo", "pkgdir", "reuse", "run", "shuffle",
    "skip", "tags", "timeout", "toolexec", "trace", "vet", "vettool",
];

/// The other flags that `go test` knows.
#[rustfmt::skip]
const BOOLEAN_OF_TEST: [&str; 21] = [
    "a", "artifacts", "asan", "benchmem", "buildvcs", "c", "cover", "failfast", "fullpath", "i", "json", "linkshared",
    "modcacherw", "msan", "n", "race", "short", "trimpath", "v", "work", "x",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_of_the_program_that_runs_is_not_the_go_commands() {
        for (line, on) in [
            ("go build -a ./cmd", true),
            ("go build -v -o a -tags x,y --a=true ./cmd", true),
            ("go build -ldflags -a -gcflags=-a -o -a ./cmd", false),
            ("go build -a -a=false ./cmd", false),
            ("go build -asan ./cmd", false),
            ("go -C dir build -a ./cmd", true),
            ("go build -C build -a ./cmd", true),
            ("go run . -a", false),
            ("go run -exec env ./cmd -a", false),
            ("go run -race -a ./cmd", true),
            ("go run -- ./cmd -a", false),
            ("go mod download -a", true),
            ("go tool compile -a", false),
            ("go test ./x -a", true),
            ("go test -run Y -count 1 ./x ./y -v -a", true),
            ("go test ./x -v z -a", false),
            ("go test ./x -update z -a", true),
            ("go test ./x -update=z y -a", false),
            ("go test -update z y -a", false),
            ("go test ./x -args -a", false),
            ("go test ./x -run -a", false),
            ("go", false),
        ] {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            assert_eq!(is_on("a", &words, ""), on, "{line}");
        }
        let build = ["go", "build", "-a=0", "./cmd"].map(str::to_owned);
        assert!(is_on("a", &build[..2], "-mod=mod -a"));
        assert!(!is_on("a", &build, "-a"));
    }
}
