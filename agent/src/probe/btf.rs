//! The kernel's own type information: where a member of a structure lies, what a tracepoint's arguments are.
//!
//! Parses `.BTF` bytes as far as that takes (Documentation/bpf/btf.rst); every access is checked, loops are bounded by
//! the input, foreign bytes cannot panic.

use std::collections::HashMap;

use gobuild_trace_common::{ABSENT, Offsets};
use thiserror::Error;

/// What is wrong with BTF bytes.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum BtfError {
    /// Not BTF of this machine's byte order.
    #[error("no BTF magic")]
    Magic,
    /// A section or a type reaches past the end.
    #[error("cut at byte {0}")]
    Truncated(usize),
    /// A kind that this parser does not know, so that its length is unknown.
    #[error("unknown kind {kind} of type {id}")]
    UnknownKind {
        /// `btf_type` kind.
        kind: u32,
        /// Type id.
        id: usize,
    },
}

/// An index over BTF bytes.
pub struct Btf<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// Position of each type; id 0 is `void`.
    positions: Vec<u32>,
    /// Structures and unions by name.
    structures: HashMap<&'a [u8], u32>,
    /// Typedefs by name.
    typedefs: HashMap<&'a [u8], u32>,
}

const MAGIC: u16 = 0xeb9f;
const TYPE_BYTES: usize = 12;

const PTR: u32 = 2;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const TYPEDEF: u32 = 8;
const VOLATILE: u32 = 9;
const CONST: u32 = 10;
const RESTRICT: u32 = 11;
const FUNC_PROTO: u32 = 13;
const TYPE_TAG: u32 = 18;

/// Nested structures and typedef chains that are followed.
const MAX_DEPTH: u32 = 32;

#[derive(Clone, Copy)]
struct Type {
    position: usize,
    name: u32,
    kind: u32,
    members: usize,
    /// For structures and unions: member offsets carry bitfield sizes.
    kind_flag: bool,
    /// Size, or the id that is referred to.
    size_or_type: u32,
}

/// Where a member lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Bits from the begin of the structure.
    pub bit_offset: u32,
    type_id: u32,
}

fn word(bytes: &[u8], at: usize) -> Result<u32, BtfError> {
    let end = at.checked_add(4).ok_or(BtfError::Truncated(at))?;
    let word = bytes.get(at..end).and_then(|word| word.try_into().ok()).ok_or(BtfError::Truncated(at))?;
    Ok(u32::from_ne_bytes(word))
}

fn section(bytes: &[u8], at: usize, length: usize) -> Result<&[u8], BtfError> {
    let end = at.checked_add(length).ok_or(BtfError::Truncated(at))?;
    bytes.get(at..end).ok_or(BtfError::Truncated(at))
}

impl<'a> Btf<'a> {
    /// Indexes the bytes of `/sys/kernel/btf/vmlinux` or of an ELF section `.BTF`.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, BtfError> {
        let magic = bytes.get(..2).and_then(|magic| magic.try_into().ok()).map(u16::from_ne_bytes);
        if magic != Some(MAGIC) {
            return Err(BtfError::Magic);
        }
        let header = word(bytes, 4)? as usize;
        let body = bytes.get(header..).ok_or(BtfError::Truncated(header))?;
        let types = section(body, word(bytes, 8)? as usize, word(bytes, 12)? as usize)?;
        let strings = section(body, word(bytes, 16)? as usize, word(bytes, 20)? as usize)?;
        let mut btf = Self { types, strings, positions: vec![0], structures: HashMap::new(), typedefs: HashMap::new() };
        btf.index()?;
        Ok(btf)
    }

    fn index(&mut self) -> Result<(), BtfError> {
        let mut at = 0;
        while at < self.types.len() {
            let id = self.positions.len();
            let found = self.type_at(at)?;
            let extra = match found.kind {
                PTR | 7..=12 | 16 | TYPE_TAG => 0,
                1 | 14 | 17 => 4,
                3 => 12,
                STRUCT | UNION | 15 | 19 => found.members * 12,
                6 | FUNC_PROTO => found.members * 8,
                kind => return Err(BtfError::UnknownKind { kind, id }),
            };
            section(self.types, at + TYPE_BYTES, extra)?;
            let (Ok(id), Ok(position)) = (u32::try_from(id), u32::try_from(at)) else {
                return Err(BtfError::Truncated(at));
            };
            self.positions.push(position);
            let name = self.string(found.name);
            match found.kind {
                // The first of a name counts: modules and duplicates come later.
                STRUCT | UNION if !name.is_empty() => {
                    self.structures.entry(name).or_insert(id);
                }
                TYPEDEF => {
                    self.typedefs.entry(name).or_insert(id);
                }
                _ => {}
            }
            at += TYPE_BYTES + extra;
        }
        Ok(())
    }

    fn type_at(&self, position: usize) -> Result<Type, BtfError> {
        let info = word(self.types, position + 4)?;
        Ok(Type {
            position,
            name: word(self.types, position)?,
            kind: (info >> 24) & 0x1f,
            members: (info & 0xffff) as usize,
            kind_flag: info >> 31 == 1,
            size_or_type: word(self.types, position + 8)?,
        })
    }

    fn type_of(&self, id: u32) -> Option<Type> {
        if id == 0 {
            return None;
        }
        self.type_at(*self.positions.get(id as usize)? as usize).ok()
    }

    fn string(&self, at: u32) -> &'a [u8] {
        let rest = self.strings.get(at as usize..).unwrap_or_default();
        rest.split(|byte| *byte == 0).next().unwrap_or_default()
    }

    /// Follows typedefs and qualifiers.
    fn resolve(&self, mut id: u32) -> Option<Type> {
        for _ in 0..MAX_DEPTH {
            let found = self.type_of(id)?;
            match found.kind {
                TYPEDEF | VOLATILE | CONST | RESTRICT | TYPE_TAG => id = found.size_or_type,
                _ => return Some(found),
            }
        }
        None
    }

    /// Whether the kernel has this structure.
    pub fn has_structure(&self, name: &str) -> bool {
        self.structures.contains_key(name.as_bytes())
    }

    /// Finds `a.b.c` in a structure; members of anonymous structures and unions count as the outer one's.
    pub fn member(&self, structure: &str, path: &str) -> Option<Member> {
        let mut id = *self.structures.get(structure.as_bytes())?;
        let mut bits = 0u32;
        for name in path.split('.') {
            let found = self.find(self.resolve(id)?, name.as_bytes(), MAX_DEPTH)?;
            bits = bits.checked_add(found.bit_offset)?;
            id = found.type_id;
        }
        Some(Member { bit_offset: bits, type_id: id })
    }

    fn find(&self, outer: Type, wanted: &[u8], depth: u32) -> Option<Member> {
        if depth == 0 || !matches!(outer.kind, STRUCT | UNION) {
            return None;
        }
        for index in 0..outer.members {
            let at = outer.position + TYPE_BYTES + index * 12;
            let name = self.string(word(self.types, at).ok()?);
            let type_id = word(self.types, at + 4).ok()?;
            let raw = word(self.types, at + 8).ok()?;
            let bit_offset = if outer.kind_flag { raw & 0x00ff_ffff } else { raw };
            if name == wanted {
                return Some(Member { bit_offset, type_id });
            }
            if name.is_empty()
                && let Some(inner) = self.resolve(type_id)
                && let Some(found) = self.find(inner, wanted, depth - 1)
            {
                return Some(Member { bit_offset: bit_offset.checked_add(found.bit_offset)?, type_id: found.type_id });
            }
        }
        None
    }

    /// Number of arguments of a tracepoint, or `None` when the kernel has none of this name.
    pub fn tracepoint_arguments(&self, name: &str) -> Option<usize> {
        let typedef = *self.typedefs.get(format!("btf_trace_{name}").as_bytes())?;
        let pointer = self.resolve(typedef)?;
        let prototype = (pointer.kind == PTR).then(|| self.resolve(pointer.size_or_type)).flatten()?;
        // The first parameter is the registrant's data.
        (prototype.kind == FUNC_PROTO).then(|| prototype.members.saturating_sub(1))
    }

    /// Every field that the programs read.
    pub fn offsets(&self) -> Offsets {
        let values: Vec<u32> = Offsets::FIELDS
            .iter()
            .map(|field| {
                let member = field.members.iter().find_map(|path| self.member(field.structure, path));
                match member {
                    Some(member) if field.name.ends_with("_bit") => member.bit_offset,
                    Some(member) => member.bit_offset / 8,
                    None => ABSENT,
                }
            })
            .collect();
        Offsets::from_values(&values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn vmlinux() -> Option<Vec<u8>> {
        std::fs::read("/sys/kernel/btf/vmlinux").ok()
    }

    #[test]
    fn resolves_every_field_of_this_kernel() {
        let Some(bytes) = vmlinux() else {
            assert!(std::env::var_os("CI").is_none(), "no BTF in CI");
            eprintln!("skipped: this kernel exposes no BTF");
            return;
        };
        let btf = Btf::parse(&bytes).unwrap();
        let missing: Vec<_> = Offsets::FIELDS
            .iter()
            .filter(|field| field.members.iter().all(|path| btf.member(field.structure, path).is_none()))
            .map(|field| field.name)
            .collect();
        // `bio.bi_disk` went with 5.12, `bio.bi_bdev` came with it.
        assert!(missing == ["bio_disk"] || missing == ["bio_bdev"], "{missing:?}");
        let offsets = btf.offsets();
        assert!(offsets.task_tgid == offsets.task_pid + 4, "pid and tgid are neighbours in every kernel");
        assert!(offsets.signal_stime == offsets.signal_utime + 8);
        assert_eq!(btf.tracepoint_arguments("sys_exit"), Some(2));
        assert_eq!(btf.tracepoint_arguments("no_such_tracepoint"), None);
    }

    /// `struct outer { u32 first; struct { u32 bit: 1, second: 1; }; struct outer *next; }`
    fn small() -> Vec<u8> {
        let strings = b"\0outer\0first\0second\0u32\0";
        let mut types = Vec::new();
        let mut push = |words: &[u32]| words.iter().for_each(|word| types.extend_from_slice(&word.to_ne_bytes()));
        push(&[20, 1 << 24, 4, 32]); // 1: u32
        push(&[0, 4 << 24 | 1 << 31 | 1, 4, 13, 1, 1 << 24 | 1]); // 2: anonymous, a bitfield at bit 1
        push(&[1, 4 << 24 | 2, 8, 7, 1, 0, 0, 2, 32]); // 3: outer
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&MAGIC.to_ne_bytes());
        bytes.extend_from_slice(&[1, 0]);
        for word in [24, 0, types.len() as u32, types.len() as u32, strings.len() as u32] {
            bytes.extend_from_slice(&word.to_ne_bytes());
        }
        bytes.extend_from_slice(&types);
        bytes.extend_from_slice(strings);
        bytes
    }

    #[test]
    fn walks_anonymous_members_and_bitfields() {
        let bytes = small();
        let btf = Btf::parse(&bytes).unwrap();
        assert_eq!(btf.member("outer", "first").unwrap().bit_offset, 0);
        assert_eq!(btf.member("outer", "econd"), None);
        assert_eq!(btf.member("outer", "second").map(|member| member.bit_offset), Some(33));
        assert_eq!(btf.member("inner", "second"), None);
    }

    proptest! {
        #[test]
        fn foreign_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = Btf::parse(&bytes).map(|btf| btf.offsets());
        }

        #[test]
        fn damaged_btf_never_panics(at in 0usize..120, value in any::<u8>(), cut in 0usize..140) {
            let mut bytes = small();
            let length = bytes.len();
            if let Some(byte) = bytes.get_mut(at % length) { *byte = value; }
            bytes.truncate(cut.min(length).max(1));
            if let Ok(btf) = Btf::parse(&bytes) {
                let _ = btf.member("outer", "second");
                let _ = btf.tracepoint_arguments("outer");
                let _ = btf.offsets();
            }
        }
    }
}
