//! Build info that Go's linker puts into every program: version of Go, package path, main module, build settings.
//!
//! Format: `debug/buildinfo` in Go's source. A 32-byte header (magic, pointer size, flags); from Go 1.18 on two
//! strings with a varint length each follow, before that the header points to two Go string headers.

use serde::{Deserialize, Serialize};

use super::elf::{AddressRange, Architecture, Elf, ElfError, ReadAt};
use super::version::GoVersion;

/// What build info says about a Go program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GoExecutable {
    /// The Go release that built it.
    pub go_version: GoVersion,
    /// Path of its main package: `cmd/go`, `cmd/compile`, `example.com/tool`. Empty in programs that were built
    /// without module support.
    pub path: String,
    /// Path of its main module; `cmd` for Go's own programs of a release that records it.
    pub main_module: Option<String>,
    /// Instruction set, from the file's header.
    pub architecture: Architecture,
    /// How it was built.
    pub settings: BuildSettings,
}

/// The build settings that matter here. `-ldflags` and other values that may hold secrets are not kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildSettings {
    /// `GOOS`.
    pub goos: Option<String>,
    /// `GOARCH`.
    pub goarch: Option<String>,
    /// `-buildmode`.
    pub build_mode: Option<String>,
    /// `CGO_ENABLED`.
    pub cgo_enabled: Option<bool>,
    /// `-trimpath`.
    pub trimpath: Option<bool>,
}

/// Why no build info was read.
#[derive(Debug, thiserror::Error)]
pub enum BuildInfoError {
    /// An ELF program, but not built by Go (or its build info was removed).
    #[error("no Go build info")]
    NotGo,
    /// Go build info with a version that cannot be read.
    #[error("build info: {0}")]
    Version(#[from] super::version::ParseGoVersionError),
    /// The file could not be read as ELF.
    #[error(transparent)]
    Elf(#[from] ElfError),
}

const MAGIC: &[u8; 14] = b"\xff Go buildinf:";
const HEADER_BYTES: usize = 32;
const ALIGNMENT: usize = 16;
/// In a file without section headers the magic is searched from the start of the data segment; Go's linker places it
/// first there, an external linker after a few small sections.
const SEARCH_BYTES_MAX: u64 = 8 << 20;
/// The version with experiments is about 100 bytes; the module list of a large program about 100 KiB.
const VERSION_BYTES_MAX: usize = 4 << 10;
const MODULES_BYTES_MAX: usize = 8 << 20;

/// Reads build info.
///
/// # Errors
/// [`BuildInfoError::NotGo`] for a program that Go did not build; the others for a file that cannot be read.
pub fn read_build_info<R: ReadAt + ?Sized>(file: &R) -> Result<GoExecutable, BuildInfoError> {
    let elf = Elf::parse(file)?;
    let range = elf.section(b".go.buildinfo").or_else(|| elf.data_segment()).ok_or(BuildInfoError::NotGo)?;
    let address = find_header(&elf, range)?.ok_or(BuildInfoError::NotGo)?;
    let mut header = [0; HEADER_BYTES];
    if elf.read_address(address, &mut header)? < HEADER_BYTES {
        return Err(BuildInfoError::NotGo);
    }
    let pointer_bytes = header[14];
    let flags = header[15];
    let (version, modules) = if flags & 2 != 0 {
        let (version, next) = inline_string(&elf, address.saturating_add(HEADER_BYTES as u64), VERSION_BYTES_MAX)?;
        let (modules, _) = inline_string(&elf, next, MODULES_BYTES_MAX)?;
        (version, modules)
    } else if flags & 1 == 0 && pointer_bytes == 8 {
        let pointer = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes of the header"));
        (
            pointed_string(&elf, pointer(16), VERSION_BYTES_MAX)?,
            pointed_string(&elf, pointer(24), MODULES_BYTES_MAX).unwrap_or_default(),
        )
    } else {
        return Err(BuildInfoError::NotGo);
    };
    let go_version = String::from_utf8_lossy(&version).parse()?;
    let modules = String::from_utf8_lossy(unframe(&modules)).into_owned();
    Ok(parse_modules(&modules, go_version, elf.architecture))
}

fn find_header<R: ReadAt + ?Sized>(elf: &Elf<'_, R>, range: AddressRange) -> Result<Option<u64>, ElfError> {
    let mut chunk = vec![0; 64 << 10];
    let Some(start) = range.address.checked_next_multiple_of(ALIGNMENT as u64) else { return Ok(None) };
    let size = range.size.saturating_sub(start - range.address).min(SEARCH_BYTES_MAX);
    let mut searched = 0;
    while searched < size {
        let Some(address) = start.checked_add(searched) else { return Ok(None) };
        let wanted = usize::try_from(size - searched).unwrap_or(usize::MAX).min(chunk.len());
        let length = elf.read_address(address, &mut chunk[..wanted])?;
        if let Some(line) = chunk[..length].chunks_exact(ALIGNMENT).position(|line| line.starts_with(MAGIC)) {
            return Ok(address.checked_add((line * ALIGNMENT) as u64));
        }
        if length < wanted {
            return Ok(None);
        }
        searched += wanted as u64;
    }
    Ok(None)
}

fn inline_string<R: ReadAt + ?Sized>(
    elf: &Elf<'_, R>,
    address: u64,
    max: usize,
) -> Result<(Vec<u8>, u64), BuildInfoError> {
    let mut varint = [0; 10];
    let available = elf.read_address(address, &mut varint)?;
    let (length, used) = uvarint(&varint[..available]).ok_or(BuildInfoError::NotGo)?;
    let start = address.checked_add(used as u64).ok_or(BuildInfoError::NotGo)?;
    let bytes = read_string(elf, start, length, max)?;
    Ok((bytes, start.saturating_add(length)))
}

/// Reads a Go string through the address of its header (data pointer, length).
fn pointed_string<R: ReadAt + ?Sized>(elf: &Elf<'_, R>, address: u64, max: usize) -> Result<Vec<u8>, BuildInfoError> {
    let mut header = [0; 16];
    if elf.read_address(address, &mut header)? < header.len() {
        return Err(BuildInfoError::NotGo);
    }
    let (data, length) = header.split_at(8);
    let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("half of sixteen bytes"));
    read_string(elf, word(data), word(length), max)
}

fn read_string<R: ReadAt + ?Sized>(
    elf: &Elf<'_, R>,
    address: u64,
    length: u64,
    max: usize,
) -> Result<Vec<u8>, BuildInfoError> {
    let length = usize::try_from(length).ok().filter(|length| *length <= max).ok_or(BuildInfoError::NotGo)?;
    let mut bytes = vec![0; length];
    if elf.read_address(address, &mut bytes)? < length {
        return Err(BuildInfoError::NotGo);
    }
    Ok(bytes)
}

/// Go's `binary.Uvarint`: value and bytes used.
fn uvarint(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut value = 0_u64;
    for (index, byte) in bytes.iter().enumerate().take(10) {
        let bits = u64::from(byte & 0x7f);
        let shift = 7 * index as u32;
        if shift == 63 && bits > 1 {
            return None;
        }
        value |= bits << shift;
        if byte & 0x80 == 0 {
            return Some((value, index + 1));
        }
    }
    None
}

/// Takes the 16-byte sentinels off that `cmd/go/internal/modload` puts around the module list.
fn unframe(modules: &[u8]) -> &[u8] {
    match modules.len() {
        length if length >= 33 && modules[length - 17] == b'\n' => &modules[16..length - 16],
        _ => &[],
    }
}

fn parse_modules(text: &str, go_version: GoVersion, architecture: Architecture) -> GoExecutable {
    let mut executable = GoExecutable {
        go_version,
        path: String::new(),
        main_module: None,
        architecture,
        settings: BuildSettings::default(),
    };
    for line in text.lines() {
        let mut words = line.split('\t');
        match (words.next(), words.next()) {
            (Some("path"), Some(path)) => path.clone_into(&mut executable.path),
            (Some("mod"), Some(path)) => executable.main_module = Some(path.to_owned()),
            (Some("build"), Some(setting)) => {
                let Some((key, value)) = setting.split_once('=') else { continue };
                let settings = &mut executable.settings;
                match key {
                    "GOOS" => settings.goos = Some(value.to_owned()),
                    "GOARCH" => settings.goarch = Some(value.to_owned()),
                    "-buildmode" => settings.build_mode = Some(value.to_owned()),
                    "CGO_ENABLED" => settings.cgo_enabled = Some(value == "1"),
                    "-trimpath" => settings.trimpath = Some(value == "true"),
                    _ => {}
                }
            }
            _ => {}
        }
    }
    executable
}
