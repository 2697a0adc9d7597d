//! Build info, offsets in memory and probe sites against the programs and the DWARF of real Go toolchains.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use gobuild_trace::gobin::{
    Architecture, CallLayout, FunctionSites, Functions, GoroutineOffsets, Recognised, SymbolTable, function_sites,
    read_build_info, recognise,
};

/// Releases whose offsets are checked: the two ends of the table and one between, and the machine's own.
const TOOLCHAINS: [&str; 4] = ["local", "go1.21.13", "go1.24.9", "go1.27.2"];

/// Functions of the go command that probes go on, present in every release of the table.
const FUNCTIONS: [&str; 19] = [
    "cmd/go/internal/cache.(*DiskCache).get",
    "cmd/go/internal/modfetch.(*codeRepo).Latest",
    "cmd/go/internal/modfetch.(*codeRepo).Versions",
    "cmd/go/internal/modfetch.(*proxyRepo).GoMod",
    "cmd/go/internal/modfetch.(*proxyRepo).Latest",
    "cmd/go/internal/modfetch.(*proxyRepo).Stat",
    "cmd/go/internal/modfetch.(*proxyRepo).Versions",
    "cmd/go/internal/modfetch.(*proxyRepo).Zip",
    "cmd/go/internal/modfetch.lookupDirect",
    "cmd/go/internal/trace.(*Span).Done",
    "cmd/go/internal/trace.StartSpan",
    "cmd/go/internal/web.get",
    "cmd/go/internal/work.(*Builder).useCache",
    "crypto/tls.(*Conn).clientHandshake",
    "net.(*Resolver).goLookupIPCNAMEOrder",
    "net/http.(*Transport).dialConn",
    "net/http.(*Transport).roundTrip",
    "net/http.(*persistConn).roundTrip",
    "os/exec.(*Cmd).Run",
];

fn go(toolchain: &str, arguments: &[&str], directory: &Path) -> std::io::Result<Output> {
    go_for(toolchain, &[], arguments, directory)
}

fn go_for(
    toolchain: &str,
    environment: &[(&str, &str)],
    arguments: &[&str],
    directory: &Path,
) -> std::io::Result<Output> {
    Command::new("go")
        .args(arguments)
        .envs(environment.iter().copied())
        .current_dir(directory)
        .env("GOTOOLCHAIN", toolchain)
        .env("GOFLAGS", "-mod=mod")
        .env("GOWORK", "off")
        .output()
}

/// GOROOT of a toolchain; downloaded if need be. A missing one is a skip with its reason, and a failure in CI.
fn goroot(toolchain: &str, directory: &Path) -> Option<PathBuf> {
    let reason = match go(toolchain, &["env", "GOROOT"], directory) {
        Ok(output) if output.status.success() => {
            return Some(PathBuf::from(String::from_utf8(output.stdout).unwrap().trim()));
        }
        Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
        Err(error) => error.to_string(),
    };
    assert!(std::env::var_os("CI").is_none(), "toolchain {toolchain}: {reason}");
    eprintln!("skipped: toolchain {toolchain}: {reason}");
    None
}

fn write(directory: &Path, name: &str, text: &str) {
    std::fs::write(directory.join(name), text).unwrap();
}

/// Builds `main.go` in `directory` and returns the program's path.
fn build(toolchain: &str, directory: &Path, flags: &[&str]) -> PathBuf {
    build_package(toolchain, &[], directory, flags, ".")
}

fn build_package(
    toolchain: &str,
    environment: &[(&str, &str)],
    directory: &Path,
    flags: &[&str],
    package: &str,
) -> PathBuf {
    let program = directory.join("program");
    let arguments = [&["build", "-o", program.to_str().unwrap()], flags, &[package]].concat();
    let output = go_for(toolchain, environment, &arguments, directory).unwrap();
    assert!(output.status.success(), "{toolchain}: {}", String::from_utf8_lossy(&output.stderr));
    program
}

#[test]
fn real_toolchains_are_recognised() {
    let directory = tempfile::tempdir().unwrap();
    for toolchain in TOOLCHAINS {
        let Some(goroot) = goroot(toolchain, directory.path()) else { continue };
        let file = File::open(goroot.join("bin/go")).unwrap();
        let Recognised::Go(go) = recognise(&file, "anything").unwrap() else { panic!("{toolchain}: not a go command") };
        if toolchain != "local" {
            assert_eq!(go.go_version.to_string(), toolchain);
        }
        assert_eq!(go.path, "cmd/go");
        assert!(GoroutineOffsets::of(&go).is_some(), "{toolchain}");
        let tools = goroot.join(format!("pkg/tool/{}", tool_directory()));
        for tool in ["compile", "asm", "link", "cgo", "vet", "cover"] {
            let file = File::open(tools.join(tool)).unwrap();
            let recognised = recognise(&file, "anything").unwrap();
            assert!(
                matches!(&recognised, Recognised::Tool { name, go: Some(_) } if name == tool),
                "{toolchain} {tool}: {recognised:?}"
            );
        }
    }
    let shell = File::open("/bin/sh").unwrap();
    assert_eq!(recognise(&shell, "/bin/sh").unwrap(), Recognised::Other { go: None });
}

fn tool_directory() -> &'static str {
    if cfg!(target_arch = "aarch64") { "linux_arm64" } else { "linux_amd64" }
}

/// Whether a program of the system is there. A missing one is a skip with its reason, and a failure in CI.
fn has(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok();
    assert!(found || std::env::var_os("CI").is_none(), "no {program}");
    if !found {
        eprintln!("skipped: no {program}");
    }
    found
}

#[test]
fn every_shape_of_program_keeps_its_build_info() {
    let directory = tempfile::tempdir().unwrap();
    if goroot("local", directory.path()).is_none() {
        return;
    }
    write(directory.path(), "go.mod", "module example.com/program\n\ngo 1.21\n");
    write(directory.path(), "main.go", "package main\n\nfunc main() {}\n");
    for flags in [&["-ldflags=-s -w"][..], &["-buildmode=pie"], &["-buildmode=pie", "-ldflags=-s -w"], &["-trimpath"]] {
        let go = read_build_info(&File::open(build("local", directory.path(), flags)).unwrap()).unwrap();
        assert_eq!(go.path, "example.com/program", "{flags:?}");
        assert_eq!(go.main_module.as_deref(), Some("example.com/program"));
        let architecture = if cfg!(target_arch = "aarch64") { Architecture::Arm64 } else { Architecture::Amd64 };
        assert_eq!(go.architecture, architecture);
    }
    if !has("cc") {
        return;
    }
    write(directory.path(), "main.go", "package main\n\nimport \"C\"\n\nfunc main() {}\n");
    for flags in [&["-ldflags=-linkmode=external"][..], &["-buildmode=pie", "-ldflags=-s -w -linkmode=external"]] {
        let go = read_build_info(&File::open(build("local", directory.path(), flags)).unwrap()).unwrap();
        assert_eq!(go.path, "example.com/program", "{flags:?}");
        assert_eq!(go.settings.cgo_enabled, Some(true));
    }
}

/// Prints the byte offsets of the fields of structs, from the DWARF of a program; the program and the structs are its
/// arguments.
const DWARF_READER: &str = r#"package main

import (
	"debug/dwarf"
	"debug/elf"
	"fmt"
	"os"
)

func main() {
	file, err := elf.Open(os.Args[1])
	if err != nil {
		panic(err)
	}
	data, err := file.DWARF()
	if err != nil {
		panic(err)
	}
	wanted := map[string]bool{}
	for _, name := range os.Args[2:] {
		wanted[name] = true
	}
	for entries := data.Reader(); ; {
		entry, err := entries.Next()
		if err != nil {
			panic(err)
		}
		if entry == nil {
			return
		}
		name, _ := entry.Val(dwarf.AttrName).(string)
		if entry.Tag != dwarf.TagStructType || !wanted[name] {
			continue
		}
		kind, err := data.Type(entry.Offset)
		if err != nil {
			panic(err)
		}
		for _, field := range kind.(*dwarf.StructType).Field {
			fmt.Printf("%s.%s=%d\n", name, field.Name, field.ByteOffset)
		}
	}
}
"#;

/// Builds [`DWARF_READER`], if there is a toolchain to build it with.
fn dwarf_reader(directory: &Path) -> Option<PathBuf> {
    goroot("local", directory)?;
    write(directory, "go.mod", "module example.com/reader\n\ngo 1.21\n");
    write(directory, "main.go", DWARF_READER);
    Some(build("local", directory, &[]))
}

/// Compares the offsets of fields (`net/url.URL.Host`) with a program's DWARF.
fn assert_offsets(reader: &Path, program: &Path, context: &str, expected: &[(&str, u16)]) {
    let structs = expected.iter().map(|(field, _)| field.rsplit_once('.').unwrap().0);
    let output = Command::new(reader).arg(program).args(structs).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let fields = String::from_utf8(output.stdout).unwrap();
    for (field, offset) in expected {
        assert!(fields.lines().any(|line| line == format!("{field}={offset}")), "{context} {field}: {fields}");
    }
}

const USES_URL: &str = "package main\n\nimport \"net/url\"\n\nfunc main() { println((&url.URL{}).String()) }\n";

#[test]
fn offsets_agree_with_dwarf() {
    let reader_directory = tempfile::tempdir().unwrap();
    let Some(reader) = dwarf_reader(reader_directory.path()) else { return };
    for toolchain in TOOLCHAINS {
        let directory = tempfile::tempdir().unwrap();
        if goroot(toolchain, directory.path()).is_none() {
            continue;
        }
        write(directory.path(), "go.mod", "module example.com/program\n\ngo 1.21\n");
        write(directory.path(), "main.go", USES_URL);
        let program = build(toolchain, directory.path(), &[]);
        let executable = read_build_info(&File::open(&program).unwrap()).unwrap();
        let offsets = GoroutineOffsets::of(&executable).unwrap();
        let mut expected = vec![
            ("runtime.g.m", offsets.g_m),
            ("runtime.g.goid", offsets.g_goid),
            ("runtime.g.parentGoid", offsets.g_parent_goid),
            ("runtime.m.procid", offsets.m_procid),
        ];
        expected.extend(url_offsets(&CallLayout::of_version(&executable.go_version).unwrap()));
        assert_offsets(&reader, &program, toolchain, &expected);
    }
}

fn url_offsets(layout: &CallLayout) -> [(&'static str, u16); 5] {
    let url = layout.url;
    [
        ("net/url.URL.Scheme", url.scheme),
        ("net/url.URL.Host", url.host),
        ("net/url.URL.Path", url.path),
        ("net/url.URL.RawPath", url.raw_path),
        ("net/url.URL.RawQuery", url.raw_query),
    ]
}

/// What is found in a program, each function of `names` with its sites.
fn sites(program: &Path, names: &[&str]) -> (SymbolTable, Vec<FunctionSites>) {
    let file = File::open(program).unwrap();
    let Functions { table, sites } = function_sites(&file, names).unwrap();
    let sites = names
        .iter()
        .map(|name| {
            let sites = sites.get(*name).unwrap_or_else(|| panic!("{}: no {name}", program.display()));
            let sites = sites.as_ref().unwrap_or_else(|error| panic!("{}: {name}: {error}", program.display()));
            sites.verify(&file).unwrap();
            sites.clone()
        })
        .collect();
    (table, sites)
}

#[test]
fn functions_of_the_go_command_have_sites_with_and_without_symbols() {
    let directory = tempfile::tempdir().unwrap();
    for toolchain in TOOLCHAINS {
        let Some(goroot) = goroot(toolchain, directory.path()) else { continue };
        let program = goroot.join("bin/go");
        let (table, with_symbols) = sites(&program, &FUNCTIONS);
        assert_eq!(table, SymbolTable::Symtab, "{toolchain}");
        let absent = function_sites(&File::open(&program).unwrap(), &["cmd/go/internal/web.gett", ""]).unwrap();
        assert!(absent.sites.is_empty(), "{toolchain}: {absent:?}");
        if has("objcopy") {
            let stripped = directory.path().join("stripped");
            let status = Command::new("objcopy").arg("--strip-all").args([&program, &stripped]).status().unwrap();
            assert!(status.success(), "{toolchain}");
            assert_eq!(sites(&stripped, &FUNCTIONS), (SymbolTable::Pclntab, with_symbols.clone()), "{toolchain}");
        }
        if has("objdump") {
            for name in ["cmd/go/internal/web.get", "cmd/go/internal/work.(*Builder).useCache"] {
                let index = FUNCTIONS.iter().position(|function| *function == name).unwrap();
                assert_agrees_with_objdump(&program, name, &with_symbols[index]);
            }
        }
    }
}

/// The sites are the beginnings of instructions, and the returns exactly those that another disassembler sees.
fn assert_agrees_with_objdump(program: &Path, name: &str, sites: &FunctionSites) {
    let output = Command::new("objdump").arg(format!("--disassemble={name}")).arg(program).output().unwrap();
    assert!(output.status.success(), "{name}");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // `  7bfe20:\t4c 8d a4 24 c8 fd ff \tlea    -0x238(%rsp),%r12`; bytes that did not fit follow without the last part.
    let instructions: Vec<(u64, &str)> = text
        .lines()
        .filter_map(|line| {
            let (address, rest) = line.split_once(":\t")?;
            let (_, instruction) = rest.split_once('\t')?;
            Some((u64::from_str_radix(address.trim(), 16).ok()?, instruction))
        })
        .collect();
    let (start, _) = *instructions.first().unwrap_or_else(|| panic!("{name}: {text}"));
    let offset = |address: u64| address - start + sites.start;
    assert!(instructions.iter().any(|(address, _)| offset(*address) == sites.entry), "{name}: {sites:?}");
    let returns: Vec<u64> = instructions
        .iter()
        .filter(|(_, instruction)| instruction.starts_with("ret"))
        .map(|(address, _)| offset(*address))
        .collect();
    assert_eq!(returns, sites.returns, "{name}");
    if cfg!(target_arch = "x86_64") {
        let file = std::fs::read(program).unwrap();
        assert!(sites.returns.iter().all(|offset| file[usize::try_from(*offset).unwrap()] == 0xc3), "{name}");
    }
}

#[test]
fn a_go_command_linked_by_a_c_linker_has_sites_and_the_layout() {
    let reader_directory = tempfile::tempdir().unwrap();
    if !has("cc") {
        return;
    }
    let Some(reader) = dwarf_reader(reader_directory.path()) else { return };
    for toolchain in ["go1.21.13", "go1.27.2"] {
        let directory = tempfile::tempdir().unwrap();
        if goroot(toolchain, directory.path()).is_none() {
            continue;
        }
        let build = |flags| build_package(toolchain, &[("CGO_ENABLED", "1")], directory.path(), &[flags], "cmd/go");
        let program = build("-ldflags=-linkmode=external");
        let (table, with_symbols) = sites(&program, &FUNCTIONS);
        assert_eq!(table, SymbolTable::Symtab, "{toolchain}");
        let executable = read_build_info(&File::open(&program).unwrap()).unwrap();
        let layout = CallLayout::of_version(&executable.go_version).unwrap();
        let mut expected = vec![
            ("net/http.Request.Method", layout.request_method),
            ("net/http.Request.URL", layout.request_url),
            ("net/http.Response.StatusCode", layout.response_status_code),
            ("cmd/go/internal/web.Response.StatusCode", layout.web_response_status_code),
            ("cmd/go/internal/work.Action.Mode", layout.action_mode),
            ("cmd/go/internal/work.Action.Package", layout.action_package),
            ("cmd/go/internal/load.Package.PackagePublic", 0),
            ("cmd/go/internal/load.PackagePublic.ImportPath", layout.package_import_path),
            ("cmd/go/internal/modfetch.proxyRepo.url", layout.proxy_repo_url),
            ("cmd/go/internal/modfetch.proxyRepo.path", layout.proxy_repo_path),
            ("cmd/go/internal/modfetch.codeRepo.modPath", layout.code_repo_path),
        ];
        expected.extend(url_offsets(&layout));
        assert_offsets(&reader, &program, toolchain, &expected);
        let program = build("-ldflags=-s -w -linkmode=external");
        let (table, stripped) = sites(&program, &FUNCTIONS);
        assert_eq!(table, SymbolTable::Pclntab, "{toolchain}");
        // Distances to data differ between the two, so the code does; the places do not.
        let places = |sites: Vec<FunctionSites>| -> Vec<(u64, u64, Vec<u64>)> {
            sites.into_iter().map(|sites| (sites.start, sites.entry, sites.returns)).collect()
        };
        assert_eq!(places(stripped), places(with_symbols), "{toolchain}");
    }
}

/// Functions whose frames need each form of the stack check.
const FRAMES: &str = "package main

//go:noinline
func small(n int) byte {
	if n == 0 {
		return 1
	}
	return small(n-1) + 1
}

//go:noinline
func middle(n int) byte {
	var bytes [1000]byte
	for i := range bytes {
		bytes[i] = byte(i + n)
	}
	return bytes[n%len(bytes)] + small(n)
}

//go:noinline
func huge(n int) byte {
	var bytes [100000]byte
	for i := range bytes {
		bytes[i] = byte(i + n)
	}
	return bytes[n%len(bytes)] + small(n)
}

func main() { println(small(3), middle(3), huge(3)) }
";

#[test]
fn every_form_of_stack_check_and_of_linking_has_sites() {
    const NAMES: [&str; 3] = ["main.small", "main.middle", "main.huge"];
    let relative = |program: &Path| {
        let (table, sites) = sites(program, &NAMES);
        let sites = sites.into_iter().map(|sites| {
            let returns: Vec<u64> = sites.returns.iter().map(|offset| offset - sites.start).collect();
            (sites.entry - sites.start, returns)
        });
        (table, sites.collect::<Vec<_>>())
    };
    for toolchain in ["local", "go1.21.13"] {
        let directory = tempfile::tempdir().unwrap();
        if goroot(toolchain, directory.path()).is_none() {
            continue;
        }
        write(directory.path(), "go.mod", "module example.com/program\n\ngo 1.21\n");
        write(directory.path(), "main.go", FRAMES);
        for architecture in ["amd64", "arm64"] {
            let native = architecture == if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
            let build = |mode: &[&str], link: &str| {
                let flags = format!("-ldflags={link}");
                let external = if link.contains("external") { "1" } else { "0" };
                let environment = [("GOARCH", architecture), ("CGO_ENABLED", external)];
                build_package(toolchain, &environment, directory.path(), &[mode, &[&flags]].concat(), ".")
            };
            let plain = relative(&build(&[], ""));
            assert_eq!(plain.0, SymbolTable::Symtab);
            assert!(plain.1.is_sorted_by(|(shorter, _), (longer, _)| shorter < longer), "three forms: {plain:?}");
            assert_eq!(relative(&build(&[], "-s -w")), (SymbolTable::Pclntab, plain.1), "{toolchain} {architecture}");
            if !native {
                continue;
            }
            let pie = relative(&build(&["-buildmode=pie"], ""));
            assert_eq!(relative(&build(&["-buildmode=pie"], "-s -w")), (SymbolTable::Pclntab, pie.1), "{toolchain}");
            if has("cc") {
                let pie = relative(&build(&["-buildmode=pie"], "-linkmode=external"));
                let stripped = relative(&build(&["-buildmode=pie"], "-s -w -linkmode=external"));
                assert_eq!(stripped, (SymbolTable::Pclntab, pie.1), "{toolchain}");
            }
        }
    }
}
