//! Builds the kernel programs from `../ebpf` and leaves them, without debug information, in
//! `OUT_DIR/gobuild-trace-ebpf` for `include_bytes_aligned!`. `cargo xtask setup` decides with which tools.
//!
//! `GOBUILD_TRACE_EBPF_OBJECT=FILE` embeds that object instead; `AYA_BUILD_SKIP=1` embeds an empty one, with which
//! the agent compiles and says at run time that it has no programs. Without the feature `probe` nothing is built.

fn main() -> anyhow::Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    #[cfg(feature = "probe")]
    kernel_programs::build()?;
    Ok(())
}

#[cfg(feature = "probe")]
mod kernel_programs {
    use std::env;
    use std::fs;
    use std::path::{Path, PathBuf};
    use std::process::Command;

    use anyhow::{Context, Result, bail};
    use aya_build::{Package, Toolchain};

    const NAME: &str = "gobuild-trace-ebpf";
    const PREBUILT: &str = "GOBUILD_TRACE_EBPF_OBJECT";
    const SKIP: &str = "AYA_BUILD_SKIP";
    const SET_UP: &str = "run `cargo xtask setup`, which finds or installs what the eBPF build needs";

    pub fn build() -> Result<()> {
        // aya-build names `../ebpf` itself.
        for input in ["../common/src", "../common/Cargo.toml", "../Cargo.lock"] {
            println!("cargo::rerun-if-changed={input}");
        }
        println!("cargo::rerun-if-env-changed={PREBUILT}");
        println!("cargo::rerun-if-env-changed={SKIP}");
        let object = directory("OUT_DIR")?.join(NAME);
        if let Some(prebuilt) = env::var_os(PREBUILT).map(PathBuf::from) {
            println!("cargo::rerun-if-changed={}", prebuilt.display());
            fs::copy(&prebuilt, &object).with_context(|| format!("{PREBUILT}={}", prebuilt.display()))?;
            return Ok(());
        }
        if env::var_os(SKIP).is_some_and(|value| value == "1" || value.eq_ignore_ascii_case("true")) {
            return fs::write(&object, []).context("write the empty object");
        }
        let tools = tools()?;
        for tool in ["bpf-toolchain/bin/rustc", "bin/bpf-linker"] {
            println!("cargo::rerun-if-changed={}", tools.join(tool).display());
        }
        let path = env::join_paths(
            std::iter::once(tools.join("bin")).chain(env::split_paths(&env::var_os("PATH").unwrap_or_default())),
        )?;
        // SAFETY: a build script has one thread, and nothing has been spawned before this.
        unsafe {
            // rustc finds `bpf-linker` through PATH.
            env::set_var("PATH", path);
            // What the inner cargo says becomes a warning of this package, shown again by every later build.
            env::set_var("CARGO_TERM_QUIET", "true");
        }
        let toolchain = tools.join("bpf-toolchain");
        let toolchain = toolchain.to_str().context("the target directory's path is not UTF-8")?;
        aya_build::build_ebpf(
            [Package { name: NAME, root_dir: "../ebpf", ..Package::default() }],
            Toolchain::Custom(toolchain),
        )
        .with_context(|| format!("build {NAME}; if a tool is missing: {SET_UP}"))?;
        strip(&tools.join("bin/llvm-strip"), &object)
    }

    /// `<target>/tools`, which holds what set-up found. OUT_DIR is some levels below the same target directory.
    fn tools() -> Result<PathBuf> {
        let out = directory("OUT_DIR")?;
        let found =
            out.ancestors().map(|ancestor| ancestor.join("tools")).find(|tools| tools.join("bpf-toolchain").is_dir());
        match found {
            Some(tools) => Ok(tools),
            None => bail!("no BPF toolchain: {SET_UP}"),
        }
    }

    /// Debug information is most of the object; the loader reads `.BTF` and `.BTF.ext`, which stay.
    fn strip(llvm_strip: &Path, object: &Path) -> Result<()> {
        let status = Command::new(llvm_strip).arg("--strip-debug").arg(object).status();
        let status = status.with_context(|| format!("start {}: {SET_UP}", llvm_strip.display()))?;
        if !status.success() {
            bail!("{} failed on {}: {status}", llvm_strip.display(), object.display());
        }
        Ok(())
    }

    fn directory(variable: &str) -> Result<PathBuf> {
        env::var_os(variable).map(PathBuf::from).with_context(|| format!("cargo sets {variable}"))
    }
}
