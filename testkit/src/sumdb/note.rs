//! Signed tree heads in the note format (`golang.org/x/mod/sumdb/note`): a text, an empty line, and
//! `— NAME base64(key hash, Ed25519 signature)`.

use std::fmt;

use anyhow::{Result, ensure};
use base64::{Engine, engine::general_purpose::STANDARD};
use ring::{
    digest::{SHA256, digest},
    signature::{Ed25519KeyPair, KeyPair},
};

use super::Tree;

/// `note.algEd25519`.
const ED25519: u8 = 1;

/// The key of a checksum database.
pub struct Signer {
    name: String,
    key: Ed25519KeyPair,
    key_hash: u32,
    verifier_key: String,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("verifier_key", &self.verifier_key).finish_non_exhaustive()
    }
}

impl Signer {
    /// A key that follows from `name`: a database made twice is the same one to a `go` that remembers its tree head.
    /// It protects nothing. Fails for a name that a key cannot have: empty, with white space or a `+`.
    pub fn from_name(name: &str) -> Result<Self> {
        ensure!(
            !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c == '+'),
            "checksum database name {name:?} is empty or holds white space or a +"
        );
        let seed = digest(&SHA256, format!("testkit {name}").as_bytes());
        let key = Ed25519KeyPair::from_seed_unchecked(seed.as_ref()).expect("a SHA-256 is as long as an Ed25519 seed");
        let encoded = [&[ED25519], key.public_key().as_ref()].concat();
        let key_hash = key_hash(name, &encoded);
        Ok(Self {
            name: name.to_owned(),
            verifier_key: format!("{name}+{key_hash:08x}+{}", STANDARD.encode(&encoded)),
            key_hash,
            key,
        })
    }

    /// Name of the database.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `NAME+HASH+KEY`, the form of `GOSUMDB`.
    pub fn verifier_key(&self) -> &str {
        &self.verifier_key
    }

    /// The signed head of `tree`.
    pub fn sign_tree(&self, tree: &Tree) -> String {
        let root = STANDARD.encode(tree.root());
        self.sign(&format!("go.sum database tree\n{}\n{root}\n", tree.size()))
    }

    /// `text`, which ends in a newline, with a signature.
    fn sign(&self, text: &str) -> String {
        let signature = self.key.sign(text.as_bytes());
        let signed = [&self.key_hash.to_be_bytes(), signature.as_ref()].concat();
        format!("{text}\n\u{2014} {} {}\n", self.name, STANDARD.encode(signed))
    }
}

/// First four bytes of the SHA-256 of `NAME\nKEY` (`note.keyHash`).
fn key_hash(name: &str, encoded_key: &[u8]) -> u32 {
    let hash = digest(&SHA256, &[name.as_bytes(), b"\n", encoded_key].concat());
    let first = hash.as_ref().first_chunk().expect("a SHA-256 has 32 bytes");
    u32::from_be_bytes(*first)
}

#[cfg(test)]
mod tests {
    use base64::{Engine, engine::general_purpose::STANDARD};
    use ring::signature::{ED25519, UnparsedPublicKey};

    use super::{Signer, key_hash};

    #[test]
    fn key_hash_is_that_of_the_public_database() {
        // sum.golang.org's key as it is built into cmd/go (modfetch/key.go).
        let key = STANDARD.decode("Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8").unwrap();
        assert_eq!(key_hash("sum.golang.org", &key), 0x033d_e0ae);
    }

    #[test]
    fn a_note_verifies_with_the_key_that_is_given_out() {
        let signer = Signer::from_name("sum.test").unwrap();
        let note = signer.sign("hello\n");
        let signature = note.strip_prefix("hello\n\n\u{2014} sum.test ").unwrap();
        let signature = STANDARD.decode(signature.trim_end()).unwrap();
        let key = signer.verifier_key().rsplit_once('+').unwrap().1;
        // A base64 key may hold a `+` itself: the name and the hash do not.
        let key = signer.verifier_key().splitn(3, '+').nth(2).unwrap_or(key);
        let key = STANDARD.decode(key).unwrap();
        assert_eq!(key[0], super::ED25519);
        UnparsedPublicKey::new(&ED25519, &key[1..]).verify(b"hello\n", &signature[4..]).unwrap();
        assert_eq!(signature[..4], signer.key_hash.to_be_bytes());
    }

    #[test]
    fn names_that_would_break_the_key_are_refused() {
        for name in ["", "a b", "a+b", "a\n"] {
            assert!(Signer::from_name(name).is_err(), "{name:?}");
        }
    }
}
