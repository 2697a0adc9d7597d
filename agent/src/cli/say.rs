//! Words to the user, on stderr, which is the build's too.

use std::{fmt::Display, io::Write as _};

/// Says a line in one `write`. `eprintln!` makes one of each piece and of the newline, and what the build writes at
/// that moment would stand in the middle. What cannot be said on stderr cannot be said at all.
pub fn line(line: impl Display) {
    text(&format!("{line}\n"));
}

/// Says it as it is, in one `write`.
pub fn text(text: &str) {
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}
