//! Columns: right-aligned numbers, one column of names that takes what room is left.

use anstyle::Style;

use super::page::{FAINT, Line, PLAIN, Page, WARN, WIDTH, shortened};

/// Between two columns.
const GAP: usize = 2;
/// The first column is as wide in every table, so that tables below one another line up.
const FIRST: usize = 8;
/// The column of names takes at least this where it can, for the same reason.
const NAMES: usize = 27;

/// A value of a row.
#[derive(Clone, Debug)]
pub enum Cell {
    /// Printed as `-` where other rows have a value.
    Absent,
    Text(String, Style),
    /// A module path with its version: the two are shortened each on its own.
    Module(String, Option<String>),
}

impl Cell {
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into(), PLAIN)
    }

    pub fn some(text: Option<String>) -> Self {
        text.map_or(Self::Absent, Self::text)
    }

    fn fitted(&self, width: usize) -> (String, Style) {
        match self {
            Self::Absent => ("-".to_owned(), FAINT),
            Self::Text(text, style) => (shortened(text, width), *style),
            Self::Module(path, version) => (module(path, version.as_deref(), width), PLAIN),
        }
    }

    fn width(&self) -> usize {
        self.fitted(usize::MAX).0.chars().count()
    }
}

/// `path version` in at most `width` columns.
pub fn module(path: &str, version: Option<&str>, width: usize) -> String {
    let Some(version) = version else { return shortened(path, width) };
    let path_width = path.chars().count();
    // A pseudo-version still names its commit in 15 columns.
    let version = shortened(version, width.saturating_sub(path_width + 1).max(15.min(width / 2)));
    let room = width.saturating_sub(version.chars().count() + 1);
    format!("{} {version}", shortened(path, room))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    Left,
    Right,
    /// Left, and gives way when the line is full.
    Names,
}

/// A table without lines between its columns.
#[derive(Debug)]
pub struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<Cell>>,
    /// Row → what stands below it.
    notes: Vec<(usize, String)>,
}

impl Table {
    pub fn new(columns: &[(&'static str, Align)]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new(), notes: Vec::new() }
    }

    /// One cell for each column.
    pub fn row(&mut self, cells: Vec<Cell>) {
        debug_assert_eq!(cells.len(), self.columns.len());
        self.rows.push(cells);
    }

    /// Words below the last row.
    pub fn note(&mut self, text: String) {
        if let Some(last) = self.rows.len().checked_sub(1) {
            self.notes.push((last, text));
        }
    }

    /// Prints the header and the rows; columns without a value in any row are left out.
    pub fn print(&self, page: &mut Page) {
        if self.rows.is_empty() {
            return;
        }
        let used: Vec<usize> = (0..self.columns.len())
            .filter(|&column| self.rows.iter().any(|row| !matches!(row.get(column), None | Some(Cell::Absent))))
            .collect();
        let widths = self.widths(&used);

        let mut header = Line::default();
        for (place, (&column, &width)) in used.iter().zip(&widths).enumerate() {
            let (title, align) = self.columns[column];
            header = put(header, place, title, FAINT, width, align);
        }
        page.push(header);
        for (number, row) in self.rows.iter().enumerate() {
            let mut line = Line::default();
            for (place, (&column, &width)) in used.iter().zip(&widths).enumerate() {
                let (text, style) = row[column].fitted(width);
                line = put(line, place, &text, style, width, self.columns[column].1);
            }
            page.push(line);
            for (_, note) in self.notes.iter().filter(|(at, _)| *at == number) {
                page.wrapped(Line::plain("  ").with(WARN, "! "), note);
            }
        }
    }

    fn widths(&self, used: &[usize]) -> Vec<usize> {
        let mut widths: Vec<usize> = used
            .iter()
            .enumerate()
            .map(|(place, &column)| {
                let cells = self.rows.iter().map(|row| row[column].width());
                let content = cells.chain([self.columns[column].0.chars().count()]).max().unwrap_or(0);
                if place == 0 { content.max(FIRST) } else { content }
            })
            .collect();
        if let Some(names) = used.iter().position(|&column| self.columns[column].1 == Align::Names) {
            let gaps = GAP * widths.len().saturating_sub(1);
            let others: usize = widths.iter().enumerate().filter(|&(at, _)| at != names).map(|(_, width)| width).sum();
            let room = WIDTH.saturating_sub(others + gaps);
            widths[names] = widths[names].max(NAMES).min(room.max(12));
        }
        widths
    }
}

fn put(line: Line, place: usize, text: &str, style: Style, width: usize, align: Align) -> Line {
    let gap = if place == 0 { 0 } else { GAP };
    let fill = width.saturating_sub(text.chars().count());
    match align {
        Align::Right => line.with(PLAIN, " ".repeat(gap + fill)).with(style, text),
        Align::Left | Align::Names => line.with(PLAIN, " ".repeat(gap)).with(style, text).with(PLAIN, " ".repeat(fill)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_keeps_its_version_and_both_ends_of_its_path() {
        assert_eq!(module("k8s.io/api", Some("v0.31.2"), 40), "k8s.io/api v0.31.2");
        assert_eq!(module("github.com/aws/aws-sdk-go", Some("v1.55.5"), 24), "github.c…-sdk-go v1.55.5");
        let pseudo = "v0.0.0-20230101000000-abcdefabcdef";
        assert_eq!(module("golang.org/x/exp", Some(pseudo), 36), "golang.org/x/exp v0.0.0-20…defabcdef");
        assert_eq!(module("golang.org/x/exp", Some(pseudo), 36).chars().count(), 36);
    }

    #[test]
    fn columns_without_a_value_are_left_out_and_names_give_way() {
        let mut table = Table::new(&[("cost", Align::Right), ("host", Align::Names), ("errors", Align::Right)]);
        table.row(vec![Cell::text("1.0 s"), Cell::text("h".repeat(200)), Cell::Absent]);
        let mut page = Page::default();
        table.print(&mut page);
        let text = page.finish(false);
        assert!(!text.contains("errors"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert!(text.contains("hhh…hhh"), "{text}");
    }
}
