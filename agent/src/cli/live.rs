//! The one line on a terminal that says what goes on.
//!
//! It is drawn where the cursor stands and taken away before anything of ours is printed; what the command prints
//! overwrites it.

use std::time::{Duration, Instant};

use super::{
    say,
    settings::{Progress, Talk},
};
use crate::{
    build::{Model, Waiting},
    units,
};

/// Between two drawings.
const INTERVAL: Duration = Duration::from_millis(500);
const WIDTH: usize = 79;

/// The line.
#[derive(Debug)]
pub struct LiveLine {
    on: bool,
    drawn: bool,
    last: Option<Instant>,
}

impl LiveLine {
    /// A line, if there is to be one.
    pub fn new(progress: Progress, talk: Talk) -> Self {
        Self { on: progress == Progress::Line && talk == Talk::Report, drawn: false, last: None }
    }

    /// Draws it again, if it is time to.
    pub fn draw(&mut self, model: &Model, waiting: &[Waiting], elapsed_ns: u64) {
        if !self.on || self.last.is_some_and(|last| last.elapsed() < INTERVAL) {
            return;
        }
        self.last = Some(Instant::now());
        let activity = model.activity();
        let mut line = format!(
            "{} {} fetched, {} under way; tools {} done, {} running",
            units::clock(elapsed_ns),
            activity.fetched,
            activity.fetches,
            activity.tools_done,
            activity.tools
        );
        if let Some(oldest) = waiting.first() {
            line.push_str("; ");
            line.push_str(&oldest.subject);
        }
        let line: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).take(WIDTH).collect();
        say::text(&format!("\r{line}\x1b[K\r"));
        self.drawn = true;
    }

    /// Takes it away.
    pub fn clear(&mut self) {
        if std::mem::take(&mut self.drawn) {
            say::text("\r\x1b[K");
        }
    }
}
