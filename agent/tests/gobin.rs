//! Build info and goroutine offsets against the programs and the DWARF of real Go toolchains.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use gobuild_trace::gobin::{Architecture, GoroutineOffsets, Recognised, read_build_info, recognise};

/// Releases whose offsets are checked: the two ends of the table and one between, and the machine's own.
const TOOLCHAINS: [&str; 4] = ["local", "go1.21.13", "go1.24.9", "go1.27.2"];

fn go(toolchain: &str, arguments: &[&str], directory: &Path) -> std::io::Result<Output> {
    Command::new("go")
        .args(arguments)
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
    let program = directory.join("program");
    let arguments = [&["build", "-o", program.to_str().unwrap()], flags, &["."]].concat();
    let output = go(toolchain, &arguments, directory).unwrap();
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
    if Command::new("cc").arg("--version").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "no C compiler");
        eprintln!("skipped: no C compiler, so no program linked by it");
        return;
    }
    write(directory.path(), "main.go", "package main\n\nimport \"C\"\n\nfunc main() {}\n");
    for flags in [&["-ldflags=-linkmode=external"][..], &["-buildmode=pie", "-ldflags=-s -w -linkmode=external"]] {
        let go = read_build_info(&File::open(build("local", directory.path(), flags)).unwrap()).unwrap();
        assert_eq!(go.path, "example.com/program", "{flags:?}");
        assert_eq!(go.settings.cgo_enabled, Some(true));
    }
}

/// Prints the byte offsets of the fields named on its command line, from the DWARF of a program.
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
	wanted := map[string]bool{"runtime.g": true, "runtime.m": true}
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

#[test]
fn offsets_agree_with_dwarf() {
    let reader_directory = tempfile::tempdir().unwrap();
    if goroot("local", reader_directory.path()).is_none() {
        return;
    }
    write(reader_directory.path(), "go.mod", "module example.com/reader\n\ngo 1.21\n");
    write(reader_directory.path(), "main.go", DWARF_READER);
    let reader = build("local", reader_directory.path(), &[]);
    for toolchain in TOOLCHAINS {
        let directory = tempfile::tempdir().unwrap();
        if goroot(toolchain, directory.path()).is_none() {
            continue;
        }
        write(directory.path(), "go.mod", "module example.com/program\n\ngo 1.21\n");
        write(directory.path(), "main.go", "package main\n\nfunc main() {}\n");
        let program = build(toolchain, directory.path(), &[]);
        let executable = read_build_info(&File::open(&program).unwrap()).unwrap();
        let offsets = GoroutineOffsets::of(&executable).unwrap();
        let output = Command::new(&reader).arg(&program).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let fields = String::from_utf8(output.stdout).unwrap();
        for (field, offset) in [
            ("runtime.g.m", offsets.g_m),
            ("runtime.g.goid", offsets.g_goid),
            ("runtime.g.parentGoid", offsets.g_parent_goid),
            ("runtime.m.procid", offsets.m_procid),
        ] {
            assert!(fields.lines().any(|line| line == format!("{field}={offset}")), "{toolchain} {field}: {fields}");
        }
    }
}
