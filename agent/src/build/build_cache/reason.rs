//! Why the cache did not have a package, and which package below it is the root of that.
//!
//! An action's id is a hash over its package's sources, flags and settings, the version of Go, and the content of every
//! package that it imports (`(*Builder).buildActionID`, cmd/go/internal/work/exec.go). So an import whose content is new
//! suffices to make the id new, whatever else changed; that is what is said of a root, and only where it can be proved.

use std::collections::BTreeMap;

use super::{BuildCache, known::Known};
use crate::{
    build::types::RebuildReason,
    host::history::{Id, KnownAction},
};

/// A package that the cache did not have.
#[derive(Clone, Debug)]
pub struct Missed {
    /// Its import path.
    pub import_path: String,
    /// The action that makes it, where known.
    pub action: Option<Id>,
    /// When its compilation began; later ones may import it.
    pub start_ns: u64,
    /// Rebuilt packages that it imports; absent where that was not seen.
    pub imports: Option<Vec<String>>,
}

/// What holds for the whole build.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances<'a> {
    /// What was known of the cache.
    pub known: Option<&'a Known>,
    /// When the build began.
    pub start_ns: u64,
    /// Version of the go command.
    pub go_version: Option<&'a str>,
    /// Flags and settings.
    pub variant: &'a str,
}

/// Why a package was rebuilt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judgement {
    /// The reason; absent when it is not known.
    pub reason: Option<RebuildReason>,
    /// The root; absent when it is this package, and when it is not known.
    pub because_of: Option<String>,
}

/// Whose inputs changed.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Cause {
    /// Its own, and none below it.
    Own,
    /// Those of a package below it.
    Below(String),
    Unknown,
}

/// Judges all packages that a build's cache did not have.
pub fn judge(cache: &BuildCache, missed: &[Missed], about: Circumstances<'_>) -> BTreeMap<String, Judgement> {
    let mut reasons: BTreeMap<&str, Option<RebuildReason>> = BTreeMap::new();
    for package in missed {
        reasons.insert(&package.import_path, reason(cache, package, about));
    }
    // Whatever is imported was made before.
    let mut in_order: Vec<&Missed> = missed.iter().collect();
    in_order.sort_by(|a, b| (a.start_ns, &a.import_path).cmp(&(b.start_ns, &b.import_path)));
    let mut done: BTreeMap<&str, (&Missed, Cause)> = BTreeMap::new();
    for package in in_order {
        let cause = match reasons.get(package.import_path.as_str()) {
            Some(Some(RebuildReason::InputsChanged)) => cause(cache, package, about, &reasons, &done),
            _ => Cause::Unknown,
        };
        done.insert(&package.import_path, (package, cause));
    }
    let judgement = |package: &Missed| {
        let because_of = match done.get(package.import_path.as_str()) {
            Some((_, Cause::Below(root))) => Some(root.clone()),
            Some((_, Cause::Own | Cause::Unknown)) | None => None,
        };
        let reason = reasons.get(package.import_path.as_str()).copied().flatten();
        (package.import_path.clone(), Judgement { reason, because_of })
    };
    missed.iter().map(judgement).collect()
}

fn reason(cache: &BuildCache, package: &Missed, about: Circumstances<'_>) -> Option<RebuildReason> {
    if let Some(id) = &package.action {
        if cache.lacks_output.contains(id) {
            return Some(RebuildReason::OutputMissing);
        }
        if let Some(earlier) = about.known.and_then(|known| known.action(id, about.start_ns)) {
            return match earlier.stored {
                Some(false) => Some(RebuildReason::CacheUnwritable),
                Some(true) if cache.absent.contains(id) => Some(RebuildReason::Trimmed),
                Some(true) | None => None,
            };
        }
    }
    let earlier = about.known.map(|known| known.actions(&package.import_path, about.start_ns)).unwrap_or_default();
    if earlier.is_empty() {
        let never = cache.is_new() || about.known.is_some_and(Known::whole);
        return never.then_some(RebuildReason::NeverBuilt);
    }
    package.action?;
    let version = about.go_version?;
    if earlier.iter().any(|action| action.go_version == version) {
        Some(RebuildReason::InputsChanged)
    } else {
        Some(RebuildReason::ToolchainChanged)
    }
}

/// What changed the inputs of a package of which other inputs are known.
fn cause(
    cache: &BuildCache,
    package: &Missed,
    about: Circumstances<'_>,
    reasons: &BTreeMap<&str, Option<RebuildReason>>,
    done: &BTreeMap<&str, (&Missed, Cause)>,
) -> Cause {
    // Other flags change the inputs of every package; then none of them is the root.
    if alike(package, about).is_empty() {
        return Cause::Unknown;
    }
    let Some(imports) = &package.imports else { return Cause::Unknown };
    let mut roots = Vec::new();
    let mut certain = true;
    for import in imports {
        let Some((imported, below)) = done.get(import.as_str()) else {
            certain = false;
            continue;
        };
        let changed = match reasons.get(import.as_str()) {
            Some(Some(RebuildReason::InputsChanged)) => content_is_new(cache, imported, about),
            // It is made of the same inputs as before.
            Some(Some(RebuildReason::Trimmed | RebuildReason::OutputMissing | RebuildReason::CacheUnwritable)) => {
                Some(false)
            }
            // Whoever has it did not import it before: its own sources say so now.
            Some(Some(RebuildReason::NeverBuilt)) => Some(false),
            Some(Some(RebuildReason::ToolchainChanged | RebuildReason::Forced) | None) | None => None,
        };
        match (changed, below) {
            (Some(false), _) => {}
            (Some(true), Cause::Own) => roots.push((imported.start_ns, imported.import_path.clone())),
            (Some(true), Cause::Below(root)) => {
                let start_ns = done.get(root.as_str()).map_or(0, |(root, _)| root.start_ns);
                roots.push((start_ns, root.clone()));
            }
            (Some(true), Cause::Unknown) | (None, _) => certain = false,
        }
    }
    match (roots.into_iter().min(), certain) {
        (Some((_, root)), _) => Cause::Below(root),
        (None, true) => Cause::Own,
        (None, false) => Cause::Unknown,
    }
}

/// Whether a rebuilt package came out as it never did before, so that whoever imports it must be rebuilt.
fn content_is_new(cache: &BuildCache, package: &Missed, about: Circumstances<'_>) -> Option<bool> {
    let content = cache.contents.get(&package.action?)?;
    let earlier = alike(package, about);
    if earlier.iter().any(|action| action.content.as_ref() == Some(content)) {
        return Some(false);
    }
    // A content that is not known is one that no observed compilation was given: then nobody imported it.
    earlier.iter().any(|action| action.content.is_some()).then_some(true)
}

/// What is known of a package with the same flags and version.
fn alike<'a>(package: &Missed, about: Circumstances<'a>) -> Vec<&'a KnownAction> {
    let earlier = about.known.map(|known| known.actions(&package.import_path, about.start_ns)).unwrap_or_default();
    let same =
        |action: &&KnownAction| action.variant == about.variant && Some(action.go_version.as_str()) == about.go_version;
    earlier.into_iter().filter(same).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        build::build_cache::Histories,
        host::history::{CacheHistory, KnownPackage},
    };

    const GO: &str = "go1.26.8";

    fn id(number: u8) -> Id {
        [number; 15]
    }

    fn action(number: u8) -> KnownAction {
        KnownAction {
            id: id(number),
            content: Some(id(number + 100)),
            go_version: GO.to_owned(),
            variant: String::new(),
            compile_ns: Some(1),
            stored: Some(true),
            seen_s: 0,
        }
    }

    fn package(import_path: &str, actions: Vec<KnownAction>) -> KnownPackage {
        KnownPackage { import_path: import_path.to_owned(), actions }
    }

    fn missed(import_path: &str, number: u8, imports: &[&str]) -> Missed {
        Missed {
            import_path: import_path.to_owned(),
            action: Some(id(number)),
            start_ns: number.into(),
            imports: Some(imports.iter().map(|import| (*import).to_owned()).collect()),
        }
    }

    /// Judges with a history; contents of the build are those of `contents`, action → content.
    fn judged(
        packages: Vec<KnownPackage>,
        whole: bool,
        contents: &[(u8, u8)],
        missed: &[Missed],
    ) -> Vec<(String, Option<RebuildReason>, Option<String>)> {
        let mut histories = Histories::default();
        histories.learn(&CacheHistory { directory: "/gc".to_owned(), whole, packages }, 0);
        let cache = BuildCache {
            contents: contents.iter().map(|&(action, content)| (id(action), id(content))).collect(),
            absent: missed.iter().filter_map(|missed| missed.action).collect(),
            ..BuildCache::default()
        };
        let about = Circumstances { known: histories.of("/gc"), start_ns: 1, go_version: Some(GO), variant: "" };
        let judgements = judge(&cache, missed, about);
        judgements.into_iter().map(|(path, judged)| (path, judged.reason, judged.because_of)).collect()
    }

    fn one(actions: Vec<KnownAction>, whole: bool) -> Option<RebuildReason> {
        let packages = if actions.is_empty() { Vec::new() } else { vec![package("p", actions)] };
        judged(packages, whole, &[], &[missed("p", 50, &[])])[0].1
    }

    #[test]
    fn a_reason_is_what_can_be_proved() {
        use RebuildReason::{CacheUnwritable, InputsChanged, NeverBuilt, ToolchainChanged, Trimmed};
        assert_eq!(one(Vec::new(), false), None, "others may have built it");
        assert_eq!(one(Vec::new(), true), Some(NeverBuilt));
        assert_eq!(one(vec![action(1)], false), Some(InputsChanged));
        assert_eq!(one(vec![KnownAction { variant: "-race".to_owned(), ..action(1) }], false), Some(InputsChanged));
        let older = KnownAction { go_version: "go1.25.5".to_owned(), ..action(1) };
        assert_eq!(one(vec![older.clone()], true), Some(ToolchainChanged));
        assert_eq!(one(vec![older, action(2)], true), Some(InputsChanged));
        assert_eq!(one(vec![action(50)], false), Some(Trimmed));
        assert_eq!(one(vec![KnownAction { stored: Some(false), ..action(50) }], false), Some(CacheUnwritable));
        assert_eq!(one(vec![KnownAction { stored: None, ..action(50) }], false), None);
    }

    #[test]
    fn the_root_is_the_lowest_whose_own_inputs_changed() {
        let before = || ["leaf", "middle", "top"].map(|path| package(path, vec![action(path.len() as u8)])).to_vec();
        let now = [missed("leaf", 50, &[]), missed("middle", 51, &["leaf"]), missed("top", 52, &["middle"])];
        let roots = |packages, contents: &[(u8, u8)]| {
            judged(packages, false, contents, &now).into_iter().map(|(_, _, root)| root).collect::<Vec<_>>()
        };
        let leaf = Some("leaf".to_owned());
        assert_eq!(roots(before(), &[(50, 1), (51, 2), (52, 3)]), [None, leaf.clone(), leaf.clone()]);
        // It came out as before: whoever imports it was rebuilt for another reason.
        assert_eq!(roots(before(), &[(50, 104), (51, 2)]), [None, None, Some("middle".to_owned())]);
        // What it came out as is not known.
        assert_eq!(roots(before(), &[(51, 2)]), [None, None, None]);
        // Other flags: nobody is to blame.
        let mut raced = before();
        for package in &mut raced {
            package.actions[0].variant = "-race".to_owned();
        }
        assert_eq!(roots(raced, &[(50, 1), (51, 2)]), [None, None, None]);
    }

    #[test]
    fn a_new_package_below_is_no_root() {
        let known = vec![package("top", vec![action(1)])];
        let now = [missed("new", 50, &[]), missed("top", 51, &["new"])];
        let judged = judged(known, true, &[(50, 1)], &now);
        assert_eq!(judged[0], ("new".to_owned(), Some(RebuildReason::NeverBuilt), None));
        assert_eq!(judged[1], ("top".to_owned(), Some(RebuildReason::InputsChanged), None));
    }
}
