//! The list of a directory of reports: one line for each go command, newest last, with what its findings are about;
//! and the files that could not be read.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{json, text};
use crate::build::{Build, Document};

/// What a directory holds.
#[derive(Debug, Default)]
pub struct Listing {
    /// In order of their start.
    pub builds: Vec<Row>,
    /// Files named `*.json` that are no report, or only a part of one.
    pub broken: Vec<Broken>,
}

/// One go command of one file. Its modules and packages are left out: a directory holds many builds.
#[derive(Debug)]
pub struct Row {
    /// Where it stands.
    pub file: PathBuf,
    /// Without the lists that a line does not need.
    pub build: Build,
}

/// A file that could not be read.
#[derive(Debug)]
pub struct Broken {
    /// Which one.
    pub file: PathBuf,
    /// In one sentence.
    pub reason: String,
}

/// Reads every `*.json` of `directory`.
///
/// # Errors
///
/// When the directory itself cannot be read; a file that cannot be read is a row of [`Listing::broken`].
pub fn list(directory: &Path) -> io::Result<Listing> {
    let mut listing = Listing::default();
    for entry in fs::read_dir(directory)? {
        let file = entry?.path();
        let hidden = file.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        // A FIFO would never end.
        if hidden || file.extension().is_none_or(|extension| extension != "json") || !file.is_file() {
            continue;
        }
        match read(&file) {
            Ok(document) => {
                listing.builds.extend(document.builds.into_iter().map(|build| Row {
                    file: file.clone(),
                    build: Build {
                        modules: Vec::new(),
                        connections: Vec::new(),
                        dns: Vec::new(),
                        tools: Vec::new(),
                        tests: Vec::new(),
                        sumdb: None,
                        caches: Default::default(),
                        ..build
                    },
                }));
            }
            Err(reason) => listing.broken.push(Broken { file, reason }),
        }
    }
    listing.builds.sort_by(|a, b| (&a.build.started_at, &a.build.id).cmp(&(&b.build.started_at, &b.build.id)));
    listing.broken.sort_by(|a, b| a.file.cmp(&b.file));
    Ok(listing)
}

fn read(file: &Path) -> Result<Document, String> {
    let bytes = fs::read(file).map_err(|error| error.to_string())?;
    json::from_slice(&bytes).map_err(|error| error.to_string())
}

impl Listing {
    /// As text of at most 80 columns.
    pub fn render(&self, color: bool) -> String {
        text::listing(self, color)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::report::fixtures;

    #[test]
    fn each_go_command_is_a_line_and_broken_files_are_named() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
        let mut killed = fixtures::killed_in_flight();
        killed.builds[0].started_at = "2026-11-22T09:10:11.000000000Z".to_owned();
        let example = json::to_string_pretty(&fixtures::example());
        write("b.json", &json::to_string_pretty(&killed));
        write("a.json", &example);
        write("half.json", &example[..example.len() / 2]);
        write("other-\u{1b}[2J.json", r#"{"schema_version": 2}"#);
        write(".hidden.json", "x");
        write("readme.txt", "x");
        fs::create_dir(directory.path().join("d.json")).unwrap();

        let listing = list(directory.path()).unwrap();
        assert_eq!(listing.builds.len(), 2);
        assert_eq!(listing.broken.len(), 2);
        insta::assert_snapshot!(listing.render(false));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

        #[test]
        fn any_listing_is_printable(document in fixtures::arbitrary::documents(), reason in any::<String>()) {
            let rows = document.builds.into_iter().map(|build| Row { file: PathBuf::from("x"), build });
            let broken = vec![Broken { file: PathBuf::from(&reason), reason }];
            let text = Listing { builds: rows.collect(), broken }.render(false);
            for line in text.lines() {
                prop_assert!(line.chars().count() <= 80 && !line.chars().any(char::is_control), "{:?}", line);
            }
        }
    }

    #[test]
    fn an_empty_directory_says_so() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(list(directory.path()).unwrap().render(false), "No report.\n");
        assert!(list(&directory.path().join("missing")).is_err());
    }
}
