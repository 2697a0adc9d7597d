//! Entries of the module cache that an earlier download or unpacking left in pieces, or of which a part was removed.
//!
//! What is missing follows from the looks that the go command itself takes, in the order in which it takes them
//! (`DownloadDir`, `downloadZip` and `unzip` in cmd/go/internal/modfetch). Another go command that is at work on an entry
//! holds its lock: what only that explains is not said.

use std::collections::{HashMap, HashSet};

use super::{ENOENT, ModuleFile, ModuleVersion};
use crate::{
    build::types::FileKind,
    ring::event::{PathEvent, PathOperation, Task},
};

/// What a build saw of module versions' entries.
#[derive(Debug, Default)]
pub struct Entries {
    incomplete: HashSet<ModuleVersion>,
    /// The zip was not there when the build looked first.
    without_zip: HashSet<ModuleVersion>,
    /// (process, goroutine) → the module that it looks at, and whether its tree, its zip is there.
    looks: HashMap<(u32, u64), Look>,
    /// (process, goroutine) → the module whose lock it opened last.
    locked: HashMap<(u32, u64), ModuleVersion>,
    /// Temporary files that this build made.
    own: HashSet<String>,
}

#[derive(Debug)]
struct Look {
    module: ModuleVersion,
    tree: bool,
    zip: bool,
}

impl Entries {
    /// Something of it was missing that should have been there.
    pub fn is_incomplete(&self, module: &ModuleVersion) -> bool {
        self.incomplete.contains(module)
    }

    /// The unpacked tree was looked for.
    pub fn tree(&mut self, task: Task, event: &PathEvent, module: ModuleVersion) {
        if event.operation == PathOperation::Stat {
            self.look(task, module).tree = event.result >= 0;
        }
    }

    /// A file in `@v` was used; `fetched`: this build fetched the zip itself.
    pub fn file(&mut self, task: Task, event: &PathEvent, module: &ModuleVersion, file: ModuleFile, fetched: bool) {
        use PathOperation::{OpenRead, OpenWrite, Stat, Unlink};
        let locked = task.goroutine != 0 && self.locked.get(&(task.pid, task.goroutine)) == Some(module);
        match (file, event.operation) {
            (ModuleFile::Lock, OpenWrite { .. } | OpenRead) if event.result >= 0 && task.goroutine != 0 => {
                self.locked.insert((task.pid, task.goroutine), module.clone());
            }
            (ModuleFile::Final(FileKind::Zip), Stat) => {
                let there = event.result >= 0;
                if event.result == ENOENT {
                    self.without_zip.insert(module.clone());
                }
                self.look(task, module.clone()).zip = there;
            }
            (ModuleFile::Final(FileKind::Zip), _) => {}
            // A tree is unpacked after its checksum was written, so one without was robbed of it; a zip may be at work.
            (ModuleFile::ZipHash, Stat) if event.result == ENOENT && !fetched => {
                let look = self.look(task, module.clone());
                if look.tree || look.zip && locked {
                    self.incomplete.insert(module.clone());
                }
            }
            // Whoever unpacks holds the lock.
            (ModuleFile::Partial, Stat) if event.result >= 0 && locked => {
                self.incomplete.insert(module.clone());
            }
            // It unpacks a zip that was there all the time.
            (ModuleFile::Partial, OpenWrite { create: true, .. })
                if event.result >= 0 && !fetched && !self.without_zip.contains(module) =>
            {
                self.incomplete.insert(module.clone());
            }
            (ModuleFile::Temporary(FileKind::Zip), OpenWrite { .. }) if event.result >= 0 => {
                self.own.insert(event.path.clone());
            }
            // Whoever downloads holds the lock, and cleans up after those who were killed.
            (ModuleFile::Temporary(FileKind::Zip), Unlink) if event.result >= 0 && locked => {
                if !self.own.remove(&event.path) {
                    self.incomplete.insert(module.clone());
                }
            }
            (
                ModuleFile::Final(_)
                | ModuleFile::Temporary(_)
                | ModuleFile::ZipHash
                | ModuleFile::Lock
                | ModuleFile::Partial,
                _,
            ) => {}
        }
    }

    /// Another image runs in a process: its goroutines count from 1 again.
    pub fn replaced(&mut self, pid: u32) {
        self.looks.retain(|goroutine, _| goroutine.0 != pid);
        self.locked.retain(|goroutine, _| goroutine.0 != pid);
    }

    /// What a goroutine found of a module so far. Without a goroutine two looks cannot be told apart.
    fn look(&mut self, task: Task, module: ModuleVersion) -> &mut Look {
        let fresh = |module| Look { module, tree: false, zip: false };
        let look = self.looks.entry((task.pid, task.goroutine)).or_insert_with(|| fresh(module.clone()));
        if look.module != module || task.goroutine == 0 {
            *look = fresh(module);
        }
        look
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCK: PathOperation = PathOperation::OpenWrite { create: true, exclusive: false };
    const TEMPORARY: PathOperation = PathOperation::OpenWrite { create: true, exclusive: true };

    fn module() -> ModuleVersion {
        ModuleVersion { path: "example.com/m".to_owned(), version: "v1.0.0".to_owned() }
    }

    /// Whether looks of one goroutine say that the entry is incomplete; `None` is the tree.
    fn judged(events: &[(Option<ModuleFile>, PathOperation, i32)], fetched: bool) -> bool {
        let mut entries = Entries::default();
        for &(file, operation, result) in events {
            let path = format!("/{file:?}");
            let event = PathEvent { operation, path, truncated: false, result, relative: false, inode: None };
            let task = Task { pid: 1, tid: 1, goroutine: 7, parent_goroutine: 0 };
            match file {
                None => entries.tree(task, &event, module()),
                Some(file) => entries.file(task, &event, &module(), file, fetched),
            }
        }
        entries.is_incomplete(&module())
    }

    #[test]
    fn what_is_missing_is_told_from_what_was_never_there() {
        use ModuleFile::{Final, Lock, Partial, Temporary, ZipHash};
        use PathOperation::{Stat, Unlink};
        let zip = Some(Final(FileKind::Zip));
        let temporary = Some(Temporary(FileKind::Zip));
        let lock = (Some(Lock), LOCK, 3);
        // Whole; nothing there, fetched and unpacked.
        assert!(!judged(&[(None, Stat, 0), (Some(Partial), Stat, ENOENT), (Some(ZipHash), Stat, 0)], false));
        let cold = [
            (None, Stat, ENOENT),
            (zip, Stat, ENOENT),
            lock,
            (zip, Stat, ENOENT),
            (Some(ZipHash), Stat, ENOENT),
            (temporary, TEMPORARY, 4),
            (temporary, Unlink, 0),
            (None, Stat, ENOENT),
            (Some(Partial), LOCK, 5),
        ];
        assert!(!judged(&cold, true));
        // Another go command unpacks; it is done when the lock is ours.
        let busy = [(None, Stat, 0), (Some(Partial), Stat, 0), (zip, Stat, 0), (Some(ZipHash), Stat, 0)];
        assert!(!judged(&busy, false));
        // Nobody does: the lock is ours.
        assert!(judged(&[lock, (None, Stat, 0), (Some(Partial), Stat, 0)], false));
        // Tree or zip without checksum; zip without tree; what a killed download left.
        assert!(judged(&[(None, Stat, 0), (Some(Partial), Stat, ENOENT), (Some(ZipHash), Stat, ENOENT)], false));
        assert!(!judged(&[(None, Stat, ENOENT), (zip, Stat, 0), (Some(ZipHash), Stat, ENOENT)], false));
        assert!(judged(&[(None, Stat, ENOENT), lock, (zip, Stat, 0), (Some(ZipHash), Stat, ENOENT)], false));
        assert!(judged(&[(None, Stat, ENOENT), (zip, Stat, 0), lock, (Some(Partial), LOCK, 5)], false));
        assert!(judged(&[(None, Stat, ENOENT), (zip, Stat, ENOENT), lock, (temporary, Unlink, 0)], false));
    }
}
