//! A checksum database that a real `go` verifies: records in a Merkle tree ([`Tree`]), served as tiles ([`Tile`]) and signed
//! tree heads ([`Signer`]), in the protocol of golang.org/x/mod/sumdb.
//!
//! It knows the hashes of whatever its sources hold and serves no HTTP: a [proxy](crate::proxy) answers its paths, below
//! `/sumdb/NAME/` as a proxy does or at its root as the database itself does.

mod note;
pub use note::Signer;

mod tree;
pub use tree::{Hash, Tree};

mod tile;
pub use tile::Tile;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::Result;
use bytes::Bytes;

use crate::module::{Source, SumdbFile, Sums, dirhash};

/// A checksum database over a list of sources.
#[derive(Debug)]
pub struct Sumdb {
    signer: Signer,
    sources: Vec<Source>,
    misreported: HashSet<String>,
    log: Mutex<Log>,
}

#[derive(Debug, Default)]
struct Log {
    records: Vec<String>,
    ids: HashMap<(String, String), u64>,
    tree: Tree,
}

impl Sumdb {
    /// A database named `name` (what stands before the first `+` of its key, such as `sum.test`) whose key follows from
    /// its name. Generated modules are recorded at once, in their order, so that the tree stays the same while `go` runs;
    /// those of a folder when they are first looked up, as the public database does it. A module of which a folder has no
    /// zip is not found.
    pub fn new(name: &str, sources: impl IntoIterator<Item = Source>) -> Result<Arc<Self>> {
        Self::build(name, sources, HashSet::new())
    }

    /// [`Sumdb::new`] with a wrong zip hash for every version of `module`: `go` ends with `SECURITY ERROR`.
    pub fn misreporting(
        name: &str,
        sources: impl IntoIterator<Item = Source>,
        module: &str,
    ) -> Result<Arc<Self>> {
        Self::build(name, sources, HashSet::from([module.to_owned()]))
    }

    fn build(
        name: &str,
        sources: impl IntoIterator<Item = Source>,
        misreported: HashSet<String>,
    ) -> Result<Arc<Self>> {
        let sumdb = Self {
            signer: Signer::from_name(name)?,
            sources: sources.into_iter().collect(),
            misreported,
            log: Mutex::default(),
        };
        for source in &sumdb.sources {
            if let Source::Generated(set) = source {
                for module in set.modules() {
                    sumdb.record(&module.path, &module.version)?;
                }
            }
        }
        Ok(Arc::new(sumdb))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.signer.name()
    }

    /// Its verifier key, the first word of `GOSUMDB`. A second word may be the URL that it is reached at.
    pub fn verifier_key(&self) -> &str {
        self.signer.verifier_key()
    }

    /// The answer to a request, `None` for what is not there. Blocks on I/O when a folder's module is looked up.
    pub fn read(&self, file: &SumdbFile) -> Result<Option<Bytes>> {
        match file {
            SumdbFile::Supported => Ok(Some(Bytes::new())),
            SumdbFile::Latest => {
                let log = self.log();
                Ok(Some(self.signer.sign_tree(&log.tree).into()))
            }
            SumdbFile::Lookup { module, version } => self.lookup(module, version),
            SumdbFile::Tile { tile } => Ok(Tile::parse(tile).and_then(|tile| self.tile(tile))),
        }
    }

    fn lookup(&self, module: &str, version: &str) -> Result<Option<Bytes>> {
        let Some(id) = self.record(module, version)? else {
            return Ok(None);
        };
        let log = self.log();
        let Some(text) = usize::try_from(id).ok().and_then(|id| log.records.get(id)) else {
            return Ok(None);
        };
        let head = self.signer.sign_tree(&log.tree);
        Ok(Some(format!("{id}\n{text}\n{head}").into()))
    }

    fn tile(&self, tile: Tile) -> Option<Bytes> {
        let log = self.log();
        match tile.level {
            None => {
                let range = tile.entries()?;
                let records = log.records.get(range)?;
                Some(
                    records
                        .iter()
                        .map(|text| format!("{text}\n"))
                        .collect::<String>()
                        .into(),
                )
            }
            Some(level) => {
                let hashes = log
                    .tree
                    .level(level.checked_mul(8)?)?
                    .get(tile.entries()?)?;
                Some(hashes.concat().into())
            }
        }
    }

    /// The number of the record of a module version; one is made when a source has the module.
    fn record(&self, module: &str, version: &str) -> Result<Option<u64>> {
        let key = (module.to_owned(), version.to_owned());
        if let Some(&id) = self.log().ids.get(&key) {
            return Ok(Some(id));
        }
        let Some(mut sums) = self.sums(module, version)? else {
            return Ok(None);
        };
        let mut log = self.log();
        if let Some(&id) = log.ids.get(&key) {
            return Ok(Some(id));
        }
        if self.misreported.contains(module) {
            sums.zip = dirhash::hash1([("misreported", b"".as_slice())]);
        }
        let Sums { zip, go_mod } = sums;
        let text = format!("{module} {version} {zip}\n{module} {version}/go.mod {go_mod}\n");
        let id = log.tree.append(text.as_bytes());
        log.records.push(text);
        log.ids.insert(key, id);
        Ok(Some(id))
    }

    fn sums(&self, module: &str, version: &str) -> Result<Option<Sums>> {
        for source in &self.sources {
            if let Some(sums) = source.sums(module, version)? {
                return Ok(Some(sums));
            }
        }
        Ok(None)
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
