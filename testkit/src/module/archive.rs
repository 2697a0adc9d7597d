//! The zip file of a module version, byte for byte the same on every run.

use std::io::{Cursor, Write};

use anyhow::{Context, Result};
use bytes::Bytes;
use zip::{CompressionMethod, DateTime, ZipWriter, write::SimpleFileOptions};

/// One file of a module.
pub(super) struct File {
    /// Path within the module.
    pub name: String,
    /// Its content.
    pub content: Vec<u8>,
    /// Source text deflates, payload that is random already does not.
    pub compression: CompressionMethod,
}

/// Builds the zip of `path@version`: each name below `path@version/`, no directory entries, as the reference
/// (golang.org/ref/mod#zip-files) wants them.
pub(super) fn archive(path: &str, version: &str, files: &[File]) -> Result<Bytes> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for file in files {
        let options =
            SimpleFileOptions::default().compression_method(file.compression).last_modified_time(DateTime::default());
        let name = format!("{path}@{version}/{}", file.name);
        writer.start_file(name, options).with_context(|| format!("add {} to zip", file.name))?;
        writer.write_all(&file.content).with_context(|| format!("write {} to zip", file.name))?;
    }
    let zip = writer.finish().context("finish zip")?;
    Ok(zip.into_inner().into())
}
