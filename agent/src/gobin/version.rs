//! Versions of Go, as build info and `go version` write them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A version of Go: `go1.26.8`, `go1.27rc1`, `go1.22.3 X:nocoverageredesign`, `devel go1.28-3f5b8e2 Thu …`.
///
/// Serialised as its text.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GoVersion {
    text: String,
    /// The first number, 1.
    pub major: u16,
    /// The second number: 26 in 1.26.8.
    pub minor: u16,
    /// The third number; absent in `go1.20` and in pre-releases.
    pub patch: Option<u16>,
    /// What of a pre-release it is.
    pub pre_release: Option<PreRelease>,
}

/// Stages before a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PreRelease {
    /// Built from the development branch.
    Devel,
    /// `beta1`.
    Beta(u16),
    /// `rc2`.
    Candidate(u16),
}

/// Text that is not a version of Go.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a version of Go")]
pub struct ParseGoVersionError;

impl GoVersion {
    /// `1.26.8`, `1.27rc1`, without experiments and vendor's suffix.
    #[must_use]
    pub fn short(&self) -> String {
        let mut short = format!("{}.{}", self.major, self.minor);
        if let Some(patch) = self.patch {
            short.push_str(&format!(".{patch}"));
        }
        match self.pre_release {
            None => {}
            Some(PreRelease::Devel) => short.push_str("-devel"),
            Some(PreRelease::Beta(number)) => short.push_str(&format!("beta{number}")),
            Some(PreRelease::Candidate(number)) => short.push_str(&format!("rc{number}")),
        }
        short
    }
}

impl fmt::Display for GoVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for GoVersion {
    type Err = ParseGoVersionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        if text.len() > 4096 || text.chars().any(char::is_control) {
            return Err(ParseGoVersionError);
        }
        let mut words = text.split(' ');
        let mut word = words.next().unwrap_or_default();
        let devel = word == "devel";
        if devel {
            word = words.next().unwrap_or_default();
        }
        let numbers = word.strip_prefix("go").ok_or(ParseGoVersionError)?;
        let (major, rest) = number(numbers).ok_or(ParseGoVersionError)?;
        let rest = rest.strip_prefix('.').ok_or(ParseGoVersionError)?;
        let (minor, rest) = number(rest).ok_or(ParseGoVersionError)?;
        let (patch, rest) = match rest.strip_prefix('.') {
            Some(rest) => number(rest).map(|(patch, rest)| (Some(patch), rest)).ok_or(ParseGoVersionError)?,
            None => (None, rest),
        };
        let (stage, rest) = if let Some(rest) = rest.strip_prefix("rc") {
            number(rest).map(|(number, rest)| (Some(PreRelease::Candidate(number)), rest)).ok_or(ParseGoVersionError)?
        } else if let Some(rest) = rest.strip_prefix("beta") {
            number(rest).map(|(number, rest)| (Some(PreRelease::Beta(number)), rest)).ok_or(ParseGoVersionError)?
        } else {
            (None, rest)
        };
        // A vendor may append a suffix of its own (`go1.26.8-vendor`, `go1.26.8+auto`); anything else is not a version.
        if !(rest.is_empty() || rest.starts_with(['-', '+'])) {
            return Err(ParseGoVersionError);
        }
        // Since Go 1.25 a development build is `go1.26-devel_<revision>` in one word.
        let devel = devel || rest.starts_with("-devel");
        let pre_release = if devel { Some(PreRelease::Devel) } else { stage };
        Ok(Self { text: text.to_owned(), major, minor, patch, pre_release })
    }
}

fn number(text: &str) -> Option<(u16, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    Some((digits.parse().ok()?, rest))
}

impl TryFrom<String> for GoVersion {
    type Error = ParseGoVersionError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<GoVersion> for String {
    fn from(version: GoVersion) -> Self {
        version.text
    }
}
