//! QEMU, and the Debian kernels of the VM matrix: only `vmlinuz` is kept, for everything traced is built in.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use super::{debian, say};
use crate::workspace::Workspace;

/// The kernel series of the matrix, oldest first.
const SERIES: [&str; 2] = ["6.1", "6.12"];

/// A kernel that the matrix boots.
#[derive(Debug)]
pub struct Kernel {
    /// `6.1`, `6.12`.
    pub series: &'static str,
    /// The boot image.
    pub image: PathBuf,
}

/// Installs QEMU and downloads the newest kernel of each series.
pub fn ensure(workspace: &Workspace) -> Result<()> {
    if workspace.find_program("qemu-system-x86_64").is_none() {
        debian::install(workspace, &["qemu-system-x86"], "the VM matrix")?;
    }
    for Kernel { series, image } in kernels(workspace) {
        if !image.is_file() {
            let package = newest_package(workspace, series)?;
            let unpacked = workspace.tools().join("kernels").join(format!("{series}.unpacked"));
            debian::unpack(workspace, &package, &unpacked)?;
            let vmlinuz = std::fs::read_dir(unpacked.join("boot"))?
                .filter_map(|entry| Some(entry.ok()?.path()))
                .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz-")))
                .with_context(|| format!("the package {package} has no boot/vmlinuz-*"))?;
            std::fs::rename(vmlinuz, &image)?;
            std::fs::remove_dir_all(&unpacked)?;
        }
        say("vm", format!("kernel {series}: {}", image.display()));
    }
    Ok(())
}

/// Every kernel of the matrix, downloaded or not.
pub fn kernels(workspace: &Workspace) -> Vec<Kernel> {
    let directory = workspace.tools().join("kernels");
    SERIES.iter().map(|series| Kernel { series, image: directory.join(format!("vmlinuz-{series}")) }).collect()
}

fn newest_package(workspace: &Workspace, series: &str) -> Result<String> {
    let quoted = series.replace('.', r"\.");
    let mut names =
        debian::search(workspace, &format!(r"^linux-image-{quoted}\.[0-9.+a-z~]*(-[0-9]+)?-amd64-unsigned$"))?;
    names.retain(|name| !name.contains("-rt-") && !name.contains("-cloud-"));
    names.sort_by_key(|name| numbers(name));
    match names.pop() {
        Some(name) => Ok(name),
        None => bail!("no Debian package linux-image-{series}.*-amd64-unsigned is to be had for the VM matrix"),
    }
}

/// The numbers in a name, so that 6.12.117 sorts after 6.12.99.
fn numbers(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::numbers;

    #[test]
    fn newer_kernel_sorts_last() {
        let mut names = ["linux-image-6.12.117+deb12-amd64-unsigned", "linux-image-6.12.99+deb12-amd64-unsigned"];
        names.sort_by_key(|name| numbers(name));
        assert_eq!(names[1], "linux-image-6.12.117+deb12-amd64-unsigned");
    }
}
