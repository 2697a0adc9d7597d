//! The document as JSON: what `--json` writes and `report` reads again.

use serde::Deserialize;

use crate::build::{Document, SCHEMA_VERSION};

/// The committed JSON Schema (draft 2020-12) of the document.
pub const SCHEMA: &str = include_str!("../../schema/report-v1.json");

/// Why bytes are no document.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Not JSON, or cut short.
    #[error("this is not JSON: {0}")]
    Syntax(#[source] serde_json::Error),
    /// JSON of something else.
    #[error("this JSON has no `schema_version`: it is no report of this program")]
    NoVersion,
    /// A document of another version.
    #[error("this file is version {found}, this program reads {SCHEMA_VERSION}")]
    Version {
        /// What the file says.
        found: u64,
    },
    /// The right version and the wrong shape.
    #[error("this file says that it is version {SCHEMA_VERSION}, and is not: {0}")]
    Shape(#[source] serde_json::Error),
}

/// The document with two spaces of indentation and a newline at its end.
pub fn to_string_pretty(document: &Document) -> String {
    let mut text = serde_json::to_string_pretty(document)
        .expect("a document has string keys and no foreign Serialize implementation: it cannot fail");
    text.push('\n');
    text
}

/// Reads a document; printing it again gives the same bytes that [`to_string_pretty`] gave.
///
/// # Errors
///
/// When the bytes are no JSON, no document, or a document of another version.
pub fn from_slice(bytes: &[u8]) -> Result<Document, ReadError> {
    /// What every version has.
    #[derive(Deserialize)]
    struct Head {
        schema_version: Option<serde_json::Value>,
    }

    // serde would take an array for a struct's fields in order.
    if bytes.trim_ascii_start().first() == Some(&b'[') {
        return Err(ReadError::NoVersion);
    }
    let head: Head = serde_json::from_slice(bytes).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => ReadError::NoVersion,
        _ => ReadError::Syntax(error),
    })?;
    let version = head.schema_version.as_ref().and_then(serde_json::Value::as_u64).ok_or(ReadError::NoVersion)?;
    if version != u64::from(SCHEMA_VERSION) {
        return Err(ReadError::Version { found: version });
    }
    serde_json::from_slice(bytes).map_err(ReadError::Shape)
}

#[cfg(test)]
mod tests;
