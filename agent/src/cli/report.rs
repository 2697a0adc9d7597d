//! `gobuild-trace report FILE|DIR`: prints what was kept, on any machine and without privileges.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;

use super::say;
use super::settings::{JsonTarget, ReportSettings};
use crate::build::Document;
use crate::report::{dir, json, text};
use crate::ring::{recording, replay};

/// Prints a report again, or the list of a directory's reports.
///
/// # Errors
/// The file cannot be read, or is neither a recording nor a report.
pub fn report(settings: &ReportSettings) -> anyhow::Result<ExitCode> {
    let name = settings.path.display();
    if settings.path.is_dir() {
        anyhow::ensure!(settings.json.is_none(), "{name} is a directory; --json needs one file");
        let listing = dir::list(&settings.path).with_context(|| name.to_string())?;
        return print(settings, &listing.render(settings.text.color));
    }
    let mut bytes = Vec::new();
    File::open(&settings.path).and_then(|mut file| file.read_to_end(&mut bytes)).with_context(|| name.to_string())?;
    let document = read(&bytes).with_context(|| name.to_string())?;
    match &settings.json {
        None => print(settings, &text::render(&document, &settings.text)),
        Some(JsonTarget::Stdout) => print_to_stdout(&json::to_string_pretty(&document)),
        Some(JsonTarget::File(path)) => write_file(path, &json::to_string_pretty(&document)),
    }
}

/// A report or a recording.
fn read(bytes: &[u8]) -> anyhow::Result<Document> {
    if !bytes.starts_with(&recording::MAGIC) {
        return Ok(json::from_slice(bytes)?);
    }
    let replayed = replay::document(bytes)?;
    if replayed.cut {
        // The reader of the text must know; the text itself is what the events say.
        say::line("gobuild-trace: the recording ends in the middle; this is the build up to there");
    }
    Ok(replayed.document)
}

fn print(settings: &ReportSettings, text: &str) -> anyhow::Result<ExitCode> {
    match &settings.output {
        Some(path) => write_file(path, text),
        None => print_to_stdout(text),
    }
}

fn write_file(path: &Path, text: &str) -> anyhow::Result<ExitCode> {
    std::fs::write(path, text).with_context(|| path.display().to_string())?;
    Ok(ExitCode::SUCCESS)
}

/// A reader that has closed the pipe has seen enough: `report FILE | head` is no failure.
fn print_to_stdout(text: &str) -> anyhow::Result<ExitCode> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error).context("stdout"),
        Ok(()) | Err(_) => Ok(ExitCode::SUCCESS),
    }
}
