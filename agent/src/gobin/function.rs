//! Places in an executable where probes on Go functions may be attached.

use std::collections::BTreeMap;
use std::fmt;

use super::elf::{AddressRange, Architecture, Elf, ElfError, ReadAt};
use super::pclntab::Pclntab;
use super::sites::{self, SiteError};

/// Where one function may be probed. Offsets are bytes from the start of the file, as uprobes want them.
#[derive(Clone, PartialEq, Eq)]
pub struct FunctionSites {
    /// The function's first byte. Never a place for a probe: a call that grows its stack passes it twice.
    pub start: u64,
    /// The instruction after the stack check. Arguments are still in their registers and the stack pointer is the
    /// caller's, so what the caller put on the stack is at SP+8; a call passes it once.
    pub entry: u64,
    /// Every return instruction, ascending, at least one. Results are in their registers.
    pub returns: Vec<u64>,
    /// The function's bytes without padding.
    code: Vec<u8>,
}

impl fmt::Debug for FunctionSites {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { start, entry, returns, code } = self;
        f.debug_struct("FunctionSites")
            .field("start", start)
            .field("entry", entry)
            .field("returns", returns)
            .field("code_bytes", &code.len())
            .finish()
    }
}

/// The file no longer has the bytes that the sites were found in.
#[derive(Debug, thiserror::Error)]
pub enum ChangedError {
    /// Other bytes, or none.
    #[error("the executable changed after it was read")]
    Changed,
    /// The file could not be read.
    #[error("read executable: {0}")]
    Read(#[from] std::io::Error),
}

impl FunctionSites {
    /// Reads the function again and compares it with what the sites were found in. To be called right before
    /// attaching, with the handle that is attached to.
    ///
    /// # Errors
    /// The function is not what it was, or cannot be read.
    pub fn verify<R: ReadAt + ?Sized>(&self, file: &R) -> Result<(), ChangedError> {
        let mut bytes = vec![0; self.code.len()];
        let length = file.read_at(&mut bytes, self.start)?;
        if length == bytes.len() && bytes == self.code { Ok(()) } else { Err(ChangedError::Changed) }
    }
}

/// The table that functions' names and extents came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SymbolTable {
    /// ELF symbols.
    Symtab,
    /// Go's own table, in a stripped program.
    Pclntab,
}

/// What was found of the functions asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Functions {
    /// Where the names came from.
    pub table: SymbolTable,
    /// The functions that the program has, by name; for each its sites, or why it must not be probed. A name that is
    /// absent here is absent from the program, inlined everywhere included.
    pub sites: BTreeMap<String, Result<FunctionSites, SiteError>>,
}

/// Why no function could be looked up.
#[derive(Debug, thiserror::Error)]
pub enum FunctionError {
    /// The file could not be read as ELF.
    #[error(transparent)]
    Elf(#[from] ElfError),
    /// Instructions of this `e_machine` are not understood.
    #[error("functions cannot be probed on ELF machine {0}")]
    Architecture(u16),
    /// Neither ELF symbols nor Go's function table.
    #[error("neither symbols nor Go's function table")]
    NoTable,
    /// Go's function table is not of a known layout (Go before 1.18, or a release after this was written).
    #[error("Go's function table has the unknown magic {0:#x}")]
    TableVersion(u32),
    /// Go's function table contradicts itself.
    #[error("Go's function table: {0}")]
    Table(&'static str),
    /// Go's function table was found, but not the address that it counts from.
    #[error("the address of Go's code is not in the file")]
    NoText,
}

/// Functions worth probing are a few KiB.
const FUNCTION_BYTES_MAX: u64 = 1 << 20;

/// Finds the functions of these exact names (`net/http.(*Transport).roundTrip`) and the places to probe them.
///
/// # Errors
/// The program has no table of functions that can be read. A single function that must not be probed is no error.
pub fn function_sites<R: ReadAt + ?Sized>(file: &R, names: &[&str]) -> Result<Functions, FunctionError> {
    let elf = Elf::parse(file)?;
    if let Architecture::Other(machine) = elf.architecture {
        return Err(FunctionError::Architecture(machine));
    }
    let (table, extents) = match elf.function_symbols()? {
        Some(symbols) => (SymbolTable::Symtab, select(names, symbols.iter().map(Ok))?),
        None => (SymbolTable::Pclntab, select(names, Pclntab::read(&elf)?.functions())?),
    };
    let mut sites = BTreeMap::new();
    for (name, extent) in extents {
        let found = match extent {
            Extent::One(range) => sites_in(&elf, range)?,
            Extent::Several => Err(SiteError::Ambiguous),
        };
        sites.insert(name.to_owned(), found);
    }
    Ok(Functions { table, sites })
}

#[derive(Clone, Copy)]
enum Extent {
    One(AddressRange),
    Several,
}

fn select<'n, 'f>(
    names: &[&'n str],
    functions: impl Iterator<Item = Result<(&'f [u8], AddressRange), FunctionError>>,
) -> Result<BTreeMap<&'n str, Extent>, FunctionError> {
    let wanted: BTreeMap<&[u8], &str> = names.iter().map(|name| (name.as_bytes(), *name)).collect();
    let mut found = BTreeMap::new();
    for function in functions {
        let (name, range) = function?;
        if let Some(name) = wanted.get(name) {
            found.entry(*name).and_modify(|extent| *extent = Extent::Several).or_insert(Extent::One(range));
        }
    }
    Ok(found)
}

fn sites_in<R: ReadAt + ?Sized>(
    elf: &Elf<'_, R>,
    range: AddressRange,
) -> Result<Result<FunctionSites, SiteError>, ElfError> {
    if range.size == 0 || range.size > FUNCTION_BYTES_MAX {
        return Ok(Err(SiteError::Size(range.size)));
    }
    let Some((start, mut code)) = elf.code(range)? else { return Ok(Err(SiteError::NotInFile)) };
    Ok(sites::find(elf.architecture, &code).map(|sites| {
        code.truncate(sites.length);
        FunctionSites {
            start,
            entry: start + sites.entry as u64,
            returns: sites.returns.iter().map(|offset| start + *offset as u64).collect(),
            code,
        }
    }))
}

#[cfg(test)]
mod tests;
