//! From a recording to the document that the observation itself would have given.

use std::io::Read;

use super::{
    event::Body,
    recording::{Recording, RecordingError},
};
use crate::build::{Document, Model};

/// What a recording came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Replayed {
    /// The document.
    pub document: Document,
    /// The recording's end is missing.
    pub cut: bool,
}

/// Folds a recording.
///
/// # Errors
/// The bytes are no recording of this version, or hold not even its first event.
pub fn document(input: impl Read) -> Result<Replayed, RecordingError> {
    let mut recording = Recording::open(input)?;
    let first = recording.next().ok_or(RecordingError::Empty)?;
    let Body::Begin(begin) = first.body else { return Err(RecordingError::Empty) };
    let mut model = Model::new(first.at_ns, begin);
    for event in recording.by_ref() {
        model.apply(&event);
    }
    Ok(Replayed { document: model.document(), cut: recording.cut() })
}
