//! What earlier builds did with the build caches of the stream's go commands, builds of the same stream included.

use std::{
    collections::{HashMap, HashSet},
    num::NonZeroUsize,
};

use lru::LruCache;

use crate::host::history::{ACTIONS_MAX, CacheHistory, Id, KnownAction, KnownPackage, News, PACKAGES_MAX};

/// Caches that are known at once: a host whose every job has a GOCACHE of its own would know more and more of them.
const CACHES_MAX: NonZeroUsize = NonZeroUsize::new(64).unwrap();

/// The caches that go commands used last, by GOCACHE.
#[derive(Debug)]
pub struct Histories {
    caches: LruCache<String, Known>,
}

impl Default for Histories {
    fn default() -> Self {
        Self { caches: LruCache::new(CACHES_MAX) }
    }
}

/// One cache.
#[derive(Debug, Default)]
pub struct Known {
    whole: bool,
    /// Import path → actions, newest last, each with the time since which it is known.
    packages: HashMap<String, Vec<(KnownAction, u64)>>,
    /// Action → the package that it made.
    makers: HashMap<Id, String>,
    /// What nobody has kept yet.
    untold: CacheHistory,
    /// It was made in this stream, and nobody has kept that.
    untold_fresh: bool,
    /// Something was learned or written to it since the last news.
    touched: bool,
}

impl Histories {
    /// Takes in what was known when a go command came. Some of it may have been learned from this stream before.
    pub fn learn(&mut self, part: &CacheHistory, at_ns: u64) {
        let known = self.caches.get_or_insert_mut_ref(part.directory.as_str(), || Known {
            whole: part.whole,
            untold: CacheHistory { directory: part.directory.clone(), whole: part.whole, packages: Vec::new() },
            ..Known::default()
        });
        for package in &part.packages {
            for action in package.actions.iter().rev() {
                known.put(&package.import_path, action.clone(), at_ns);
            }
        }
    }

    /// The cache was empty until now.
    pub fn made(&mut self, directory: &str) {
        if let Some(known) = self.caches.get_mut(directory) {
            known.whole = true;
            known.untold.whole = true;
            known.untold_fresh = true;
        }
    }

    /// A build ended; `wrote`: it wrote to the cache or removed from it.
    pub fn add(&mut self, directory: &str, news: Vec<KnownPackage>, wrote: bool, at_ns: u64) {
        let Some(known) = self.caches.get_mut(directory) else { return };
        known.touched |= wrote || !news.is_empty() || known.untold_fresh;
        for package in &news {
            for action in package.actions.iter().rev() {
                known.put(&package.import_path, action.clone(), at_ns);
            }
        }
        if known.packages.len() > 2 * PACKAGES_MAX {
            known.whole = false;
            known.untold.whole = false;
            known.packages.clear();
            known.makers.clear();
        }
        known.untold.merge(CacheHistory { packages: news, ..CacheHistory::default() });
    }

    /// One cache.
    pub fn of(&self, directory: &str) -> Option<&Known> {
        self.caches.peek(directory)
    }

    /// What is to be kept, in order of the directories; each of it once.
    pub fn take_news(&mut self) -> Vec<News> {
        let mut news: Vec<_> = self
            .caches
            .iter_mut()
            .filter(|(_, known)| known.touched)
            .map(|(_, known)| {
                known.touched = false;
                let next = CacheHistory { packages: Vec::new(), ..known.untold.clone() };
                let fresh = std::mem::take(&mut known.untold_fresh);
                News { cache: std::mem::replace(&mut known.untold, next), fresh }
            })
            .collect();
        news.sort_by(|a, b| a.cache.directory.cmp(&b.cache.directory));
        news
    }
}

impl Known {
    /// What is not known of it was never built with it.
    pub fn whole(&self) -> bool {
        self.whole
    }

    /// An action, as it was known at a time.
    pub fn action(&self, id: &Id, at_ns: u64) -> Option<&KnownAction> {
        let actions = self.packages.get(self.makers.get(id)?)?;
        actions.iter().rev().find(|(action, since_ns)| action.id == *id && *since_ns <= at_ns).map(|(action, _)| action)
    }

    /// Actions of a package, as they were known at a time; newest first.
    pub fn actions(&self, import_path: &str, at_ns: u64) -> Vec<&KnownAction> {
        let mut seen = HashSet::new();
        let actions = self.packages.get(import_path).into_iter().flatten().rev();
        actions
            .filter(|(_, since_ns)| *since_ns <= at_ns)
            .map(|(action, _)| action)
            .filter(|action| seen.insert(action.id))
            .collect()
    }

    /// The package that an action made.
    pub fn maker(&self, id: &Id) -> Option<&str> {
        self.makers.get(id).map(String::as_str)
    }

    fn put(&mut self, import_path: &str, mut action: KnownAction, since_ns: u64) {
        let actions = self.packages.entry(import_path.to_owned()).or_default();
        if let Some((before, _)) = actions.iter().rev().find(|(known, _)| known.id == action.id) {
            action.content = action.content.or(before.content);
            action.compile_ns = action.compile_ns.or(before.compile_ns);
            action.stored = action.stored.or(before.stored);
        }
        self.makers.insert(action.id, import_path.to_owned());
        actions.push((action, since_ns));
        // The same action again and again, and builds with different flags.
        let most = 8 * ACTIONS_MAX;
        if actions.len() > most {
            actions.drain(..actions.len() - most);
            let left: HashSet<Id> = actions.iter().map(|(action, _)| action.id).collect();
            self.makers.retain(|id, maker| maker != import_path || left.contains(id));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_caches_that_were_used_last_are_remembered() {
        let mut histories = Histories::default();
        let mut learn = |number: usize| {
            let part = CacheHistory { directory: format!("/{number}"), whole: true, packages: Vec::new() };
            histories.learn(&part, 1);
        };
        for number in 0..200 {
            learn(number);
            learn(7);
        }
        let known: Vec<usize> = (0..200).filter(|number| histories.of(&format!("/{number}")).is_some()).collect();
        assert_eq!(known.len(), CACHES_MAX.get());
        assert_eq!((known[0], known[1], known[63]), (7, 137, 199));
    }

    #[test]
    fn what_is_told_again_was_not_known_before() {
        let mut histories = Histories::default();
        let action = KnownAction {
            id: [1; 15],
            content: None,
            go_version: String::new(),
            variant: String::new(),
            compile_ns: None,
            stored: None,
            seen_s: 0,
        };
        let package = KnownPackage { import_path: "p".to_owned(), actions: vec![action] };
        let empty = CacheHistory { directory: "/gc".to_owned(), whole: false, packages: Vec::new() };
        histories.learn(&empty, 10);
        histories.learn(&CacheHistory { packages: vec![package], ..empty }, 20);
        let known = histories.of("/gc").unwrap();
        assert!(known.actions("p", 10).is_empty(), "a build that began before it was told");
        assert_eq!(known.actions("p", 20).len(), 1);
    }
}
