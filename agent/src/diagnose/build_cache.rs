//! Packages that are compiled again and again, because the build cache does not keep them.

use super::site::count;
use crate::build::{Build, Finding, Package, RebuildReason, Severity};
use crate::units;

/// Less is not worth a word.
const WORTH_NS: u64 = 1_000_000_000;

/// One finding for the build.
pub fn find(build: &Build, findings: &mut Vec<Finding>) {
    let unwritable = |package: &&Package| package.reason == Some(RebuildReason::CacheUnwritable);
    let mut packages: Vec<&Package> = build.caches.packages.iter().filter(unwritable).collect();
    packages.sort_by(|a, b| b.wall_share_ns.cmp(&a.wall_share_ns).then_with(|| a.import_path.cmp(&b.import_path)));
    let lost_ns = packages.iter().map(|package| package.wall_share_ns).fold(0, u64::saturating_add);
    if lost_ns < WORTH_NS {
        return;
    }
    let directory = build.caches.build.as_ref().and_then(|cache| cache.directory.as_deref()).unwrap_or("GOCACHE");
    let (them, were) = if packages.len() == 1 { ("it", "was") } else { ("them", "were") };
    findings.push(Finding {
        code: "build_cache_unwritable".to_owned(),
        severity: Severity::Warning,
        message: format!(
            "{} {were} compiled again because the build before could not write {them} into {directory}.",
            units::counted(count(&packages), "package", "packages")
        ),
        lost_ns: Some(lost_ns),
        module: None,
        host: None,
        evidence: packages
            .iter()
            .take(super::EVIDENCE)
            .filter_map(|package| Some(format!("{}: {}", package.import_path, units::duration(package.compile_ns?))))
            .collect(),
        // The go command says nothing when it cannot store what it built.
        remedy: Some("Make room there, or make it writable for the user who builds.".to_owned()),
    });
}
