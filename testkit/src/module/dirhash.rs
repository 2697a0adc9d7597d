//! Go's `h1:` hash of a module's files (`golang.org/x/mod/sumdb/dirhash.Hash1`): the SHA-256 of one line
//! `hex(SHA-256 of the file)  name` for each file, sorted by name, in base64.

use std::io::{Cursor, Read};

use anyhow::{Context, Result};
use base64::{Engine, engine::general_purpose::STANDARD};
use ring::digest::{self, SHA256};
use zip::ZipArchive;

/// `h1:` hash of `files`, given as name and content in any order.
pub fn hash1<'a>(files: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> String {
    let digests =
        files.into_iter().map(|(name, content)| (name.to_owned(), digest::digest(&SHA256, content))).collect();
    sum(digests)
}

/// `h1:` hash of a `go.mod` file, as `go.sum` has it on its `/go.mod` lines.
pub fn hash_go_mod(content: &[u8]) -> String {
    hash1([("go.mod", content)])
}

/// `h1:` hash of a module's zip file. Fails when it is no readable zip.
pub fn hash_zip(zip: &[u8]) -> Result<String> {
    let mut archive = ZipArchive::new(Cursor::new(zip)).context("read zip directory")?;
    let mut digests = Vec::with_capacity(archive.len());
    let mut chunk = vec![0; 64 << 10];
    for index in 0..archive.len() {
        let mut file = archive.by_index(index).context("open file in zip")?;
        let mut context = digest::Context::new(&SHA256);
        loop {
            match file.read(&mut chunk).context("read file in zip")? {
                0 => break,
                read => context.update(&chunk[..read]),
            }
        }
        digests.push((file.name()?.to_string(), context.finish()));
    }
    Ok(sum(digests))
}

fn sum(mut digests: Vec<(String, digest::Digest)>) -> String {
    digests.sort_by(|a, b| a.0.cmp(&b.0));
    let mut context = digest::Context::new(&SHA256);
    for (name, digest) in digests {
        for byte in digest.as_ref() {
            context.update(format!("{byte:02x}").as_bytes());
        }
        context.update(format!("  {name}\n").as_bytes());
    }
    format!("h1:{}", STANDARD.encode(context.finish()))
}

#[cfg(test)]
mod tests {
    use super::{hash_go_mod, hash1};

    #[test]
    fn order_does_not_matter() {
        // The sum is what the definition gives with sha256sum: of the two files, then of their two lines.
        let files = [("xyz", b"data for xyz".as_slice()), ("abc", b"data for abc")];
        let reversed = [("abc", b"data for abc".as_slice()), ("xyz", b"data for xyz")];
        assert_eq!(hash1(files), hash1(reversed));
        assert_eq!(hash1(files), "h1:EP6WfDoQTSk9klnxcjriWJOGztueJUywHNmWeq+efB8=");
    }

    #[test]
    fn go_mod_hash_of_a_published_module() {
        // rsc.io/quote v1.5.2/go.mod as sum.golang.org has it.
        let go_mod = b"module \"rsc.io/quote\"\n\nrequire \"rsc.io/sampler\" v1.3.0\n";
        assert_eq!(hash_go_mod(go_mod), "h1:LzX7hefJvL54yjefDEDHNONDjII0t9xZLPXsUe+TKr0=");
    }
}
