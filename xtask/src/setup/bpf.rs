//! The BPF toolchain: a rustc with `core` for BPF, a `bpf-linker` that reads its bitcode, and `llvm-strip`.
//!
//! The choice is written down as links: `<target>/tools/bpf-toolchain/bin/{rustc,cargo}` (rustup accepts the directory
//! as a toolchain, so nothing has to be registered with it) and `<target>/tools/bin/{bpf-linker,llvm-strip}`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{debian, say};
use crate::process::{cargo, command, read, run};
use crate::workspace::{Workspace, is_executable};

/// The release that was tried with every LLVM named in [`SUPPORTED_LLVM`].
const BPF_LINKER_VERSION: &str = "0.13.0";
/// The LLVM versions that this bpf-linker can be built against (its cargo features).
const SUPPORTED_LLVM: [u32; 3] = [21, 22, 23];
/// Debian's rustc has `core` prebuilt for BPF in a package of its own. It serves the BPF target only.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_CORE: &str = "/usr/lib/rustlib/bpfel-unknown-none";
const DEBIAN_PACKAGES: [&str; 2] = ["rustc-web", "libstd-rust-web-dev-bpf"];

/// A compiler that can build for BPF.
#[derive(Debug)]
struct BpfCompiler {
    rustc: PathBuf,
    cargo: PathBuf,
    release: String,
    llvm: u32,
    has_prebuilt_core: bool,
    origin: &'static str,
}

/// Finds or installs all three and writes the links that `agent/build.rs` reads.
pub fn ensure(workspace: &Workspace) -> Result<()> {
    if workspace.find_program("rustup").is_none() {
        bail!(
            "rustup is not on PATH: the eBPF build runs a second toolchain through it (rustup.rs, or the Debian package rustup)"
        );
    }
    let compiler = match nightly_with_source(workspace)? {
        Some(compiler) => compiler,
        None => debian_compiler(workspace)?,
    };
    say("bpf", format!("rustc {} with LLVM {} ({})", compiler.release, compiler.llvm, compiler.origin));
    if !SUPPORTED_LLVM.contains(&compiler.llvm) {
        bail!(
            "rustc {} is built on LLVM {}, for which bpf-linker {BPF_LINKER_VERSION} cannot be built",
            compiler.rustc.display(),
            compiler.llvm
        );
    }
    let toolchain = workspace.tools().join("bpf-toolchain/bin");
    link(&compiler.rustc, &toolchain.join("rustc"))?;
    link(&compiler.cargo, &toolchain.join("cargo"))?;
    ensure_strip(workspace, compiler.llvm)?;
    ensure_linker(workspace, compiler.llvm)?;
    try_out(workspace, &compiler)
}

/// rustup's nightly serves only with the component rust-src, from which cargo builds `core` for BPF.
fn nightly_with_source(workspace: &Workspace) -> Result<Option<BpfCompiler>> {
    let Ok(rustc) = read(command(workspace, "rustup")?.args(["which", "--toolchain", "nightly", "rustc"])) else {
        return Ok(None);
    };
    let rustc = PathBuf::from(rustc.trim_end());
    let sysroot = rustc.ancestors().nth(2).context("rustc stands in <sysroot>/bin")?;
    if !sysroot.join("lib/rustlib/src/rust/library/core").is_dir() {
        say("bpf", "rustup's nightly has no rust-src (`rustup component add rust-src --toolchain nightly`); not used");
        return Ok(None);
    }
    let cargo = sysroot.join("bin/cargo");
    if !is_executable(&cargo) {
        say("bpf", "rustup's nightly has no cargo; not used");
        return Ok(None);
    }
    let (release, llvm) = version_of(&rustc)?;
    Ok(Some(BpfCompiler {
        rustc,
        cargo,
        release,
        llvm,
        has_prebuilt_core: false,
        origin: "rustup nightly with rust-src",
    }))
}

fn debian_compiler(workspace: &Workspace) -> Result<BpfCompiler> {
    let rustc = PathBuf::from(DEBIAN_RUSTC);
    if !is_executable(&rustc) || !Path::new(DEBIAN_CORE).is_dir() {
        debian::install(
            workspace,
            &DEBIAN_PACKAGES,
            "a compiler for BPF (without it: rustup's nightly with the component rust-src)",
        )?;
    }
    if !Path::new(DEBIAN_CORE).is_dir() {
        bail!(
            "{DEBIAN_RUSTC} has no `core` for BPF: {DEBIAN_CORE} is missing (Debian package libstd-rust-web-dev-bpf)"
        );
    }
    // Debian's packages bring no cargo; the one of the default toolchain drives any rustc.
    let cargo = PathBuf::from(read(command(workspace, "rustup")?.args(["which", "cargo"]))?.trim_end());
    let (release, llvm) = version_of(&rustc)?;
    Ok(BpfCompiler { rustc, cargo, release, llvm, has_prebuilt_core: true, origin: "Debian rustc-web" })
}

/// Release and LLVM major version, from `rustc -vV`.
fn version_of(rustc: &Path) -> Result<(String, u32)> {
    let text = read(Command::new(rustc).arg("-vV"))?;
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let release = field("release:").with_context(|| format!("{} -vV names no release", rustc.display()))?;
    let llvm = field("LLVM version:").and_then(|version| version.split('.').next()?.parse().ok());
    let llvm = llvm.with_context(|| format!("{} -vV names no LLVM version", rustc.display()))?;
    Ok((release.to_owned(), llvm))
}

fn ensure_strip(workspace: &Workspace, llvm: u32) -> Result<()> {
    let installed = PathBuf::from(format!("/usr/lib/llvm-{llvm}/bin/llvm-strip"));
    if !is_executable(&installed) {
        debian::install(
            workspace,
            &[&format!("llvm-{llvm}")],
            "llvm-strip, which takes debug information out of the eBPF object",
        )?;
    }
    if !is_executable(&installed) {
        bail!("llvm-strip of LLVM {llvm} is not at {}", installed.display());
    }
    link(&installed, &workspace.tools_bin().join("llvm-strip"))
}

/// A bpf-linker of another LLVM than rustc's misreads its bitcode, so one that is found is checked and not trusted.
fn ensure_linker(workspace: &Workspace, llvm: u32) -> Result<()> {
    if let Some(found) = workspace.find_program("bpf-linker") {
        match llvm_of_linker(workspace, &found)? {
            Some(version) if version == llvm => {
                say("bpf", format!("{} with LLVM {version}", found.display()));
                return if found.starts_with(workspace.tools()) {
                    Ok(())
                } else {
                    link(&found, &workspace.tools_bin().join("bpf-linker"))
                };
            }
            Some(version) => {
                say("bpf", format!("{} is built on LLVM {version}, rustc on {llvm}; not used", found.display()))
            }
            None => say("bpf", format!("{} does not tell its LLVM; not used", found.display())),
        }
    }
    // zlib and zstd: LLVM's own link line names them.
    let development = format!("llvm-{llvm}-dev");
    debian::install(workspace, &[&development, "zlib1g-dev", "libzstd-dev", "build-essential"], "building bpf-linker")?;
    say("bpf", format!("building bpf-linker {BPF_LINKER_VERSION} against LLVM {llvm} (2 to 4 minutes)"));
    // A link to somebody else's bpf-linker would be written through.
    let own = workspace.tools_bin().join("bpf-linker");
    if own.is_symlink() {
        std::fs::remove_file(&own)?;
    }
    run(cargo(workspace)?
        .args(["install", "bpf-linker", "--version", BPF_LINKER_VERSION, "--locked", "--force", "--quiet"])
        .args(["--no-default-features", "--features", &format!("llvm-{llvm}")])
        .arg("--root")
        .arg(workspace.tools())
        .env("CARGO_TARGET_DIR", workspace.tools().join("bpf-linker-build"))
        .env("LLVM_PREFIX", format!("/usr/lib/llvm-{llvm}")))
    .context("build bpf-linker")?;
    std::fs::remove_dir_all(workspace.tools().join("bpf-linker-build"))?;
    match llvm_of_linker(workspace, &own)? {
        Some(version) if version == llvm => Ok(()),
        other => bail!("bpf-linker was built, but against LLVM {other:?} where rustc has {llvm}"),
    }
}

/// The LLVM library that the dynamic linker finds for it. `None`: statically linked, or one that does not start.
fn llvm_of_linker(workspace: &Workspace, linker: &Path) -> Result<Option<u32>> {
    let libraries = read(command(workspace, "ldd")?.arg(linker)).unwrap_or_default();
    Ok(libraries.lines().filter(|line| !line.contains("not found")).find_map(|line| {
        line.trim()
            .strip_prefix("libLLVM")?
            .trim_start_matches(['-', '.', 's', 'o'])
            .split(['.', ' '])
            .next()?
            .parse()
            .ok()
    }))
}

/// Compiles and links one empty program. A mismatch that the version numbers did not show fails here, with a name to
/// it. What has passed is not tried again until one of the two changes.
fn try_out(workspace: &Workspace, compiler: &BpfCompiler) -> Result<()> {
    if !compiler.has_prebuilt_core {
        // There is nothing to link against yet; the build of the crate itself is the trial.
        return Ok(());
    }
    let linker = std::fs::canonicalize(workspace.tools_bin().join("bpf-linker"))?;
    let tried = format!(
        "{} {:?}\n{} {:?}\n",
        compiler.release,
        modified(&compiler.rustc)?,
        linker.display(),
        modified(&linker)?
    );
    let stamp = workspace.tools().join("bpf-tried");
    if std::fs::read_to_string(&stamp).is_ok_and(|text| text == tried) {
        return Ok(());
    }
    let directory = workspace.tools().join("bpf-trial");
    std::fs::create_dir_all(&directory)?;
    let source = directory.join("trial.rs");
    std::fs::write(&source, TRIAL)?;
    read(
        command(workspace, "rustup")?
            .arg("run")
            .arg(workspace.tools().join("bpf-toolchain"))
            .args([
                "rustc",
                "--edition=2024",
                "--target=bpfel-unknown-none",
                "-Cpanic=abort",
                "-Clinker=bpf-linker",
                "-O",
                "-o",
            ])
            .arg(directory.join("trial"))
            .arg(&source),
    )
    .with_context(|| format!("bpf-linker does not link what rustc {} compiles", compiler.release))?;
    std::fs::remove_dir_all(&directory)?;
    std::fs::write(&stamp, tried)?;
    Ok(())
}

const TRIAL: &str = r#"#![no_std]
#![no_main]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! { loop {} }
#[unsafe(no_mangle)]
#[unsafe(link_section = "socket")]
pub fn trial(_: *mut u8) -> u32 { 1 }
"#;

fn modified(file: &Path) -> Result<std::time::SystemTime> {
    Ok(file.metadata().with_context(|| format!("{}", file.display()))?.modified()?)
}

/// Makes `link` point to `target`, whatever was there.
fn link(target: &Path, link: &Path) -> Result<()> {
    if std::fs::read_link(link).is_ok_and(|current| current == target) {
        return Ok(());
    }
    if let Some(directory) = link.parent() {
        std::fs::create_dir_all(directory)?;
    }
    if link.symlink_metadata().is_ok() {
        std::fs::remove_file(link)?;
    }
    std::os::unix::fs::symlink(target, link).with_context(|| format!("link {} to {}", link.display(), target.display()))
}
