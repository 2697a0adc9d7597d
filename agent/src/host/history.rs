//! What earlier builds did with a build cache: which actions of which packages they made, and what that cost.
//!
//! One build alone cannot tell why its cache lacks a package; it needs to know what was built before. The types join the
//! event stream ([`crate::ring::event::Body::History`]), the encoding is that of the file which `history_store` keeps.

use serde::{Deserialize, Serialize};

/// Actions remembered of a package in one variant, newest first. More than one, for builds with different flags take
/// turns.
pub const ACTIONS_MAX: usize = 8;
/// Packages of a cache; those that were not built for the longest time are forgotten first.
pub const PACKAGES_MAX: usize = 16_384;

/// Bytes of an action id that Go prints (cmd/internal/buildid, `HashToString`): the first 15 of the SHA-256.
pub const ID_BYTES: usize = 15;

/// An action, or the content that it made, as far as a Go build id tells it.
pub type Id = [u8; ID_BYTES];

/// What is known of one build cache.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheHistory {
    /// GOCACHE.
    pub directory: String,
    /// The directory was made in an observed build, and nobody else has written to it between observed builds: what is
    /// not in here was never built with it.
    pub whole: bool,
    /// In order of their import paths.
    pub packages: Vec<KnownPackage>,
}

/// A package that was built before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownPackage {
    /// Import path; test variants under their own name.
    pub import_path: String,
    /// Newest first.
    pub actions: Vec<KnownAction>,
}

/// An action that compiled a package.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownAction {
    /// Which.
    pub id: Id,
    /// What it made, by the second half of its build id; absent where nobody was seen to import it.
    pub content: Option<Id>,
    /// Version of the go command, such as `go1.26.8`.
    pub go_version: String,
    /// Flags and settings that compilations depend on.
    pub variant: String,
    /// Sum over the commands; absent when it was never seen to be compiled.
    pub compile_ns: Option<u64>,
    /// It was written into the cache or found there; absent when that is not known.
    pub stored: Option<bool>,
    /// When it was last built or found, in seconds since 1970.
    pub seen_s: u64,
}

/// What is to be kept of one cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    /// What was built or found; `whole` as far as the one who saw it knows.
    pub cache: CacheHistory,
    /// The cache was made since the last news.
    pub fresh: bool,
}

/// Why a history cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HistoryError {
    /// Another program's file, or another version's.
    #[error("it is not a history of this version of gobuild-trace")]
    Foreign,
    /// Its check does not fit its content.
    #[error("it is damaged")]
    Damaged,
}

const MAGIC: [u8; 8] = *b"GOBTHST1";

/// A history as a file keeps it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// What is known.
    pub cache: CacheHistory,
    /// Until when it is, in nanoseconds since 1970: what was written to the cache later was written by others.
    pub until_ns: u64,
}

impl Kept {
    /// The file's bytes.
    ///
    /// # Errors
    /// None that is known of: the types can all be encoded.
    pub fn encode(&self) -> Result<Vec<u8>, postcard::Error> {
        let body = postcard::to_stdvec(self)?;
        let mut bytes = MAGIC.to_vec();
        bytes.extend(check(&body).to_le_bytes());
        bytes.extend(body);
        Ok(bytes)
    }

    /// Reads a file's bytes.
    ///
    /// # Errors
    /// They are something else, or damaged.
    pub fn decode(bytes: &[u8]) -> Result<Self, HistoryError> {
        let rest = bytes.strip_prefix(&MAGIC).ok_or(HistoryError::Foreign)?;
        let (head, body) = rest.split_first_chunk().ok_or(HistoryError::Damaged)?;
        if check(body) != u64::from_le_bytes(*head) {
            return Err(HistoryError::Damaged);
        }
        postcard::from_bytes(body).map_err(|_| HistoryError::Damaged)
    }
}

impl CacheHistory {
    /// Takes in what is newer, and forgets what is too much.
    pub fn merge(&mut self, newer: Self) {
        let mut packages: std::collections::BTreeMap<String, Vec<KnownAction>> =
            std::mem::take(&mut self.packages).into_iter().map(|known| (known.import_path, known.actions)).collect();
        for known in newer.packages {
            let actions = packages.entry(known.import_path).or_default();
            for action in known.actions.into_iter().rev() {
                remember(actions, action);
            }
        }
        let mut by_age: Vec<_> = packages.into_iter().collect();
        if by_age.len() > PACKAGES_MAX {
            let newest = |actions: &[KnownAction]| actions.iter().map(|action| action.seen_s).max();
            by_age.sort_by_key(|(_, actions)| std::cmp::Reverse(newest(actions)));
            by_age.truncate(PACKAGES_MAX);
            by_age.sort_by(|a, b| a.0.cmp(&b.0));
            // What was forgotten would look as if it had never been built.
            self.whole = false;
        }
        self.packages =
            by_age.into_iter().map(|(import_path, actions)| KnownPackage { import_path, actions }).collect();
    }

    /// Parts that are small enough for one event each; at least one.
    pub fn parts(self) -> impl Iterator<Item = Self> {
        const PACKAGES: usize = 1024;
        let Self { directory, whole, packages } = self;
        let parts = packages.len().div_ceil(PACKAGES).max(1);
        let mut packages = packages.into_iter();
        (0..parts).map(move |_| Self {
            directory: directory.clone(),
            whole,
            packages: packages.by_ref().take(PACKAGES).collect(),
        })
    }
}

/// Puts an action first. What was known of it and is not said again is kept.
pub fn remember(actions: &mut Vec<KnownAction>, mut action: KnownAction) {
    if let Some(at) = actions.iter().position(|known| known.id == action.id) {
        let known = actions.remove(at);
        action.content = action.content.or(known.content);
        action.compile_ns = action.compile_ns.or(known.compile_ns);
        action.stored = action.stored.or(known.stored);
    }
    actions.insert(0, action);
    let variants: std::collections::BTreeSet<String> = actions.iter().map(|known| known.variant.clone()).collect();
    for variant in variants {
        let mut kept = 0;
        actions.retain(|known| {
            let own = known.variant == variant;
            kept += usize::from(own);
            !own || kept <= ACTIONS_MAX
        });
    }
    actions.truncate(ACTIONS_MAX * 4);
}

/// FNV-1a, 64 bits. Tells a cut or overwritten file from a whole one; it is no defence against a forger.
fn check(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn action(id: u8, seen_s: u64) -> KnownAction {
        KnownAction {
            id: [id; ID_BYTES],
            content: None,
            go_version: "go1.26.8".to_owned(),
            variant: String::new(),
            compile_ns: Some(1),
            stored: Some(true),
            seen_s,
        }
    }

    fn history(import_path: &str, actions: Vec<KnownAction>) -> CacheHistory {
        let packages = vec![KnownPackage { import_path: import_path.to_owned(), actions }];
        CacheHistory { directory: "/cache".to_owned(), whole: true, packages }
    }

    #[test]
    fn what_is_newer_comes_first_and_nothing_known_is_unlearned() {
        let mut known = history("p", vec![action(1, 10), KnownAction { compile_ns: Some(7), ..action(2, 5) }]);
        known.merge(history("p", vec![KnownAction { compile_ns: None, content: Some([9; 15]), ..action(2, 20) }]));
        known.merge(history("q", vec![action(3, 30)]));
        let [p, q] = known.packages.as_slice() else { panic!("{known:?}") };
        assert_eq!(p.actions.iter().map(|action| action.id[0]).collect::<Vec<_>>(), [2, 1]);
        assert_eq!((p.actions[0].compile_ns, p.actions[0].content, p.actions[0].seen_s), (Some(7), Some([9; 15]), 20));
        assert_eq!(q.import_path, "q");
    }

    #[test]
    fn each_variant_keeps_its_newest() {
        let mut actions = Vec::new();
        let race = KnownAction { variant: "-race".to_owned(), ..action(200, 1) };
        remember(&mut actions, race);
        for id in 0..50 {
            remember(&mut actions, action(id, id.into()));
        }
        assert_eq!(actions.iter().filter(|known| known.variant.is_empty()).count(), ACTIONS_MAX);
        assert_eq!(actions[0].id[0], 49);
        assert!(actions.iter().any(|known| known.variant == "-race"));
    }

    #[test]
    fn a_history_that_had_to_forget_is_not_whole() {
        let mut known = CacheHistory { whole: true, ..CacheHistory::default() };
        let many = (0..=PACKAGES_MAX)
            .map(|number| KnownPackage {
                import_path: format!("p{number:05}"),
                actions: vec![action(1, number as u64)],
            })
            .collect();
        known.merge(CacheHistory { packages: many, ..CacheHistory::default() });
        assert_eq!((known.packages.len(), known.whole), (PACKAGES_MAX, false));
        assert_eq!(known.packages[0].import_path, "p00001", "the oldest is gone");
        assert_eq!(known.clone().parts().map(|part| part.packages.len()).sum::<usize>(), PACKAGES_MAX);
        assert_eq!(CacheHistory::default().parts().count(), 1);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = Kept::decode(&bytes);
            let _ = Kept::decode(&[&MAGIC[..], &bytes].concat());
        }

        #[test]
        fn a_changed_byte_is_noticed(at in 0usize..100, flip in 1u8..) {
            let kept = Kept { cache: history("example.com/p", vec![action(1, 2); 3]), until_ns: 5 };
            let mut bytes = kept.encode().unwrap();
            prop_assert_eq!(Kept::decode(&bytes), Ok(kept));
            let at = at % bytes.len();
            bytes[at] ^= flip;
            prop_assert!(Kept::decode(&bytes).is_err());
        }
    }
}
