//! A bounded reader of the parts of an ELF file that build info needs: headers, section names, bytes at an address.

use object::elf::{
    EM_AARCH64, EM_X86_64, FileHeader64, PF_W, PF_X, PT_LOAD, ProgramHeader64, SHT_NOBITS, SectionHeader64,
};
use object::endian::LittleEndian as Le;
use object::pod;
use serde::{Deserialize, Serialize};

/// A file of which ranges can be read without moving a cursor.
pub trait ReadAt {
    /// Reads up to `buffer.len()` bytes at `offset`; fewer only at the end of the file.
    ///
    /// # Errors
    /// Whatever the file says.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<usize>;
}

impl ReadAt for [u8] {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
        let tail = usize::try_from(offset).ok().and_then(|offset| self.get(offset..)).unwrap_or_default();
        let length = tail.len().min(buffer.len());
        buffer[..length].copy_from_slice(&tail[..length]);
        Ok(length)
    }
}

#[cfg(unix)]
impl ReadAt for std::fs::File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match std::os::unix::fs::FileExt::read_at(self, &mut buffer[filled..], offset.saturating_add(filled as u64))
            {
                Ok(0) => break,
                Ok(length) => filled += length,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }
}

/// Why a file could not be read as ELF.
#[derive(Debug, thiserror::Error)]
pub enum ElfError {
    /// Not an ELF file at all (a script, a short file).
    #[error("not an ELF file")]
    NotElf,
    /// ELF, but not 64-bit little-endian.
    #[error("not a 64-bit little-endian ELF file")]
    Unsupported,
    /// A header points outside the file, or is larger than any real one.
    #[error("malformed ELF file: {0}")]
    Malformed(&'static str),
    /// The file could not be read.
    #[error("read executable: {0}")]
    Read(#[from] std::io::Error),
}

/// Instruction set of an executable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Architecture {
    /// x86-64.
    Amd64,
    /// AArch64.
    Arm64,
    /// Another one, by its `e_machine`.
    Other(u16),
}

/// Section headers of real programs are a few dozen; those with a section for each function stay below this.
const TABLE_BYTES_MAX: usize = 4 << 20;
const SECTION_NAMES_BYTES_MAX: usize = 4 << 20;

/// Headers of one ELF file, and the file.
pub(super) struct Elf<'a, R: ReadAt + ?Sized> {
    file: &'a R,
    pub(super) architecture: Architecture,
    segments: Vec<ProgramHeader64<Le>>,
    sections: Vec<SectionHeader64<Le>>,
    section_names: Vec<u8>,
}

/// A range of virtual addresses that file bytes fill.
#[derive(Clone, Copy, Debug)]
pub(super) struct AddressRange {
    pub(super) address: u64,
    pub(super) size: u64,
}

impl<'a, R: ReadAt + ?Sized> Elf<'a, R> {
    /// Reads the headers of `file`.
    pub(super) fn parse(file: &'a R) -> Result<Self, ElfError> {
        let mut bytes = [0; size_of::<FileHeader64<Le>>()];
        let length = file.read_at(&mut bytes, 0)?;
        if length < 16 || !bytes.starts_with(b"\x7fELF") {
            return Err(ElfError::NotElf);
        }
        // EI_CLASS 2 is 64-bit, EI_DATA 1 is little-endian.
        if bytes[4] != 2 || bytes[5] != 1 {
            return Err(ElfError::Unsupported);
        }
        if length < bytes.len() {
            return Err(ElfError::Malformed("file header is cut"));
        }
        let (header, _) = pod::from_bytes::<FileHeader64<Le>>(&bytes).map_err(|()| ElfError::Malformed("header"))?;
        let architecture = match header.e_machine.get(Le) {
            EM_X86_64 => Architecture::Amd64,
            EM_AARCH64 => Architecture::Arm64,
            other => Architecture::Other(other),
        };
        let segments = read_table(file, header.e_phoff.get(Le), header.e_phnum.get(Le), header.e_phentsize.get(Le))?;
        let sections: Vec<SectionHeader64<Le>> =
            read_table(file, header.e_shoff.get(Le), header.e_shnum.get(Le), header.e_shentsize.get(Le))?;
        let section_names = match sections.get(usize::from(header.e_shstrndx.get(Le))) {
            Some(names) => read_range(file, names.sh_offset.get(Le), names.sh_size.get(Le), SECTION_NAMES_BYTES_MAX)?,
            None => Vec::new(),
        };
        Ok(Self { file, architecture, segments, sections, section_names })
    }

    /// Addresses of the section with this name, if it has bytes in the file.
    pub(super) fn section(&self, name: &[u8]) -> Option<AddressRange> {
        self.sections
            .iter()
            .find(|section| {
                let start = section.sh_name.get(Le) as usize;
                section.sh_type.get(Le) != SHT_NOBITS
                    && self.section_names.get(start..).is_some_and(|names| {
                        names.starts_with(name) && names.get(name.len()).is_none_or(|end| *end == 0)
                    })
            })
            .map(|section| AddressRange { address: section.sh_addr.get(Le), size: section.sh_size.get(Le) })
    }

    /// The first writable segment that is not executable: where Go's linker puts build info in a file whose sections
    /// were stripped (`debug/buildinfo`, `elfExe.DataStart`).
    pub(super) fn data_segment(&self) -> Option<AddressRange> {
        self.segments
            .iter()
            .find(|segment| {
                let flags = segment.p_flags.get(Le);
                segment.p_type.get(Le) == PT_LOAD && flags & PF_W == PF_W && flags & PF_X != PF_X
            })
            .map(|segment| AddressRange { address: segment.p_vaddr.get(Le), size: segment.p_filesz.get(Le) })
    }

    /// Reads up to `buffer.len()` bytes at a virtual address; fewer where the segment's file bytes end, none for an
    /// address outside every segment.
    pub(super) fn read_address(&self, address: u64, buffer: &mut [u8]) -> Result<usize, ElfError> {
        let Some(segment) = self.segments.iter().find(|segment| {
            segment.p_type.get(Le) == PT_LOAD
                && address
                    .checked_sub(segment.p_vaddr.get(Le))
                    .is_some_and(|distance| distance < segment.p_filesz.get(Le))
        }) else {
            return Ok(0);
        };
        let distance = address - segment.p_vaddr.get(Le);
        let available = usize::try_from(segment.p_filesz.get(Le) - distance).unwrap_or(usize::MAX);
        let length = buffer.len().min(available);
        let offset = segment.p_offset.get(Le).checked_add(distance).ok_or(ElfError::Malformed("segment offset"))?;
        Ok(self.file.read_at(&mut buffer[..length], offset)?)
    }
}

fn read_table<T: pod::Pod + Clone, R: ReadAt + ?Sized>(
    file: &R,
    offset: u64,
    count: u16,
    entry_bytes: u16,
) -> Result<Vec<T>, ElfError> {
    if count == 0 {
        return Ok(Vec::new());
    }
    if usize::from(entry_bytes) != size_of::<T>() {
        return Err(ElfError::Malformed("table entry size"));
    }
    let bytes = read_range(file, offset, u64::from(count) * u64::from(entry_bytes), TABLE_BYTES_MAX)?;
    let (entries, _) =
        pod::slice_from_bytes::<T>(&bytes, usize::from(count)).map_err(|()| ElfError::Malformed("table"))?;
    Ok(entries.to_vec())
}

fn read_range<R: ReadAt + ?Sized>(file: &R, offset: u64, size: u64, max: usize) -> Result<Vec<u8>, ElfError> {
    let size = usize::try_from(size).ok().filter(|size| *size <= max).ok_or(ElfError::Malformed("table too large"))?;
    let mut bytes = vec![0; size];
    if file.read_at(&mut bytes, offset)? < size {
        return Err(ElfError::Malformed("table outside the file"));
    }
    Ok(bytes)
}
