use proptest::prelude::*;

use super::*;

/// A function of 19 bytes: stack check, body, return at 11, call of what grows the stack, jump to the start.
const CODE: [u8; 19] =
    [0x49, 0x3b, 0x66, 0x10, 0x76, 0x06, 0x55, 0x48, 0x89, 0xe5, 0x5d, 0xc3, 0xe8, 0x00, 0x10, 0x00, 0x00, 0xeb, 0xed];
const STRIDE: usize = 32;
const TEXT_OFFSET: usize = 0x1000;
const TEXT_ADDRESS: u64 = 0x40_1000;
/// Go's code begins behind a C linker's own.
const GO_TEXT: usize = 0x100;
const DATA_OFFSET: usize = 0x2000;
const DATA_ADDRESS: u64 = 0x50_2000;
const NAMES: [&str; 3] = ["main.main", "net/http.(*Transport).roundTrip", "runtime.tail"];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Shape {
    Symtab,
    /// A function table in its section, which has the address of the code itself.
    TextStart(u32),
    /// As the one before, but the address is in a relocation and no section names the table.
    Relocated,
    /// The address is in the module data.
    Module,
}

const SHAPES: [Shape; 5] =
    [Shape::Symtab, Shape::TextStart(0xffff_fff1), Shape::TextStart(0xffff_fff0), Shape::Relocated, Shape::Module];

#[derive(Default)]
struct Section {
    name: &'static str,
    kind: u32,
    address: u64,
    bytes: Vec<u8>,
    link: u32,
    entry_bytes: u64,
    /// Where its bytes are, if not behind everything else.
    offset: Option<usize>,
}

fn program(shape: Shape) -> Vec<u8> {
    let mut file = vec![0; TEXT_OFFSET + GO_TEXT];
    file[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    for _ in NAMES {
        file.extend_from_slice(&CODE);
        file.resize(file.len().next_multiple_of(STRIDE), 0xcc);
    }
    let text_bytes = file.len() - TEXT_OFFSET;
    file.resize(DATA_OFFSET, 0);
    // Other data before the table, with the magic in it.
    file.extend_from_slice(&0xffff_fff1_u64.to_le_bytes());
    file.extend_from_slice(&[0; 24]);
    let table_at = file.len() - DATA_OFFSET;
    let table = match shape {
        Shape::Symtab => Vec::new(),
        Shape::TextStart(magic) => pclntab(magic, TEXT_ADDRESS + GO_TEXT as u64),
        Shape::Relocated | Shape::Module => pclntab(0xffff_fff1, 0),
    };
    file.extend_from_slice(&table);
    file.resize(file.len().next_multiple_of(8), 0);
    let module_at = file.len() - DATA_OFFSET;
    let mut module = vec![0; 256];
    module[..8].copy_from_slice(&(DATA_ADDRESS + table_at as u64).to_le_bytes());
    module[176..184].copy_from_slice(&(TEXT_ADDRESS + GO_TEXT as u64).to_le_bytes());
    file.extend_from_slice(&module);
    let data_bytes = file.len() - DATA_OFFSET;

    let inside = |name, at: usize, size: usize| Section {
        name,
        kind: 1,
        address: DATA_ADDRESS + at as u64,
        bytes: vec![0; size],
        offset: Some(DATA_OFFSET + at),
        ..Section::default()
    };
    let mut sections = vec![Section::default()];
    match shape {
        Shape::Symtab => {
            let (symbols, names) = symtab();
            sections.push(Section {
                name: ".symtab",
                kind: 2,
                bytes: symbols,
                link: 2,
                entry_bytes: 24,
                ..Section::default()
            });
            sections.push(Section { name: ".strtab", kind: 3, bytes: names, ..Section::default() });
        }
        Shape::TextStart(_) => sections.push(inside(".gopclntab", table_at, table.len())),
        Shape::Relocated => {
            let words = [DATA_ADDRESS + table_at as u64 + 24, 8, TEXT_ADDRESS + GO_TEXT as u64];
            let bytes = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            sections.push(Section { name: ".rela.dyn", kind: 4, bytes, entry_bytes: 24, ..Section::default() });
        }
        Shape::Module => {
            sections.push(inside(".gopclntab", table_at, table.len()));
            sections.push(inside(".go.module", module_at, module.len()));
        }
    }
    let names: Vec<u8> = sections.iter().flat_map(|section| [section.name.as_bytes(), b"\0"].concat()).collect();
    sections.push(Section { name: "", kind: 3, bytes: names, ..Section::default() });

    let mut headers = Vec::new();
    let mut name_at = 0_u32;
    for section in &sections {
        let offset = section.offset.unwrap_or_else(|| {
            file.extend_from_slice(&section.bytes);
            file.len() - section.bytes.len()
        });
        let mut header = [0; 64];
        header[..4].copy_from_slice(&name_at.to_le_bytes());
        header[4..8].copy_from_slice(&section.kind.to_le_bytes());
        header[16..24].copy_from_slice(&section.address.to_le_bytes());
        header[24..32].copy_from_slice(&(offset as u64).to_le_bytes());
        header[32..40].copy_from_slice(&(section.bytes.len() as u64).to_le_bytes());
        header[40..44].copy_from_slice(&section.link.to_le_bytes());
        header[56..64].copy_from_slice(&section.entry_bytes.to_le_bytes());
        headers.extend_from_slice(&header);
        name_at += section.name.len() as u32 + 1;
    }
    let sections_offset = file.len() as u64;
    file.extend_from_slice(&headers);
    for (at, value) in [(16, 2), (18, 62), (54, 56), (56, 2), (58, 64), (60, sections.len()), (62, sections.len() - 1)]
    {
        put(&mut file, at, &(value as u16).to_le_bytes());
    }
    put(&mut file, 32, &64_u64.to_le_bytes());
    put(&mut file, 40, &sections_offset.to_le_bytes());
    for (at, flags, offset, address, size) in
        [(64, 5_u32, TEXT_OFFSET, TEXT_ADDRESS, text_bytes), (120, 6, DATA_OFFSET, DATA_ADDRESS, data_bytes)]
    {
        put(&mut file, at, &1_u32.to_le_bytes());
        put(&mut file, at + 4, &flags.to_le_bytes());
        for (at, value) in [(at + 8, offset as u64), (at + 16, address), (at + 32, size as u64), (at + 40, size as u64)]
        {
            put(&mut file, at, &value.to_le_bytes());
        }
    }
    file
}

fn put(file: &mut [u8], at: usize, bytes: &[u8]) {
    file[at..at + bytes.len()].copy_from_slice(bytes);
}

fn symtab() -> (Vec<u8>, Vec<u8>) {
    let (mut symbols, mut names) = (vec![0; 24], vec![0]);
    for (index, name) in NAMES.iter().enumerate() {
        let mut symbol = [0; 24];
        symbol[..4].copy_from_slice(&(names.len() as u32).to_le_bytes());
        symbol[4] = 2;
        symbol[6] = 1;
        let address = TEXT_ADDRESS + (GO_TEXT + index * STRIDE) as u64;
        symbol[8..16].copy_from_slice(&address.to_le_bytes());
        symbol[16..24].copy_from_slice(&(CODE.len() as u64).to_le_bytes());
        symbols.extend_from_slice(&symbol);
        names.extend_from_slice(name.as_bytes());
        names.push(0);
    }
    (symbols, names)
}

fn pclntab(magic: u32, text_start: u64) -> Vec<u8> {
    let names: Vec<u8> = NAMES.iter().flat_map(|name| [name.as_bytes(), b"\0"].concat()).collect();
    let functab_at = (72 + names.len()).next_multiple_of(8);
    let mut table = magic.to_le_bytes().to_vec();
    table.extend_from_slice(&[0, 0, 1, 8]);
    for field in [NAMES.len() as u64, 0, text_start, 72, 0, 0, 0, functab_at as u64] {
        table.extend_from_slice(&field.to_le_bytes());
    }
    table.extend_from_slice(&names);
    table.resize(functab_at, 0);
    let funcs_at = NAMES.len() * 8 + 4;
    let mut name_at = 0;
    let mut funcs = Vec::new();
    for (index, name) in NAMES.iter().enumerate() {
        table.extend_from_slice(&((index * STRIDE) as u32).to_le_bytes());
        table.extend_from_slice(&((funcs_at + index * 8) as u32).to_le_bytes());
        funcs.extend_from_slice(&((index * STRIDE) as u32).to_le_bytes());
        funcs.extend_from_slice(&(name_at as u32).to_le_bytes());
        name_at += name.len() + 1;
    }
    table.extend_from_slice(&((NAMES.len() * STRIDE) as u32).to_le_bytes());
    table.extend_from_slice(&funcs);
    table
}

fn expected() -> BTreeMap<String, Result<FunctionSites, SiteError>> {
    let sites = |index: usize| {
        let start = (TEXT_OFFSET + GO_TEXT + index * STRIDE) as u64;
        FunctionSites { start, entry: start + 6, returns: vec![start + 11], code: CODE.to_vec() }
    };
    BTreeMap::from([(NAMES[0].to_owned(), Ok(sites(0))), (NAMES[1].to_owned(), Ok(sites(1)))])
}

const ASKED: [&str; 3] = [NAMES[0], NAMES[1], "main.absent"];

#[test]
fn every_table_gives_the_same_sites() {
    for shape in SHAPES {
        let functions = function_sites(&program(shape)[..], &ASKED).unwrap();
        let table = if shape == Shape::Symtab { SymbolTable::Symtab } else { SymbolTable::Pclntab };
        assert_eq!(functions, Functions { table, sites: expected() }, "{shape:?}");
    }
}

#[test]
fn a_replaced_function_is_noticed() {
    let mut file = program(Shape::Symtab);
    let functions = function_sites(&file[..], &ASKED).unwrap();
    let sites = functions.sites[NAMES[0]].as_ref().unwrap();
    sites.verify(&file[..]).unwrap();
    file[sites.start as usize + 15] ^= 1;
    assert!(matches!(sites.verify(&file[..]), Err(ChangedError::Changed)));
    assert!(matches!(sites.verify(&file[..TEXT_OFFSET]), Err(ChangedError::Changed)), "cut");
}

#[test]
fn one_bad_function_does_not_hide_the_others() {
    let mut file = program(Shape::Module);
    // add rsp, [rsi+0x10]
    file[TEXT_OFFSET + GO_TEXT + 1] = 0x03;
    let functions = function_sites(&file[..], &ASKED).unwrap();
    assert_eq!(functions.sites[NAMES[0]], Err(SiteError::NoStackCheck));
    assert!(functions.sites[NAMES[1]].is_ok());
}

#[test]
fn a_name_of_two_functions_is_refused() {
    let mut file = program(Shape::Symtab);
    let name = file.windows(9).position(|bytes| bytes == b"main.main").unwrap();
    let tail = file.windows(12).position(|bytes| bytes == b"runtime.tail").unwrap();
    put(&mut file, name, b"twins.all");
    put(&mut file, tail, b"twins.all\0\0\0");
    let functions = function_sites(&file[..], &["twins.all"]).unwrap();
    assert_eq!(functions.sites["twins.all"], Err(SiteError::Ambiguous));
}

#[test]
fn code_outside_the_file_and_impossible_sizes_are_refused() {
    let symbol = |at: usize, value: u64| {
        let mut file = program(Shape::Symtab);
        let address = (TEXT_ADDRESS + GO_TEXT as u64).to_le_bytes();
        let found = file.windows(8).rposition(|bytes| bytes == address).unwrap();
        put(&mut file, found + at, &value.to_le_bytes());
        function_sites(&file[..], &[NAMES[0]]).unwrap().sites[NAMES[0]].clone().unwrap_err()
    };
    assert_eq!(symbol(0, 0x10), SiteError::NotInFile);
    assert_eq!(symbol(0, DATA_ADDRESS), SiteError::NotInFile, "data is no code");
    assert_eq!(symbol(0, u64::MAX), SiteError::NotInFile);
    assert_eq!(symbol(8, 0), SiteError::Size(0));
    assert_eq!(symbol(8, u64::MAX), SiteError::Size(u64::MAX));
    assert_eq!(symbol(8, 0x1000), SiteError::NotInFile);
}

#[test]
fn tables_that_cannot_be_read_say_why() {
    let error = |shape: Shape, change: &dyn Fn(&mut [u8], usize)| {
        let mut file = program(shape);
        change(&mut file, DATA_OFFSET + 32);
        function_sites(&file[..], &ASKED).unwrap_err().to_string()
    };
    let section = Shape::TextStart(0xffff_fff1);
    assert_eq!(
        error(section, &|file, table| put(file, table, &0xffff_fffa_u32.to_le_bytes())),
        "Go's function table has the unknown magic 0xfffffffa"
    );
    assert_eq!(error(section, &|file, table| file[table + 6] = 4), "Go's function table: not of this architecture");
    assert_eq!(
        error(section, &|file, table| put(file, table + 64, &u64::MAX.to_le_bytes())),
        "Go's function table: its header is out of bounds"
    );
    assert_eq!(
        error(section, &|file, table| put(file, table + 8, &1_000_000_u64.to_le_bytes())),
        "Go's function table: an entry lies outside"
    );
    assert_eq!(
        error(section, &|file, table| put(file, table + 24, &[0; 8])),
        "the address of Go's code is not in the file"
    );
    assert_eq!(
        error(Shape::Module, &|file, _| {
            let table = (DATA_ADDRESS + 32).to_le_bytes();
            let module = file.windows(8).position(|bytes| bytes == table).unwrap();
            file[module] += 8;
        }),
        "the address of Go's code is not in the file",
        "a module of another table"
    );
    assert_eq!(error(Shape::Relocated, &|file, table| file[table] = 0), "neither symbols nor Go's function table");
    assert_eq!(error(section, &|file, _| file[18] = 8), "functions cannot be probed on ELF machine 8");
    assert_eq!(error(section, &|file, _| file[0] = 0), "not an ELF file");
}

proptest! {
    #[test]
    fn damaged_programs_are_survived(
        shape in proptest::sample::select(SHAPES.to_vec()),
        damage in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<proptest::sample::Index>(),
    ) {
        let mut file = program(shape);
        // Mostly zeros lie between the headers, the code and the tables.
        let places: Vec<usize> = file.iter().enumerate().filter(|(_, byte)| **byte != 0).map(|(at, _)| at).collect();
        for (index, byte) in damage {
            file[places[index.index(places.len())]] = byte;
        }
        let _ = function_sites(&file[..], &ASKED);
        file.truncate(cut.index(file.len()));
        let _ = function_sites(&file[..], &ASKED);
    }

    #[test]
    fn any_function_table_is_survived(
        shape in proptest::sample::select(SHAPES[1..].to_vec()),
        fields in proptest::collection::vec(prop_oneof![any::<u64>(), 0_u64..512], 8),
        tail in proptest::collection::vec(any::<u8>(), 0..100),
    ) {
        let mut file = program(shape);
        let table = DATA_OFFSET + 32;
        for (index, field) in fields.iter().enumerate() {
            put(&mut file, table + 8 + index * 8, &field.to_le_bytes());
        }
        put(&mut file, table + 72, &tail);
        let _ = function_sites(&file[..], &ASKED);
    }
}
