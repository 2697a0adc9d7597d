//! A bounded reader of the parts of an ELF file that Go's own tables need: headers, section names, symbols, relocated
//! pointers, bytes at an address.

use object::elf::{
    EM_AARCH64, EM_X86_64, FileHeader64, PF_W, PF_X, PT_LOAD, ProgramHeader64, R_AARCH64_RELATIVE, R_X86_64_RELATIVE,
    Rela64, SHT_NOBITS, SHT_SYMTAB, STT_FUNC, SectionHeader64, Sym64,
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
/// Symbols and relocations of the largest Go programs are a few MiB.
const SYMBOLS_BYTES_MAX: usize = 64 << 20;
/// Names of generic functions can be of any length; none of those is looked for.
const NAME_BYTES_MAX: usize = 512;
/// A size that a header claims is believed in steps of this.
const READ_STEP_BYTES: usize = 1 << 20;

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

/// Functions of a symbol table, and their names.
pub(super) struct FunctionSymbols {
    symbols: Vec<Sym64<Le>>,
    names: Vec<u8>,
}

impl FunctionSymbols {
    /// Name and extent of each function that the file defines.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&[u8], AddressRange)> {
        self.symbols.iter().filter(|symbol| is_function(symbol)).filter_map(|symbol| {
            let name = name_at(&self.names, symbol.st_name.get(Le) as usize)?;
            Some((name, AddressRange { address: symbol.st_value.get(Le), size: symbol.st_size.get(Le) }))
        })
    }
}

fn is_function(symbol: &Sym64<Le>) -> bool {
    symbol.st_type() == STT_FUNC && symbol.st_shndx.get(Le) != 0
}

/// The name at `start`, which a NUL ends. A longer one than anybody looks for is cut.
pub(super) fn name_at(bytes: &[u8], start: usize) -> Option<&[u8]> {
    let tail = bytes.get(start..)?;
    let tail = &tail[..tail.len().min(NAME_BYTES_MAX)];
    let length = tail.iter().position(|byte| *byte == 0);
    (length.is_some() || tail.len() == NAME_BYTES_MAX).then(|| &tail[..length.unwrap_or(tail.len())])
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
        self.section_header(name)
            .map(|section| AddressRange { address: section.sh_addr.get(Le), size: section.sh_size.get(Le) })
    }

    fn section_header(&self, name: &[u8]) -> Option<&SectionHeader64<Le>> {
        self.sections.iter().find(|section| {
            let start = section.sh_name.get(Le) as usize;
            section.sh_type.get(Le) != SHT_NOBITS
                && self
                    .section_names
                    .get(start..)
                    .is_some_and(|names| names.starts_with(name) && names.get(name.len()).is_none_or(|end| *end == 0))
        })
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

    /// Every segment that is loaded but not executed, with the bytes that the file has for it.
    pub(super) fn data_segments(&self) -> impl Iterator<Item = AddressRange> {
        self.segments
            .iter()
            .filter(|segment| segment.p_type.get(Le) == PT_LOAD && segment.p_flags.get(Le) & PF_X == 0)
            .map(|segment| AddressRange { address: segment.p_vaddr.get(Le), size: segment.p_filesz.get(Le) })
    }

    /// Functions of `.symtab`; none in a stripped file.
    pub(super) fn function_symbols(&self) -> Result<Option<FunctionSymbols>, ElfError> {
        let Some(table) = self.sections.iter().find(|section| section.sh_type.get(Le) == SHT_SYMTAB) else {
            return Ok(None);
        };
        let symbols = self.section_entries::<Sym64<Le>>(table)?;
        if !symbols.iter().any(is_function) {
            return Ok(None);
        }
        let names = usize::try_from(table.sh_link.get(Le))
            .ok()
            .and_then(|link| self.sections.get(link))
            .ok_or(ElfError::Malformed("symbol names"))?;
        let names = read_range(self.file, names.sh_offset.get(Le), names.sh_size.get(Le), SYMBOLS_BYTES_MAX)?;
        Ok(Some(FunctionSymbols { symbols, names }))
    }

    /// The pointer at a virtual address as the program sees it once loaded at its nominal address: in a position
    /// independent program the file may hold 0 there and the value in a relocation.
    pub(super) fn pointer(&self, address: u64) -> Result<Option<u64>, ElfError> {
        let relative = match self.architecture {
            Architecture::Amd64 => R_X86_64_RELATIVE,
            Architecture::Arm64 => R_AARCH64_RELATIVE,
            Architecture::Other(_) => return Ok(None),
        };
        let mut bytes = [0; 8];
        if self.read_address(address, &mut bytes)? < bytes.len() {
            return Ok(None);
        }
        let value = u64::from_le_bytes(bytes);
        if value != 0 {
            return Ok(Some(value));
        }
        // Go's linker calls the section `.rela`, others `.rela.dyn`.
        for table in [&b".rela"[..], b".rela.dyn"].into_iter().filter_map(|name| self.section_header(name)) {
            let found = self
                .section_entries::<Rela64<Le>>(table)?
                .into_iter()
                .find(|relocation| relocation.r_offset.get(Le) == address && relocation.r_type(Le, false) == relative);
            if let Some(relocation) = found {
                return Ok(u64::try_from(relocation.r_addend.get(Le)).ok());
            }
        }
        Ok(Some(value))
    }

    /// The code at these addresses and the offset in the file of its first byte; none outside the executable segments.
    /// `range.size` must have been checked.
    pub(super) fn code(&self, range: AddressRange) -> Result<Option<(u64, Vec<u8>)>, ElfError> {
        let offset = self.segments.iter().find_map(|segment| {
            let distance = range.address.checked_sub(segment.p_vaddr.get(Le))?;
            let executable = segment.p_type.get(Le) == PT_LOAD && segment.p_flags.get(Le) & PF_X == PF_X;
            let inside = distance.checked_add(range.size)? <= segment.p_filesz.get(Le);
            (executable && inside).then(|| segment.p_offset.get(Le).checked_add(distance)).flatten()
        });
        let (Some(offset), Ok(size)) = (offset, usize::try_from(range.size)) else { return Ok(None) };
        Ok(Some((offset, read_range(self.file, offset, range.size, size)?)))
    }

    /// Reads all of `range`, or none of it when the file has less there.
    pub(super) fn read_all(&self, range: AddressRange, max: usize) -> Result<Option<Vec<u8>>, ElfError> {
        let Some(size) = usize::try_from(range.size).ok().filter(|size| *size <= max) else { return Ok(None) };
        let mut bytes = Vec::new();
        while bytes.len() < size {
            let start = bytes.len();
            let Some(address) = range.address.checked_add(start as u64) else { return Ok(None) };
            bytes.resize(size.min(start + READ_STEP_BYTES), 0);
            if self.read_address(address, &mut bytes[start..])? < bytes.len() - start {
                return Ok(None);
            }
        }
        Ok(Some(bytes))
    }

    fn section_entries<T: pod::Pod + Clone>(&self, section: &SectionHeader64<Le>) -> Result<Vec<T>, ElfError> {
        if section.sh_entsize.get(Le) != size_of::<T>() as u64 {
            return Err(ElfError::Malformed("table entry size"));
        }
        let bytes = read_range(self.file, section.sh_offset.get(Le), section.sh_size.get(Le), SYMBOLS_BYTES_MAX)?;
        let (entries, _) = pod::slice_from_bytes::<T>(&bytes, bytes.len() / size_of::<T>())
            .map_err(|()| ElfError::Malformed("table"))?;
        Ok(entries.to_vec())
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
    let mut bytes = Vec::new();
    while bytes.len() < size {
        let start = bytes.len();
        let offset = offset.checked_add(start as u64).ok_or(ElfError::Malformed("table outside the file"))?;
        bytes.resize(size.min(start + READ_STEP_BYTES), 0);
        if file.read_at(&mut bytes[start..], offset)? < bytes.len() - start {
            return Err(ElfError::Malformed("table outside the file"));
        }
    }
    Ok(bytes)
}
