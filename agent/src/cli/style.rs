//! The few styles that `check` uses.

use anstyle::{AnsiColor, Style};

/// Marks one word of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// It works.
    Good,
    /// It works in part.
    Warning,
    /// It does not.
    Bad,
}

/// The word in its colour, if colours are wanted.
#[must_use]
pub fn mark(word: &str, mark: Mark, color: bool) -> String {
    if !color {
        return word.to_owned();
    }
    let ansi = match mark {
        Mark::Good => AnsiColor::Green,
        Mark::Warning => AnsiColor::Yellow,
        Mark::Bad => AnsiColor::Red,
    };
    let style = Style::new().fg_color(Some(ansi.into()));
    format!("{style}{word}{style:#}")
}
