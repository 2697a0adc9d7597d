//! What a reader sees of a document: text, JSON, a list of documents, and the directory that keeps them.
//!
//! Everything here reads [`crate::build::Document`] and nothing else: every number in the text is a field of it, or a
//! ratio or sum of fields, so that no view computes what another computes differently. Nothing here prints.

pub mod dir;
pub mod json;
pub mod store;
pub mod text;

#[cfg(test)]
pub(crate) mod fixtures;
