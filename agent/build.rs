//! Builds the kernel programs from source and leaves the object in `OUT_DIR`.

fn main() -> anyhow::Result<()> {
    #[cfg(feature = "probe")]
    aya_build::build_ebpf(
        [aya_build::Package { name: "gobuild-trace-ebpf", root_dir: "../ebpf", ..Default::default() }],
        aya_build::Toolchain::Custom("bpf"),
    )?;
    Ok(())
}
