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
    ids: HashMap<(String, String), (u64, Lines)>,
    tree: Tree,
}

/// Which lines a record has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lines {
    /// Only that of the zip or only that of the go.mod.
    One,
    /// Both, as the public database always has them.
    Both,
}

impl Sumdb {
    /// A database named `name` (what stands before the first `+` of its key, such as `sum.test`) whose key follows from
    /// its name. Generated modules are recorded at once, in their order, so that the tree stays the same while `go` runs;
    /// those of a folder when they are first looked up, as the public database does it.
    pub fn new(name: &str, sources: impl IntoIterator<Item = Source>) -> Result<Arc<Self>> {
        Self::build(name, sources, HashSet::new())
    }

    /// [`Sumdb::new`] with a wrong zip hash for every version of `module`: `go` ends with `SECURITY ERROR`.
    pub fn misreporting(name: &str, sources: impl IntoIterator<Item = Source>, module: &str) -> Result<Arc<Self>> {
        Self::build(name, sources, HashSet::from([module.to_owned()]))
    }

    fn build(name: &str, sources: impl IntoIterator<Item = Source>, misreported: HashSet<String>) -> Result<Arc<Self>> {
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
                Some(records.iter().map(|text| format!("{text}\n")).collect::<String>().into())
            }
            Some(level) => {
                let hashes = log.tree.level(level.checked_mul(8)?)?.get(tile.entries()?)?;
                Some(hashes.concat().into())
            }
        }
    }

    /// The number of the record of a module version; one is made when a source has the module, and another when it has
    /// come to have the zip or the go.mod that it had not. `go` asks for the line of the file that it has at hand.
    fn record(&self, module: &str, version: &str) -> Result<Option<u64>> {
        let key = (module.to_owned(), version.to_owned());
        if let Some(&(id, Lines::Both)) = self.log().ids.get(&key) {
            return Ok(Some(id));
        }
        let Some(Sums { mut zip, go_mod }) = self.sums(module, version)? else {
            return Ok(None);
        };
        if self.misreported.contains(module) {
            zip = Some(dirhash::hash1([("misreported", b"".as_slice())]));
        }
        let lines = match (&zip, &go_mod) {
            (Some(_), Some(_)) => Lines::Both,
            _ => Lines::One,
        };
        let mut text = String::new();
        if let Some(zip) = zip {
            text.push_str(&format!("{module} {version} {zip}\n"));
        }
        if let Some(go_mod) = go_mod {
            text.push_str(&format!("{module} {version}/go.mod {go_mod}\n"));
        }
        let mut log = self.log();
        // Another request may have been faster.
        match (log.ids.get(&key), lines) {
            (Some(&(id, Lines::Both)), _) | (Some(&(id, Lines::One)), Lines::One) => return Ok(Some(id)),
            (Some((_, Lines::One)), Lines::Both) | (None, _) => {}
        }
        let id = log.tree.append(text.as_bytes());
        log.records.push(text);
        log.ids.insert(key, (id, lines));
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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::Sumdb;
    use crate::module::{ModuleSet, Shape, SumdbFile, escape};

    #[test]
    fn a_module_is_recorded_again_when_its_zip_has_come() {
        let set = ModuleSet::generate(&Shape { modules: 1, ..Shape::default() }).unwrap();
        let module = &set.modules()[0];
        let dir = tempfile::tempdir().unwrap();
        let at_v = dir.path().join(escape(&module.path)).join("@v");
        fs::create_dir_all(&at_v).unwrap();
        fs::write(at_v.join(format!("{}.mod", module.version)), &module.go_mod).unwrap();
        let sumdb = Sumdb::new("sum.test", [dir.path().into()]).unwrap();
        let lookup = || {
            let (module, version) = (module.path.clone(), module.version.clone());
            let answer = sumdb.read(&SumdbFile::Lookup { module, version }).unwrap().unwrap();
            String::from_utf8(answer.to_vec()).unwrap()
        };
        let go_mod_line = format!("{} {}/go.mod {}\n\n", module.path, module.version, module.go_mod_hash);
        assert!(lookup().starts_with(&format!("0\n{go_mod_line}go.sum database tree\n1\n")));
        assert_eq!(lookup(), lookup());
        fs::write(at_v.join(format!("{}.zip", module.version)), &module.zip).unwrap();
        let zip_line = format!("{} {} {}\n", module.path, module.version, module.zip_hash);
        assert!(lookup().starts_with(&format!("1\n{zip_line}{go_mod_line}go.sum database tree\n2\n")));
        let unknown = SumdbFile::Lookup { module: "example.test/none".to_owned(), version: "v1.0.0".to_owned() };
        assert_eq!(sumdb.read(&unknown).unwrap(), None);
    }

    #[test]
    fn tiles_hold_what_the_tree_has() {
        let shape = Shape { modules: 300, packages: 1, functions: 0, payload_bytes: 0, ..Shape::default() };
        let set = std::sync::Arc::new(ModuleSet::generate(&shape).unwrap());
        let sumdb = Sumdb::new("sum.test", [set.into()]).unwrap();
        let size = |tile: &str| {
            let tile = SumdbFile::Tile { tile: tile.to_owned() };
            sumdb.read(&tile).unwrap().map(|bytes| bytes.len())
        };
        assert_eq!(size("8/0/000"), Some(256 * 32));
        assert_eq!(size("8/0/001.p/44"), Some(44 * 32));
        assert_eq!(size("8/1/000.p/1"), Some(32));
        // More than there is yet, and nonsense.
        assert_eq!((size("8/0/001"), size("8/1/000.p/2"), size("8/63/000"), size("8/x")), (None, None, None, None));
        assert!(size("8/data/000").is_some());
    }
}
