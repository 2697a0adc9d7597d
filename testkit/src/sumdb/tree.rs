//! The Merkle tree of RFC 6962 with every complete subtree kept, as golang.org/x/mod/sumdb/tlog hashes it.

use ring::digest::{Context, SHA256, digest};

/// A SHA-256.
pub type Hash = [u8; 32];

/// An append-only tree of records.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    /// `levels[l][n]` is the hash of the complete subtree over the records from `n << l` to `(n + 1) << l`.
    levels: Vec<Vec<Hash>>,
}

impl Tree {
    /// Adds a record and returns its number.
    pub fn append(&mut self, record: &[u8]) -> u64 {
        let id = self.size();
        let mut hash = record_hash(record);
        for level in 0.. {
            if self.levels.len() == level {
                self.levels.push(Vec::new());
            }
            let hashes = &mut self.levels[level];
            hashes.push(hash);
            let [.., left, right] = hashes.as_slice() else {
                break;
            };
            if hashes.len() % 2 == 1 {
                break;
            }
            hash = node_hash(left, right);
        }
        id
    }

    /// Number of records.
    pub fn size(&self) -> u64 {
        self.levels.first().map_or(0, |leaves| leaves.len() as u64)
    }

    /// Hash of the whole tree; that of an empty one is the SHA-256 of nothing.
    pub fn root(&self) -> Hash {
        self.levels
            .iter()
            .filter(|hashes| hashes.len() % 2 == 1)
            .filter_map(|hashes| hashes.last().copied())
            .reduce(|right, left| node_hash(&left, &right))
            .unwrap_or_else(|| to_hash(digest(&SHA256, b"").as_ref()))
    }

    /// The hashes of all complete subtrees of `2^level` records.
    pub fn level(&self, level: u32) -> Option<&[Hash]> {
        self.levels.get(usize::try_from(level).ok()?).map(Vec::as_slice)
    }
}

fn record_hash(record: &[u8]) -> Hash {
    let mut context = Context::new(&SHA256);
    context.update(&[0]);
    context.update(record);
    to_hash(context.finish().as_ref())
}

fn node_hash(left: &Hash, right: &Hash) -> Hash {
    let mut context = Context::new(&SHA256);
    context.update(&[1]);
    context.update(left);
    context.update(right);
    to_hash(context.finish().as_ref())
}

fn to_hash(digest: &[u8]) -> Hash {
    digest.try_into().expect("a SHA-256 has 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::Tree;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The leaves and roots of the reference tree that the Certificate Transparency implementations share
    /// (google/certificate-transparency, `merkle_tree_test`).
    #[test]
    fn roots_are_those_of_the_certificate_transparency_test_tree() {
        let leaves: [&[u8]; 8] = [
            b"",
            b"\x00",
            b"\x10",
            b"\x20\x21",
            b"\x30\x31",
            b"\x40\x41\x42\x43",
            b"\x50\x51\x52\x53\x54\x55\x56\x57",
            b"\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f",
        ];
        let roots = [
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
            "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
            "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
            "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
            "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
        ];
        let mut tree = Tree::default();
        assert_eq!(hex(&tree.root()), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        for (number, (leaf, root)) in leaves.into_iter().zip(roots).enumerate() {
            assert_eq!(tree.append(leaf), number as u64);
            assert_eq!(hex(&tree.root()), root, "{} leaves", number + 1);
        }
    }

    #[test]
    fn a_level_holds_complete_subtrees_only() {
        let mut tree = Tree::default();
        for record in 0..1000u32 {
            tree.append(&record.to_be_bytes());
        }
        assert_eq!(tree.size(), 1000);
        let sizes: Vec<_> = (0..10).map(|level| tree.level(level).unwrap().len()).collect();
        assert_eq!(sizes, [1000, 500, 250, 125, 62, 31, 15, 7, 3, 1]);
        assert_eq!(tree.level(10), None);
    }
}
