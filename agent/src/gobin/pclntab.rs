//! Go's own table of functions (`.gopclntab`), which a stripped program keeps.
//!
//! Format: `runtime/symtab.go` (`pcHeader`, `functab`, `_func`), the same from Go 1.18 on but for the magic and for
//! `textStart`, which is 0 since Go 1.26.

use super::elf::{AddressRange, Architecture, Elf, ElfError, ReadAt, name_at};
use super::function::FunctionError;

/// Go 1.18 and 1.19; Go 1.20 and later.
const MAGICS: [u32; 2] = [0xffff_fff0, 0xffff_fff1];
const HEADER_BYTES: usize = 72;
/// The go command's table is 4 MiB.
const TABLE_BYTES_MAX: u64 = 64 << 20;
/// Where no section names the table, this much of the data segments is searched.
const SEARCH_BYTES_MAX: u64 = 64 << 20;
const ALIGNMENT: usize = 8;
/// Offset of `text` in `runtime.moduledata`: a pointer, six slices, three more pointers.
const MODULE_TEXT: u64 = 176;

/// A function table that was read.
pub(super) struct Pclntab {
    bytes: Vec<u8>,
    header: Header,
    /// Address that the table's entries count from.
    text: u64,
}

#[derive(Clone, Copy)]
struct Header {
    functions: usize,
    names: usize,
    functab: usize,
}

impl Pclntab {
    /// Finds and reads the table.
    pub(super) fn read<R: ReadAt + ?Sized>(elf: &Elf<'_, R>) -> Result<Self, FunctionError> {
        let (address, bytes, header) =
            match elf.section(b".gopclntab").or_else(|| elf.section(b".data.rel.ro.gopclntab")) {
                Some(range) if range.size > TABLE_BYTES_MAX => return Err(FunctionError::Table("too large")),
                Some(range) => {
                    let bytes = elf.read_all(range, TABLE_BYTES_MAX as usize)?.ok_or(FunctionError::Table("cut"))?;
                    let header = Header::parse(&bytes, elf.architecture)?;
                    (range.address, bytes, header)
                }
                None => search(elf)?.ok_or(FunctionError::NoTable)?,
            };
        let text = text_address(elf, address)?;
        Ok(Self { bytes, header, text })
    }

    /// Name and extent of each function; the padding behind a function counts as its own.
    pub(super) fn functions(&self) -> impl Iterator<Item = Result<(&[u8], AddressRange), FunctionError>> {
        (0..self.header.functions)
            .map(|index| self.function(index).ok_or(FunctionError::Table("an entry lies outside")))
    }

    fn function(&self, index: usize) -> Option<(&[u8], AddressRange)> {
        // Entries are pairs of code offset and `_func` offset; after the last one stands the end of the code.
        let functab = self.bytes.get(self.header.functab..)?;
        let at = index * 8;
        let (entry, end) = (word(functab, at)?, word(functab, at + 8)?);
        let func = functab.get(word(functab, at + 4)? as usize..)?;
        let name = self.header.names.checked_add(word(func, 4)? as usize)?;
        let address = self.text.checked_add(u64::from(entry))?;
        Some((name_at(&self.bytes, name)?, AddressRange { address, size: u64::from(end.checked_sub(entry)?) }))
    }
}

impl Header {
    fn parse(bytes: &[u8], architecture: Architecture) -> Result<Self, FunctionError> {
        let bytes = bytes.get(..HEADER_BYTES).ok_or(FunctionError::Table("cut"))?;
        let magic = word(bytes, 0).unwrap_or_default();
        if !MAGICS.contains(&magic) {
            return Err(FunctionError::TableVersion(magic));
        }
        if bytes[4..8] != header_tail(architecture) {
            return Err(FunctionError::Table("not of this architecture"));
        }
        let field = |at: usize| {
            let bytes = bytes[at..at + 8].try_into().expect("eight bytes of the header");
            usize::try_from(u64::from_le_bytes(bytes)).ok().filter(|value| *value as u64 <= TABLE_BYTES_MAX)
        };
        match (field(8), field(32), field(64)) {
            (Some(functions @ 1..), Some(names @ HEADER_BYTES..), Some(functab @ HEADER_BYTES..)) => {
                Ok(Self { functions, names, functab })
            }
            _ => Err(FunctionError::Table("its header is out of bounds")),
        }
    }
}

/// Two zeros, the shortest instruction, the size of a pointer.
fn header_tail(architecture: Architecture) -> [u8; 4] {
    [0, 0, if architecture == Architecture::Amd64 { 1 } else { 4 }, 8]
}

/// In a position independent program that a C linker linked, Go 1.25 and older had the table amid other relocated data.
fn search<R: ReadAt + ?Sized>(elf: &Elf<'_, R>) -> Result<Option<(u64, Vec<u8>, Header)>, FunctionError> {
    let tail = header_tail(elf.architecture);
    let mut budget = SEARCH_BYTES_MAX;
    let mut chunk = vec![0; 256 << 10];
    for segment in elf.data_segments() {
        let Some(start) = segment.address.checked_next_multiple_of(ALIGNMENT as u64) else { continue };
        let size = segment.size.saturating_sub(start - segment.address).min(budget);
        budget -= size;
        let mut searched = 0;
        while searched < size {
            let Some(address) = start.checked_add(searched) else { break };
            let wanted = usize::try_from(size - searched).unwrap_or(usize::MAX).min(chunk.len());
            let length = elf.read_address(address, &mut chunk[..wanted])?;
            for at in (0..length.saturating_sub(7)).step_by(ALIGNMENT) {
                let magic = word(&chunk, at).is_some_and(|magic| MAGICS.contains(&magic));
                if !magic || chunk[at + 4..at + 8] != tail {
                    continue;
                }
                let found = start + searched + at as u64;
                let rest = (start + size).saturating_sub(found).min(TABLE_BYTES_MAX);
                if let Some(table) = candidate(elf, AddressRange { address: found, size: rest })? {
                    return Ok(Some(table));
                }
            }
            if length < wanted {
                break;
            }
            searched += wanted as u64;
        }
    }
    Ok(None)
}

/// The table at `range.address` if there is one, with everything behind it: its header does not say its length.
fn candidate<R: ReadAt + ?Sized>(
    elf: &Elf<'_, R>,
    range: AddressRange,
) -> Result<Option<(u64, Vec<u8>, Header)>, FunctionError> {
    let mut bytes = [0; HEADER_BYTES];
    if elf.read_address(range.address, &mut bytes)? < bytes.len() {
        return Ok(None);
    }
    let Ok(header) = Header::parse(&bytes, elf.architecture) else { return Ok(None) };
    let fits = |at: usize| (at as u64) < range.size;
    if !fits(header.names) || !fits(header.functab.saturating_add(header.functions.saturating_mul(8))) {
        return Ok(None);
    }
    let bytes = elf.read_all(range, TABLE_BYTES_MAX as usize)?;
    Ok(bytes.map(|bytes| (range.address, bytes, header)))
}

/// The address of `runtime.text`. `.text` may begin before it: a C linker puts its own code first.
fn text_address<R: ReadAt + ?Sized>(elf: &Elf<'_, R>, table: u64) -> Result<u64, FunctionError> {
    const TEXT_START: u64 = 24;
    let pointer = |address: Option<u64>| -> Result<Option<u64>, ElfError> {
        match address {
            Some(address) => Ok(elf.pointer(address)?.filter(|value| *value != 0)),
            None => Ok(None),
        }
    };
    if let Some(text) = pointer(table.checked_add(TEXT_START))? {
        return Ok(text);
    }
    let module = elf.section(b".go.module").ok_or(FunctionError::NoText)?.address;
    // The first field of the module is the address of the table.
    if pointer(Some(module))? != Some(table) {
        return Err(FunctionError::NoText);
    }
    pointer(module.checked_add(MODULE_TEXT))?.ok_or(FunctionError::NoText)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(bytes.try_into().expect("four bytes")))
}
