//! `-X name=value` of Go's linker inside a text: a shell's script, a recipe of make, what `go build -x` prints.
//!
//! Such a text is quoted by rules that are not known (a shell's, the go command's own, `strconv.Quote` over them), so a
//! quote is told by its mark and the backslashes before it, and where two readings are possible the longer value goes.

use std::ops::Range;

use super::REDACTED;

/// A longer one is no name; it bounds the work for a text that is all `-X`.
const MAX_NAME_CHARS: usize = 1024;

/// Removes the value of each definition. `-X` of another program keeps its value unless that has the form `name=value`.
pub(super) fn definitions(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let (mut copied, mut at) = (0, 0);
    let mut quotes = Quotes::default();
    while let Some(c) = text[at..].chars().next() {
        let Some(value) = value(text, at, &quotes) else {
            quotes.see(c);
            at += c.len_utf8();
            continue;
        };
        clean.push_str(&text[copied..value.start]);
        clean.push_str(REDACTED);
        text[at..value.end].chars().for_each(|c| quotes.see(c));
        (copied, at) = (value.end, value.end);
    }
    clean.push_str(&text[copied..]);
    clean
}

/// Where the value lies of the definition that begins at `at`, if one does. `quotes` are those open there.
fn value(text: &str, at: usize, quotes: &Quotes) -> Option<Range<usize>> {
    let after = text[at..].strip_prefix("-X")?;
    let assigned = after.strip_prefix('=');
    // Between flag and name: white space, quotes that end or begin, the comma of a list that somebody printed.
    let name = assigned
        .unwrap_or(after)
        .trim_start_matches(|c: char| c.is_whitespace() || is_quote(c) || matches!(c, '\\' | ','));
    // A flag is the next one of a program whose `-X` takes no value.
    if name.len() == after.len() || name.starts_with('-') {
        return None;
    }
    let equals = name.char_indices().take(MAX_NAME_CHARS).find(|(_, c)| *c == '=' || c.is_whitespace());
    let (length, _) = equals.filter(|(_, c)| *c == '=')?;
    let start = text.len() - name.len() + length + 1;

    let mut inside = quotes.clone();
    let mut least = inside.open.len();
    for c in text[at..start].chars() {
        inside.see(c);
        least = least.min(inside.open.len());
    }
    let flag = text[..at].strip_suffix('-').unwrap_or(&text[..at]);
    let extent = if inside.open.len() > least || (assigned.is_some() && least > 0 && flag.ends_with(is_quote)) {
        Extent::Quoted
    } else if least > 0 {
        Extent::Flags
    } else {
        Extent::Word
    };
    Some(start..end(text, start, inside, extent))
}

/// How far a value reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extent {
    /// The quotes are its own: to their end.
    Quoted,
    /// The quotes are a list of flags: to the next flag. A value with a space that nobody quoted goes on after it, for no
    /// flag of the linker takes two values.
    Flags,
    /// Nothing is quoted: to the next white space.
    Word,
}

/// Where the value that begins at `start` ends.
fn end(text: &str, start: usize, mut quotes: Quotes, extent: Extent) -> usize {
    let depth = quotes.open.len();
    // `$(git describe --tags)` and `${NAME:-a b}` are one word.
    let mut brackets = 0_usize;
    for (offset, c) in text[start..].char_indices() {
        let at = start + offset;
        let backslashes = quotes.backslashes;
        let nested = quotes.open.len() > depth || brackets > 0;
        quotes.see(c);
        if quotes.open.len() < depth {
            return at - backslashes;
        }
        match c {
            '(' | '{' => brackets += 1,
            ')' | '}' => brackets = brackets.saturating_sub(1),
            c if c.is_whitespace() && !nested && backslashes.is_multiple_of(2) => match extent {
                Extent::Word => return at,
                Extent::Flags if text[at + c.len_utf8()..].starts_with('-') => return at,
                Extent::Flags | Extent::Quoted => {}
            },
            _ => {}
        }
    }
    text.len()
}

/// The quotes that are open somewhere in a text.
#[derive(Clone, Debug, Default)]
struct Quotes {
    /// Outermost first: mark, and backslashes before it.
    open: Vec<(char, usize)>,
    /// Backslashes right before the next character.
    backslashes: usize,
}

impl Quotes {
    fn see(&mut self, c: char) {
        match c {
            '\\' => self.backslashes += 1,
            c if is_quote(c) => {
                let backslashes = std::mem::take(&mut self.backslashes);
                // With more backslashes than the one that opened it is a quote inside. One that ends a quote also ends
                // those inside it: an apostrophe opens nothing.
                let ended = self.open.iter().rposition(|&(mark, before)| mark == c && backslashes <= before);
                match ended {
                    Some(index) => self.open.truncate(index),
                    None => self.open.push((c, backslashes)),
                }
            }
            _ => self.backslashes = 0,
        }
    }
}

fn is_quote(c: char) -> bool {
    matches!(c, '"' | '\'' | '`')
}
