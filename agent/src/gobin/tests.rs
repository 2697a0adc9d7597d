use proptest::prelude::*;

use super::*;

/// An ELF file with one writable segment and, if asked for, the section headers that name it `.go.buildinfo`.
struct TestElf {
    machine: u16,
    sections: bool,
    data: Vec<u8>,
}

const DATA_ADDRESS: u64 = 0x50_0000;
const DATA_OFFSET: u64 = 0x200;

impl TestElf {
    fn bytes(&self) -> Vec<u8> {
        let mut file = vec![0; DATA_OFFSET as usize];
        file[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        let names = b"\0.go.buildinfo\0.shstrtab\0";
        let names_offset = DATA_OFFSET + self.data.len() as u64;
        let sections_offset = names_offset + names.len() as u64;
        put(&mut file, 16, &2_u16.to_le_bytes());
        put(&mut file, 18, &self.machine.to_le_bytes());
        put(&mut file, 32, &64_u64.to_le_bytes());
        put(&mut file, 54, &56_u16.to_le_bytes());
        put(&mut file, 56, &1_u16.to_le_bytes());
        put(&mut file, 58, &64_u16.to_le_bytes());
        if self.sections {
            put(&mut file, 40, &sections_offset.to_le_bytes());
            put(&mut file, 60, &3_u16.to_le_bytes());
            put(&mut file, 62, &2_u16.to_le_bytes());
        }
        // One PT_LOAD, readable and writable.
        put(&mut file, 64, &1_u32.to_le_bytes());
        put(&mut file, 68, &6_u32.to_le_bytes());
        put(&mut file, 72, &DATA_OFFSET.to_le_bytes());
        put(&mut file, 80, &DATA_ADDRESS.to_le_bytes());
        put(&mut file, 96, &(self.data.len() as u64).to_le_bytes());
        put(&mut file, 104, &(self.data.len() as u64).to_le_bytes());
        file.extend_from_slice(&self.data);
        file.extend_from_slice(names);
        if self.sections {
            file.extend_from_slice(&[0; 64]);
            file.extend_from_slice(&section(1, DATA_ADDRESS, DATA_OFFSET, self.data.len()));
            file.extend_from_slice(&section(15, 0, names_offset, names.len()));
        }
        file
    }
}

fn section(name: u32, address: u64, offset: u64, size: usize) -> [u8; 64] {
    let mut header = [0; 64];
    header[..4].copy_from_slice(&name.to_le_bytes());
    header[4..8].copy_from_slice(&1_u32.to_le_bytes());
    header[16..24].copy_from_slice(&address.to_le_bytes());
    header[24..32].copy_from_slice(&offset.to_le_bytes());
    header[32..40].copy_from_slice(&(size as u64).to_le_bytes());
    header
}

fn put(file: &mut [u8], at: usize, bytes: &[u8]) {
    file[at..at + bytes.len()].copy_from_slice(bytes);
}

fn framed(modules: &str) -> Vec<u8> {
    [&b"0123456789abcdef"[..], modules.as_bytes(), &b"0123456789abcdef"[..]].concat()
}

/// Build info of Go 1.18 and later.
fn inline(version: &str, modules: &str) -> Vec<u8> {
    let mut data = b"\xff Go buildinf:\x08\x02".to_vec();
    data.resize(32, 0);
    for text in [version.as_bytes(), &framed(modules)] {
        let mut length = text.len();
        while length >= 0x80 {
            data.push(length as u8 | 0x80);
            length >>= 7;
        }
        data.push(length as u8);
        data.extend_from_slice(text);
    }
    data
}

/// Build info of Go 1.17 and earlier: the header points to string headers, which point to text.
fn pointers(version: &str, modules: &str) -> Vec<u8> {
    let modules = framed(modules);
    let mut data = b"\xff Go buildinf:\x08\x00".to_vec();
    for address in [DATA_ADDRESS + 32, DATA_ADDRESS + 48] {
        data.extend_from_slice(&address.to_le_bytes());
    }
    let text = DATA_ADDRESS + 64;
    for (address, length) in [(text, version.len()), (text + version.len() as u64, modules.len())] {
        data.extend_from_slice(&address.to_le_bytes());
        data.extend_from_slice(&(length as u64).to_le_bytes());
    }
    data.extend_from_slice(version.as_bytes());
    data.extend_from_slice(&modules);
    data
}

const MODULES: &str = "path\tcmd/go\nmod\tcmd\t(devel)\t\nbuild\t-ldflags=-X main.key=canary\nbuild\t-buildmode=exe\n\
                       build\tCGO_ENABLED=0\nbuild\tGOARCH=amd64\nbuild\tGOOS=linux\n";

#[test]
fn reads_both_formats_with_and_without_sections() {
    for data in [inline("go1.26.8", MODULES), pointers("go1.26.8", MODULES)] {
        for (sections, lead) in [(true, 0), (false, 0), (false, 4096 * 33)] {
            // Pointers are absolute, so only the inline format can be moved behind other data.
            if lead > 0 && data[15] == 0 {
                continue;
            }
            let data = [vec![0xff; lead], data.clone()].concat();
            let file = TestElf { machine: 62, sections, data }.bytes();
            let go = read_build_info(&file[..]).unwrap();
            assert_eq!(go.go_version.to_string(), "go1.26.8");
            assert_eq!(go.path, "cmd/go");
            assert_eq!(go.main_module.as_deref(), Some("cmd"));
            assert_eq!(go.architecture, Architecture::Amd64);
            assert_eq!(go.settings.cgo_enabled, Some(false));
            assert_eq!(go.settings.build_mode.as_deref(), Some("exe"));
            assert!(!format!("{go:?}").contains("canary"), "-ldflags are not kept");
            assert_eq!(recognise(&file[..], "/tmp/anything").unwrap(), Recognised::Go(go));
        }
    }
}

#[test]
fn a_length_beyond_the_file_is_not_go() {
    let mut data = inline("go1.26.8", MODULES);
    data[32] = 0xff;
    data.splice(33..33, [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]);
    let file = TestElf { machine: 62, sections: true, data }.bytes();
    assert!(matches!(read_build_info(&file[..]), Err(BuildInfoError::NotGo)));
}

#[test]
fn names_decide_for_programs_that_go_did_not_build() {
    let role = |path: &str| match recognise(&b"#!/bin/sh\n"[..], path).unwrap() {
        Recognised::Vcs { name } => format!("vcs {name}"),
        Recognised::Tool { name, .. } => format!("tool {name}"),
        other => format!("{:?}", other.role()),
    };
    assert_eq!(role("/usr/bin/git"), "vcs git");
    assert_eq!(role("/usr/lib/git-core/git-remote-https"), "vcs git-remote-https");
    assert_eq!(role("ssh"), "vcs ssh");
    assert_eq!(role("/usr/bin/x86_64-linux-gnu-gcc-12"), "tool x86_64-linux-gnu-gcc-12");
    assert_eq!(role("/usr/lib/gcc/x86_64-linux-gnu/12/cc1"), "tool cc1");
    assert_eq!(role("/usr/bin/clang++-19"), "tool clang++-19");
    assert_eq!(role("/usr/bin/ld.bfd"), "tool ld.bfd");
    assert_eq!(role("/usr/bin/go"), "Other", "a shell script named go is not the go command");
    assert_eq!(role("/bin/bash"), "Other");
    assert_eq!(role(""), "Other");
}

#[test]
fn go_programs_are_known_by_their_package_path() {
    let role = |modules: &str| {
        let file = TestElf { machine: 183, sections: true, data: inline("go1.27.0", modules) }.bytes();
        recognise(&file[..], "/usr/bin/git").unwrap()
    };
    assert!(matches!(role("path\tcmd/compile\n"), Recognised::Tool { name, .. } if name == "compile"));
    assert!(matches!(role("path\texample.com/go\n"), Recognised::Other { go: Some(_) }));
    assert!(matches!(role("path\tcmd/golang\n"), Recognised::Other { go: Some(_) }));
    let Recognised::Go(go) = role("path\tcmd/go\n") else { panic!("cmd/go is the go command") };
    assert_eq!(go.architecture, Architecture::Arm64);
    assert_eq!(GoroutineOffsets::of(&go).unwrap().g_parent_goid, 280);
}

#[test]
fn versions_parse() {
    let parse = |text: &str| text.parse::<GoVersion>().map(|version| (version.short(), version.to_string()));
    for (text, short) in [
        ("go1.26.8", "1.26.8"),
        ("go1.27rc1", "1.27rc1"),
        ("go1.20beta2", "1.20beta2"),
        ("go1.20", "1.20"),
        ("go1.22.3 X:nocoverageredesign", "1.22.3"),
        ("go1.26.8-vendor.1", "1.26.8"),
        ("devel go1.28-abcdef Thu Nov 5", "1.28-devel"),
        ("go1.26-devel_4f2c9d1 Mon", "1.26-devel"),
    ] {
        assert_eq!(parse(text), Ok((short.to_owned(), text.to_owned())));
    }
    for text in
        ["", "go", "1.26", "go1", "go1.", "go1.x", "go1.26.", "go1.26.8\u{1b}[31m", "go99999.1", "devel", "go1.26x"]
    {
        assert_eq!(parse(text), Err(ParseGoVersionError), "{text:?}");
    }
}

#[test]
fn offsets_are_known_for_measured_releases_only() {
    let of = |text: &str| GoroutineOffsets::of_version(&text.parse().unwrap());
    assert_eq!(of("go1.26.8"), Some(GoroutineOffsets { g_m: 48, g_goid: 152, g_parent_goid: 280, m_procid: 64 }));
    assert_eq!(of("go1.24.9"), Some(GoroutineOffsets { g_m: 48, g_goid: 160, g_parent_goid: 280, m_procid: 72 }));
    for text in ["go1.20.14", "go1.28.0", "go2.26.0", "devel go1.27-abc", "go1.27beta1"] {
        assert_eq!(of(text), None, "{text}");
    }
}

#[test]
fn call_layouts_are_known_for_the_same_releases() {
    let url = |text: &str| CallLayout::of_version(&text.parse().unwrap()).map(|layout| layout.url);
    let before = UrlOffsets { scheme: 0, host: 40, path: 56, raw_path: 72, raw_query: 96 };
    let since = UrlOffsets { raw_path: 104, raw_query: 88, ..before };
    for text in ["go1.21.0", "go1.21rc2", "go1.25.11"] {
        assert_eq!(url(text), Some(before), "{text}");
    }
    for text in ["go1.26rc1", "go1.26.8", "go1.27.2"] {
        assert_eq!(url(text), Some(since), "{text}");
    }
    for text in ["go1.20.14", "go1.28.0", "go2.26.0", "devel go1.27-abc", "go1.27beta1"] {
        assert_eq!(url(text), None, "{text}");
    }
}

#[test]
fn facts_survive_serialisation() {
    let file = TestElf { machine: 62, sections: true, data: inline("go1.26.8", MODULES) }.bytes();
    let recognised = recognise(&file[..], "go").unwrap();
    let text = serde_json::to_string(&recognised).unwrap();
    assert_eq!(serde_json::from_str::<Recognised>(&text).unwrap(), recognised);
}

proptest! {
    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
        let _ = recognise(&bytes[..], "x");
        let _ = recognise(&[&b"\x7fELF\x02\x01\x01"[..], &bytes].concat()[..], "x");
        let _ = String::from_utf8_lossy(&bytes).parse::<GoVersion>();
    }

    #[test]
    fn damaged_files_are_survived(
        old_format in any::<bool>(),
        sections in any::<bool>(),
        damage in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..16),
        cut in any::<proptest::sample::Index>(),
    ) {
        let data = if old_format { pointers("go1.17", MODULES) } else { inline("go1.26.8", MODULES) };
        let mut file = TestElf { machine: 62, sections, data }.bytes();
        for (index, byte) in damage {
            let index = index.index(file.len());
            file[index] = byte;
        }
        let _ = recognise(&file[..], "x");
        file.truncate(cut.index(file.len()));
        let _ = recognise(&file[..], "x");
    }
}
