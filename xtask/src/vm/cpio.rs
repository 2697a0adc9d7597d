//! The archive format of an initramfs ("newc", Documentation/driver-api/early-userspace/buffer-format.rst of the
//! kernel): a header of hexadecimal fields, the name, the contents, each padded to 4 bytes.

use anyhow::{Context, Result};

/// An archive that is being written.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    /// Adds a directory that everybody may read.
    pub fn directory(&mut self, name: &str) -> Result<()> {
        self.entry(name, 0o040_755, &[])
    }

    /// Adds a file that everybody may execute.
    pub fn executable(&mut self, name: &str, contents: &[u8]) -> Result<()> {
        self.entry(name, 0o100_755, contents)
    }

    /// Adds a file that everybody may read.
    pub fn file(&mut self, name: &str, contents: &[u8]) -> Result<()> {
        self.entry(name, 0o100_644, contents)
    }

    /// Ends the archive.
    pub fn finish(mut self) -> Result<Vec<u8>> {
        self.entry("TRAILER!!!", 0, &[])?;
        Ok(self.bytes)
    }

    fn entry(&mut self, name: &str, mode: u32, contents: &[u8]) -> Result<()> {
        self.entries += 1;
        let size = u32::try_from(contents.len()).with_context(|| format!("{name} is too large for the format"))?;
        let name_size = u32::try_from(name.len() + 1)?;
        // magic, inode, mode, uid, gid, links, mtime, size, device (major, minor), node (major, minor), name, check
        let fields = [self.entries, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(contents);
        self.pad();
        Ok(())
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::Archive;

    #[test]
    fn entries_are_aligned_and_the_trailer_ends_the_archive() {
        let mut archive = Archive::default();
        archive.directory("a").unwrap();
        archive.executable("a/b", b"12345").unwrap();
        let bytes = archive.finish().unwrap();
        assert_eq!(bytes.len() % 4, 0);
        // header 110 + "a\0" = 112; header 110 + "a/b\0" = 114 → 116; contents 5 → 8; trailer 110 + 11 = 121 → 124
        assert_eq!(bytes.len(), 112 + 116 + 8 + 124);
        assert_eq!(&bytes[112..118], b"070701");
        assert_eq!(&bytes[112 + 116..112 + 116 + 5], b"12345");
    }
}
