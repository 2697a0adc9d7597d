//! Lines of at most 80 columns, and the last guard against what foreign names could do to a terminal.

use anstyle::{AnsiColor, Style};

/// Columns of a line, in characters.
pub const WIDTH: usize = 80;

pub const PLAIN: Style = Style::new();
pub const STRONG: Style = Style::new().bold();
pub const FAINT: Style = Style::new().dimmed();
pub const GOOD: Style = AnsiColor::Green.on_default();
pub const WARN: Style = AnsiColor::Yellow.on_default().bold();
pub const BAD: Style = AnsiColor::Red.on_default().bold();
pub const BAR: Style = AnsiColor::Cyan.on_default();

/// A line as pieces of one style each.
#[derive(Clone, Debug, Default)]
pub struct Line(Vec<(Style, String)>);

impl Line {
    pub fn plain(text: impl AsRef<str>) -> Self {
        Self::default().with(PLAIN, text)
    }

    pub fn with(mut self, style: Style, text: impl AsRef<str>) -> Self {
        self.0.push((style, text.as_ref().chars().map(harmless).collect()));
        self
    }

    pub fn width(&self) -> usize {
        self.0.iter().map(|(_, text)| text.chars().count()).sum()
    }

    /// `start`, then this line.
    pub fn after(mut self, mut start: Self) -> Self {
        start.0.append(&mut self.0);
        start
    }

    fn clipped(mut self) -> Self {
        if self.width() > WIDTH {
            let mut room = WIDTH - 1;
            self.0.retain_mut(|(_, text)| {
                *text = text.chars().take(room).collect();
                room -= text.chars().count();
                !text.is_empty()
            });
            self.0.push((PLAIN, "…".to_owned()));
        }
        while let Some((_, last)) = self.0.last_mut() {
            last.truncate(last.trim_end().len());
            if !last.is_empty() {
                break;
            }
            self.0.pop();
        }
        self
    }
}

const UNITS: [&str; 11] = ["ns", "µs", "ms", "s", "B", "kB", "MB", "GB", "TB", "PB", "EB"];

/// The report under construction.
#[derive(Debug, Default)]
pub struct Page(Vec<Line>);

impl Page {
    pub fn push(&mut self, line: Line) {
        self.0.push(line.clipped());
    }

    /// An empty line between two blocks; none at the top, never two.
    pub fn blank(&mut self) {
        if self.0.last().is_some_and(|line| line.width() > 0) {
            self.0.push(Line::default());
        }
    }

    /// Words over as many lines as they need: the first begins with `first`, the others with as many spaces.
    pub fn wrapped(&mut self, first: Line, text: &str) {
        let indent = first.width();
        let room = WIDTH.saturating_sub(indent).max(1);
        let mut head = Some(first);
        for line in wrap(text, room) {
            let start = head.take().unwrap_or_else(|| Line::plain(" ".repeat(indent)));
            self.push(start.with(PLAIN, line));
        }
        if let Some(head) = head {
            self.push(head);
        }
    }

    /// Faint words below a table, nothing for none.
    pub fn faint_wrapped(&mut self, indent: &str, text: &str) {
        for line in wrap(text, WIDTH.saturating_sub(indent.len()).max(1)).into_iter().filter(|line| !line.is_empty()) {
            self.push(Line::default().with(FAINT, format!("{indent}{line}")));
        }
    }

    /// As [`Self::wrapped`], and nothing for no words.
    pub fn wrapped_if_any(&mut self, first: Line, text: &str) {
        if !text.is_empty() {
            self.wrapped(first, text);
        }
    }

    pub fn finish(mut self, color: bool) -> String {
        while self.0.last().is_some_and(|line| line.width() == 0) {
            self.0.pop();
        }
        let mut text = String::new();
        for line in self.0 {
            for (style, piece) in line.0 {
                if color && style != PLAIN {
                    text.push_str(&format!("{style}{piece}{style:#}"));
                } else {
                    text.push_str(&piece);
                }
            }
            text.push('\n');
        }
        text
    }
}

/// Names come from servers and file names: nothing in them may move the cursor, start an escape sequence or turn the
/// direction of writing (a path that reads differently from what it is).
fn harmless(char: char) -> char {
    match char {
        '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{061c}' => {
            '\u{fffd}'
        }
        char if char.is_control() => '\u{fffd}',
        char => char,
    }
}

/// `text` in at most `width` columns: what is too much is taken from the middle, for both ends tell names apart.
pub fn shortened(text: &str, width: usize) -> String {
    let count = text.chars().count();
    if count <= width {
        return text.to_owned();
    }
    if width == 0 {
        return String::new();
    }
    let tail = (width - 1) / 2;
    let head = width - 1 - tail;
    text.chars().take(head).chain(['…']).chain(text.chars().skip(count - tail)).collect()
}

fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        // A number stays with its unit.
        let unit = word.trim_end_matches([',', ';', '.', ')', ':']);
        match words.last_mut() {
            Some(number) if UNITS.contains(&unit) && number.ends_with(|last: char| last.is_ascii_digit()) => {
                number.push(' ');
                number.push_str(word);
            }
            _ => words.push(word.to_owned()),
        }
    }
    let mut lines: Vec<String> = Vec::new();
    let mut room = 0;
    for word in &words {
        let mut rest = word.as_str();
        let length = word.chars().count();
        if length < room {
            if let Some(line) = lines.last_mut() {
                line.push(' ');
                line.push_str(word);
            }
            room -= length + 1;
            continue;
        }
        // A word longer than a line is broken where the line ends.
        loop {
            let cut = rest.char_indices().nth(width).map_or(rest.len(), |(at, _)| at);
            let (line, more) = rest.split_at(cut);
            lines.push(line.to_owned());
            room = width - line.chars().count();
            rest = more;
            if rest.is_empty() {
                break;
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_keep_both_ends() {
        assert_eq!(shortened("github.com/aws/aws-sdk-go", 40), "github.com/aws/aws-sdk-go");
        assert_eq!(shortened("github.com/aws/aws-sdk-go", 11), "githu…dk-go");
        assert_eq!(shortened("abc", 1), "…");
        assert_eq!(shortened("abc", 0), "");
    }

    #[test]
    fn a_line_is_cut_at_80_columns_and_has_no_control_characters() {
        let mut page = Page::default();
        page.push(Line::plain("\u{1b}[2J\u{202e}x\n").with(BAD, "é".repeat(100)));
        let text = page.finish(false);
        assert_eq!(text.trim_end().chars().count(), 80);
        assert!(text.starts_with("\u{fffd}[2J\u{fffd}x\u{fffd}é"), "{text:?}");
        assert!(text.ends_with("é…\n"), "{text:?}");
    }

    #[test]
    fn words_wrap_below_their_beginning() {
        let mut page = Page::default();
        page.wrapped(Line::plain("! 1 s  "), &"word ".repeat(20));
        let text = page.finish(false);
        assert_eq!(text.lines().count(), 2);
        assert!(text.lines().nth(1).is_some_and(|line| line.starts_with("       word")), "{text}");
    }
}
