//! Tile coordinates as they stand in a URL: `8/LEVEL/INDEX`, with `.p/WIDTH` for a partial tile
//! (`golang.org/x/mod/sumdb/tlog.ParseTilePath`).

use std::ops::Range;

/// The only tile height that the checksum database has; a full tile holds `2^8` entries.
const HEIGHT: &str = "8";
const FULL_WIDTH: usize = 1 << 8;

/// A tile: some hashes of one tile level, or records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tile {
    /// Tile level, 8 tree levels each; `None` is the records themselves (`data`).
    pub level: Option<u32>,
    /// Number of the tile in its level.
    pub index: usize,
    /// Number of entries: 1 to 256.
    pub width: usize,
}

impl Tile {
    /// Reads what follows `/tile/` in a path; `None` unless it is exactly the form that Go writes.
    pub fn parse(path: &str) -> Option<Self> {
        let rest = path.strip_prefix(HEIGHT)?.strip_prefix('/')?;
        let (level, rest) = rest.split_once('/')?;
        let level = match level {
            "data" => None,
            level => Some(number(level, 2)?),
        };
        let (index, width) = match rest.split_once(".p/") {
            None => (rest, FULL_WIDTH),
            Some((index, width)) => (index, number(width, 3)? as usize),
        };
        if width == 0 || (width >= FULL_WIDTH && rest.contains(".p/")) {
            return None;
        }
        let mut groups = index.split('/').rev();
        let mut value = three_digits(groups.next()?)?;
        let mut scale = 1usize;
        for group in groups {
            scale = scale.checked_mul(1000)?;
            let group = three_digits(group.strip_prefix('x')?)?;
            value = group.checked_mul(scale)?.checked_add(value)?;
        }
        if index.starts_with("x000") {
            return None;
        }
        Some(Self { level, index: value, width })
    }

    /// Numbers of the entries within their level.
    pub(super) fn entries(self) -> Option<Range<usize>> {
        let start = self.index.checked_mul(FULL_WIDTH)?;
        Some(start..start.checked_add(self.width)?)
    }
}

fn three_digits(text: &str) -> Option<usize> {
    (text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok()).flatten()
}

fn number(text: &str, digits: usize) -> Option<u32> {
    let plain = !text.is_empty()
        && text.len() <= digits
        && text.bytes().all(|byte| byte.is_ascii_digit())
        && (text.len() == 1 || !text.starts_with('0'));
    plain.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::Tile;

    #[test]
    fn paths_are_read_as_tlog_writes_them() {
        let tile = |level, index, width| Some(Tile { level, index, width });
        // The examples of tlog's TestTilePath that have height 8, and its neighbours.
        assert_eq!(Tile::parse("8/0/001"), tile(Some(0), 1, 256));
        assert_eq!(Tile::parse("8/1/x123/456.p/78"), tile(Some(1), 123_456, 78));
        assert_eq!(Tile::parse("8/0/x001/x234/067"), tile(Some(0), 1_234_067, 256));
        assert_eq!(Tile::parse("8/data/x001/x234/067"), tile(None, 1_234_067, 256));
        assert_eq!(Tile::parse("8/0/000.p/7"), tile(Some(0), 0, 7));
    }

    #[test]
    fn other_forms_are_refused() {
        for path in [
            "",
            "8",
            "8/0",
            "8/0/",
            "3/4/001",
            "8/0/1",
            "8/0/0001",
            "8/0/x001",
            "8/0/001/002",
            "8/0/x000/001",
            "8/00/001",
            "8/-1/001",
            "8/0/001.p/0",
            "8/0/001.p/256",
            "8/0/001.p/07",
            "8/0/001.p/",
            "8/0/x001/x234/067.q/8",
            "8/0/x99999999999999999999/001",
        ] {
            assert_eq!(Tile::parse(path), None, "{path}");
        }
    }
}
