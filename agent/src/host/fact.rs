use std::io;

use serde::{Deserialize, Serialize};

/// Something that was looked for on a live system. Not finding it is an answer, not an error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fact<T> {
    /// It was read.
    Known(T),
    /// There is none: no such file, no such entry.
    Absent,
    /// The process, or the file it was about to delete, was gone.
    TooLate,
    /// We are not permitted to read it.
    Denied,
    /// It is larger than anything genuine; nothing of it is kept.
    TooLarge,
    /// Reading it gave this error (`errno`, 0 when there was none) or bytes that are not what they should be.
    Unreadable(i32),
}

impl<T> Fact<T> {
    /// The value, if it is known.
    #[must_use]
    pub fn known(self) -> Option<T> {
        match self {
            Self::Known(value) => Some(value),
            Self::Absent | Self::TooLate | Self::Denied | Self::TooLarge | Self::Unreadable(_) => None,
        }
    }

    /// A reference to the value, if it is known.
    #[must_use]
    pub fn as_known(&self) -> Option<&T> {
        match self {
            Self::Known(value) => Some(value),
            Self::Absent | Self::TooLate | Self::Denied | Self::TooLarge | Self::Unreadable(_) => None,
        }
    }

    /// Applies a function to a known value.
    pub fn map<U>(self, function: impl FnOnce(T) -> U) -> Fact<U> {
        self.and_then(|value| Fact::Known(function(value)))
    }

    /// Applies a function that may not find what it looks for to a known value.
    pub fn and_then<U>(self, function: impl FnOnce(T) -> Fact<U>) -> Fact<U> {
        match self {
            Self::Known(value) => function(value),
            Self::Absent => Fact::Absent,
            Self::TooLate => Fact::TooLate,
            Self::Denied => Fact::Denied,
            Self::TooLarge => Fact::TooLarge,
            Self::Unreadable(errno) => Fact::Unreadable(errno),
        }
    }
}

impl<T> From<io::Result<T>> for Fact<T> {
    fn from(result: io::Result<T>) -> Self {
        // ESRCH is 3 on every Linux architecture: the process behind an open /proc directory has ended.
        const ESRCH: i32 = 3;
        match result {
            Ok(value) => Self::Known(value),
            Err(error) => match (error.kind(), error.raw_os_error()) {
                (_, Some(ESRCH)) => Self::TooLate,
                (io::ErrorKind::NotFound | io::ErrorKind::NotADirectory, _) => Self::Absent,
                (io::ErrorKind::PermissionDenied, _) => Self::Denied,
                (io::ErrorKind::FileTooLarge, _) => Self::TooLarge,
                (_, errno) => Self::Unreadable(errno.unwrap_or_default()),
            },
        }
    }
}
