//! Files that the go command writes for its tools, and the ones that name a module: importcfg, response files, go.mod.

use serde::{Deserialize, Serialize};

use super::redact;

/// The packages that a compilation or link was given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportConfig {
    /// In the order of the file.
    pub packages: Vec<PackageFile>,
}

/// One `packagefile` line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackageFile {
    /// The package's import path.
    pub import_path: String,
    /// Its archive: below `$WORK` it was built in this run, below GOCACHE it was there.
    pub file: String,
}

/// The module that go.mod names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MainModule {
    /// Its path.
    pub path: String,
    /// The go.mod that says so.
    pub go_mod: String,
    /// The `go` line.
    pub go: Option<String>,
    /// The `toolchain` line.
    pub toolchain: Option<String>,
    /// The go.work in force.
    pub workspace: Option<String>,
}

/// A go command cannot have more packages than this in one closure; a longer file is something else.
const PACKAGES_MAX: usize = 100_000;

impl ImportConfig {
    /// Parses an importcfg. Only `packagefile` lines are kept: `modinfo` carries build settings with their secrets.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let packages = text
            .lines()
            .filter_map(|line| line.strip_prefix("packagefile "))
            .filter_map(|line| line.split_once('='))
            .take(PACKAGES_MAX)
            .map(|(import_path, file)| PackageFile { import_path: import_path.to_owned(), file: file.to_owned() })
            .collect();
        Self { packages }
    }
}

/// Arguments of a response file (`@file`), secrets removed. One line each, with `\\` and `\n` escaped
/// (`cmd/internal/objabi.DecodeArg`).
#[must_use]
pub fn parse_response_file(text: &str) -> Vec<String> {
    let arguments: Vec<String> = text.lines().map(decode_argument).collect();
    redact::arguments(&arguments)
}

fn decode_argument(line: &str) -> String {
    let mut argument = String::with_capacity(line.len());
    let mut characters = line.chars();
    while let Some(c) = characters.next() {
        match c {
            '\\' => match characters.next() {
                Some('n') => argument.push('\n'),
                Some(escaped) => argument.push(escaped),
                None => {}
            },
            c => argument.push(c),
        }
    }
    argument
}

/// Parses the `module`, `go` and `toolchain` lines of a go.mod; `None` when it names no module.
#[must_use]
pub fn parse_go_mod(text: &str, file: &str) -> Option<MainModule> {
    let mut module = MainModule { go_mod: file.to_owned(), ..MainModule::default() };
    let mut in_module_block = false;
    for line in text.lines() {
        let line = line.split("//").next().unwrap_or_default().trim();
        if in_module_block {
            match line {
                ")" => in_module_block = false,
                "" => {}
                path if module.path.is_empty() => module.path = unquote(path),
                _ => {}
            }
            continue;
        }
        let Some((directive, value)) = line.split_once([' ', '\t', '(']) else { continue };
        let value = value.trim();
        match directive {
            "module" if value.is_empty() || value == "(" => in_module_block = true,
            "module" if module.path.is_empty() => module.path = unquote(value),
            "go" => module.go = Some(unquote(value)),
            "toolchain" => module.toolchain = Some(unquote(value)),
            _ => {}
        }
    }
    (!module.path.is_empty()).then_some(module)
}

fn unquote(word: &str) -> String {
    word.trim_matches(['"', '`']).to_owned()
}

/// The build id in the head of a package archive (cmd/internal/buildid, `ReadFile`).
#[must_use]
pub fn parse_archive_build_id(head: &[u8]) -> Option<String> {
    let mut lines = head.split(|byte| *byte == b'\n');
    let (magic, member, object, build_id) = (lines.next()?, lines.next()?, lines.next()?, lines.next()?);
    let archive = magic == b"!<arch>" && member.starts_with(b"__.PKGDEF ") && object.starts_with(b"go object ");
    let quoted = build_id.strip_prefix(b"build id \"").filter(|_| archive)?.strip_suffix(b"\"")?;
    // URL-safe base64 with a slash between its parts: nothing in it is ever escaped.
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'/');
    quoted.iter().all(plain).then(|| String::from_utf8_lossy(quoted).into_owned())
}

/// The value of a flag in GOFLAGS or an argument list, with one dash or two, as `-flag=value` or `-flag value`.
#[must_use]
pub fn flag_value<'a>(arguments: &'a [String], flag: &str) -> Option<&'a str> {
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        let Some(name) = argument.strip_prefix("--").or_else(|| argument.strip_prefix('-')) else { continue };
        match name.split_once('=') {
            Some((name, value)) if name == flag => return Some(value),
            Some(_) => {}
            None if name == flag => return arguments.next().map(String::as_str),
            None => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn import_configurations_parse() {
        let config = ImportConfig::parse(
            "# import config\npackagefile fmt=/cache/ab/abc-d\nimportmap a=b\npackagefile example.com/b=/w/b003/_pkg_.a\n\
             modinfo \"path\\tx\\n-X main.key=canary\"\npackagefile broken\n",
        );
        assert_eq!(config.packages.len(), 2);
        assert_eq!(config.packages[1].import_path, "example.com/b");
        assert_eq!(config.packages[1].file, "/w/b003/_pkg_.a");
        assert!(!format!("{config:?}").contains("canary"));
    }

    #[test]
    fn response_files_parse() {
        assert_eq!(
            parse_response_file("-p\nexample.com/x\n-X\nmain.key=canary\na\\nb\\\\c\n"),
            ["-p", "example.com/x", "-X", "main.key=REDACTED", "a\nb\\c"]
        );
    }

    #[test]
    fn go_mod_parses() {
        let module = parse_go_mod(
            "// x\nmodule \"example.com/x\" // y\n\ngo 1.24.1\ntoolchain go1.26.8\nrequire (\n\ta v1\n)\n",
            "/s/go.mod",
        )
        .unwrap();
        assert_eq!(module.path, "example.com/x");
        assert_eq!(module.go.as_deref(), Some("1.24.1"));
        assert_eq!(module.toolchain.as_deref(), Some("go1.26.8"));
        assert_eq!(parse_go_mod("module (\n\texample.com/y\n)\n", "f").unwrap().path, "example.com/y");
        assert_eq!(parse_go_mod("go 1.21\n", "f"), None);
    }

    #[test]
    fn flags_are_found_in_both_forms() {
        let arguments: Vec<String> = ["build", "-v", "--modfile", "other.mod", "-C=sub"].map(str::to_owned).into();
        assert_eq!(flag_value(&arguments, "modfile"), Some("other.mod"));
        assert_eq!(flag_value(&arguments, "C"), Some("sub"));
        assert_eq!(flag_value(&arguments, "mod"), None);
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in "\\PC*") {
            let _ = (ImportConfig::parse(&text), parse_response_file(&text), parse_go_mod(&text, "f"));
        }
    }
}
