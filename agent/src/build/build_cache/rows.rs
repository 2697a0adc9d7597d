//! The report's rows about caches, and what a build leaves to be remembered.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Decision, Histories, print_id,
    reason::{self, Circumstances, Missed},
    variant,
};
use crate::{
    build::{
        download::Charge,
        finish::count,
        state::{BuildState, subcommand},
        test_run,
        tools::Child,
        types::{
            BuildCache, CacheBackend, CacheEntry, CacheResult, Caches, HitMiss, Module, ModuleCache, ModuleResult,
            Package, RebuildReason, Section, Tier,
        },
    },
    host::history::{Id, KnownAction, KnownPackage},
    ring::event::Status,
};

/// Go itself notes no more often that an entry is used (`mtimeInterval`, cmd/go/internal/cache/cache.go).
const SEEN_AGAIN_S: u64 = 3600;

/// A package that was compiled.
#[derive(Debug, Default)]
struct Compiled {
    start_ns: u64,
    duration_ns: u64,
    action: Option<Id>,
    /// Archives that the compiler was given and that this build made.
    reads: Option<Vec<String>>,
    succeeded: bool,
}

impl BuildState {
    /// What the caches did.
    pub(in crate::build) fn caches(
        &self,
        modules: &[Module],
        files: HitMiss,
        share: &impl Fn(&Charge) -> u64,
        histories: &Histories,
    ) -> Caches {
        let compiled = self.compiled();
        let forced = self.forced();
        let result_of_compiled = if forced { CacheResult::Bypass } else { CacheResult::Miss };
        let decided = self.decided();
        let (found, unnamed) = self.found(&compiled);
        let mut packages: Vec<Package> = found
            .iter()
            .map(|(import_path, (result, ids))| {
                let only = ids.first().filter(|_| ids.len() == 1).map(print_id);
                Package { action_id: only, ..Package::new(import_path.clone(), *result) }
            })
            .collect();
        packages.extend(compiled.iter().map(|(import_path, compiled)| Package {
            compile_ns: Some(compiled.duration_ns),
            wall_share_ns: share(&Charge::Package(import_path.clone())),
            action_id: compiled.action.as_ref().map(print_id),
            ..Package::new(import_path.clone(), result_of_compiled)
        }));
        self.explain(&mut packages, &compiled, &found, histories);
        let goroutines = self.facts.as_ref().is_some_and(|facts| facts.tier >= Tier::Goroutine);
        // A hit is seen by its look-up; where one cannot be named, or look-ups leave no file, the sum is unknown.
        let known = decided.is_some() || goroutines && unnamed == 0 && !self.cacheprog();
        let saved: Vec<u64> = packages.iter().filter_map(|package| package.saved_ns).collect();
        let build = (known && !packages.is_empty()).then(|| BuildCache {
            hits: count(&packages, |package| package.result == CacheResult::Hit),
            misses: count(&packages, |package| package.result != CacheResult::Hit),
            directory: self.build_cache.directory().map(str::to_owned),
            backend: Some(if self.cacheprog() { CacheBackend::Cacheprog } else { CacheBackend::Local }),
            saved_ns: (!saved.is_empty()).then(|| saved.iter().sum()),
        });
        // With -a the go command does not ask, and counts nothing (`useCache`, cmd/go/internal/work/buildid.go).
        let actions = decided.filter(|decisions| !decisions.is_empty() && !forced).map(|decisions| HitMiss {
            hits: count(decisions, |decision| decision.hit),
            misses: count(decisions, |decision| !decision.hit),
        });
        let module_hits = count(modules, |module| module.result == ModuleResult::Cached);
        Caches {
            build,
            actions,
            module: (!modules.is_empty()).then(|| ModuleCache {
                hits: module_hits,
                misses: modules.len() as u64 - module_hits,
                incomplete: goroutines
                    .then(|| count(modules, |module| module.cache_entry == Some(CacheEntry::Incomplete))),
                directory: self.layout.module_cache.clone(),
            }),
            module_files: (!modules.is_empty()).then_some(files),
            test: decided.and_then(|decisions| test_run::counts(&self.arguments, &self.children, decisions)),
            packages,
        }
    }

    /// Reasons, roots and what hits spared.
    fn explain(
        &self,
        packages: &mut [Package],
        compiled: &BTreeMap<String, Compiled>,
        found: &BTreeMap<String, (CacheResult, BTreeSet<Id>)>,
        histories: &Histories,
    ) {
        if self.forced() {
            for package in packages {
                package.reason = Some(RebuildReason::Forced);
            }
            return;
        }
        // Behind a cache program no entry is seen.
        if self.cacheprog() {
            return;
        }
        let known = self.build_cache.history().and_then(|directory| histories.of(directory));
        let missed: Vec<Missed> = packages
            .iter()
            .filter(|package| package.result != CacheResult::Hit)
            .map(|package| match compiled.get(&package.import_path) {
                Some(own) => Missed {
                    import_path: package.import_path.clone(),
                    action: own.action,
                    start_ns: own.start_ns,
                    imports: own.reads.as_ref().map(|files| self.makers(files)),
                },
                None => Missed {
                    import_path: package.import_path.clone(),
                    action: package.action_id.as_deref().and_then(super::parse_id),
                    start_ns: u64::MAX,
                    imports: None,
                },
            })
            .collect();
        let variant = self.variant();
        let go_version = self.facts.as_ref().and_then(|facts| facts.go_version.as_deref());
        let about = Circumstances { known, start_ns: self.start_ns, go_version, variant: &variant };
        let mut judgements = reason::judge(&self.build_cache, &missed, about);
        for package in packages {
            if let Some(judgement) = judgements.remove(&package.import_path) {
                package.reason = judgement.reason;
                package.because_of = judgement.because_of;
            }
            // Several actions are one row when the go command gave them one name; then all are known, or it is not said.
            if let Some((CacheResult::Hit, ids)) = found.get(&package.import_path) {
                let cost = |id| known.and_then(|known| known.action(id, self.start_ns))?.compile_ns;
                let costs: Option<Vec<u64>> = ids.iter().map(cost).collect();
                package.saved_ns = costs.filter(|costs| !costs.is_empty()).map(|costs| costs.iter().sum());
            }
        }
    }

    /// What is to be remembered of the build, which has ended.
    pub(in crate::build) fn learned(&self, histories: &Histories, wall_offset_ns: i64) -> Vec<KnownPackage> {
        let Some(directory) = self.build_cache.history().filter(|_| !self.cacheprog()) else { return Vec::new() };
        let Some(go_version) = self.facts.as_ref().and_then(|facts| facts.go_version.clone()) else {
            return Vec::new();
        };
        let known = histories.of(directory);
        let variant = self.variant();
        let end_ns =
            self.end.as_ref().map_or(self.start_ns, |(end_ns, _)| *end_ns).saturating_add_signed(wall_offset_ns);
        let action = |id: Id, compile_ns, stored| KnownAction {
            id,
            content: self.build_cache.contents.get(&id).copied(),
            go_version: go_version.clone(),
            variant: variant.clone(),
            compile_ns,
            stored,
            seen_s: end_ns / 1_000_000_000,
        };
        let mut news: BTreeMap<String, Vec<KnownAction>> = BTreeMap::new();
        let compiled = self.compiled();
        // A go command that ended well has tried to store all that it made.
        let tried = self.exit().is_some_and(|exit| exit.status == Status::Code(0))
            && !self.incomplete.contains(&Section::Caches);
        for (import_path, own) in compiled.iter().filter(|(_, own)| own.succeeded) {
            let Some(id) = own.action else { continue };
            let stored = match self.build_cache.written.contains(&id) {
                true => Some(true),
                false => tried.then_some(false),
            };
            news.entry(import_path.clone()).or_default().push(action(id, Some(own.duration_ns), stored));
        }
        // A test variant is asked for under the name of its package.
        let ambiguous = matches!(subcommand(&self.arguments).as_str(), "test" | "vet");
        let (found, _) = self.found(&compiled);
        for (import_path, (_, ids)) in found.iter().filter(|(_, (result, _))| *result == CacheResult::Hit) {
            for id in ids {
                let found = action(*id, None, self.build_cache.was_found(id).then_some(true));
                match known.and_then(|known| Some((known.maker(id)?, known.action(id, u64::MAX)?))) {
                    Some((maker, before)) => {
                        let again = found.seen_s.saturating_sub(before.seen_s) >= SEEN_AGAIN_S;
                        let more = found.content.is_some() && before.content.is_none()
                            || found.stored.is_some() && before.stored != found.stored;
                        if again || more {
                            news.entry(maker.to_owned()).or_default().push(found);
                        }
                    }
                    None if ambiguous => {}
                    None => news.entry(import_path.clone()).or_default().push(found),
                }
            }
        }
        news.into_iter().map(|(import_path, actions)| KnownPackage { import_path, actions }).collect()
    }

    fn variant(&self) -> String {
        let settings = self.facts.as_ref().and_then(|facts| facts.settings.as_ref());
        let flags = settings.map_or("", |settings| settings.flags.as_str());
        variant::of(&self.arguments, flags, settings.map_or(&[], |settings| &settings.target))
    }

    /// The packages that were compiled.
    fn compiled(&self) -> BTreeMap<String, Compiled> {
        let mut packages: BTreeMap<String, Compiled> = BTreeMap::new();
        for (index, child) in self.children.iter().enumerate().filter(|(_, child)| child.compiles()) {
            let new = || Compiled { start_ns: child.start_ns, succeeded: true, ..Compiled::default() };
            let package = packages.entry(child.import_path.clone().unwrap_or_default()).or_insert_with(new);
            package.duration_ns += child.end_ns.map_or(0, |end_ns| end_ns.saturating_sub(child.start_ns));
            package.action = package.action.or(self.build_cache.compiles.get(&index).copied());
            if child.reads.is_some() {
                package.reads.clone_from(&child.reads);
            }
            package.succeeded &= child.status == Some(Status::Code(0));
        }
        packages
    }

    /// The packages that the cache was asked for and that were not compiled; and how many cannot be named.
    fn found(&self, compiled: &BTreeMap<String, Compiled>) -> (BTreeMap<String, (CacheResult, BTreeSet<Id>)>, u64) {
        if let Some(decisions) = self.decided() {
            return (not_compiled(decisions, compiled), 0);
        }
        let (names, unnamed) = self.build_cache.named_hits(&self.layout);
        let names = names.into_iter().filter(|(name, _)| !compiled.contains_key(name));
        (names.map(|(name, ids)| (name, (CacheResult::Hit, ids))).collect(), unnamed)
    }

    /// The packages that made these archives.
    fn makers(&self, files: &[String]) -> Vec<String> {
        let made = |file: &String| {
            let maker =
                |child: &&Child| child.file.as_deref() == Some(file) && child.compiles() && child.reads_packages();
            self.children.iter().find(maker).and_then(|child| child.import_path.clone())
        };
        // One whose maker is not known stays in the list: then not everything below is known.
        files.iter().map(|file| made(file).unwrap_or_default()).collect()
    }
}

/// The packages that the go command asked its cache for and did not compile.
fn not_compiled(
    decisions: &[Decision],
    compiled: &BTreeMap<String, Compiled>,
) -> BTreeMap<String, (CacheResult, BTreeSet<Id>)> {
    let mut results: BTreeMap<String, (CacheResult, BTreeSet<Id>)> = BTreeMap::new();
    for decision in decisions.iter().filter(|decision| decision.mode == "build") {
        let Some(import_path) = decision.import_path.as_deref() else { continue };
        if compiled.contains_key(import_path) || import_path == "unsafe" {
            continue;
        }
        let row = match results.get_mut(import_path) {
            Some(row) => row,
            None if decision.hit || !is_variant_compiled(import_path, compiled) => {
                results.entry(import_path.to_owned()).or_insert((CacheResult::Miss, BTreeSet::new()))
            }
            None => continue,
        };
        if decision.hit && row.0 != CacheResult::Hit {
            *row = (CacheResult::Hit, BTreeSet::new());
        }
        if decision.hit == (row.0 == CacheResult::Hit) {
            row.1.extend(decision.action);
        }
    }
    results
}

/// The go command asks for `p [p.test]` under the name `p`.
fn is_variant_compiled(import_path: &str, compiled: &BTreeMap<String, Compiled>) -> bool {
    let variants = format!("{import_path} [");
    compiled.range(variants.clone()..).next().is_some_and(|(name, _)| name.starts_with(&variants))
}
