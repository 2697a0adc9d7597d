//! `git http-backend`: a request as CGI has it (RFC 3875), and the answer read back.

use std::{
    io::{Seek, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;

use super::make::command;

/// What git is told of a request.
#[derive(Debug)]
pub(crate) struct BackendRequest<'a> {
    pub method: &'a str,
    /// What follows the repository's path: `info/refs` or `git-upload-pack`.
    pub service: &'a str,
    pub query: &'a str,
    pub content_type: &'a str,
    pub content_encoding: &'a str,
    /// The `Git-Protocol` header: which version the client speaks.
    pub protocol: &'a str,
    pub body: &'a [u8],
}

/// What git answers.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BackendAnswer {
    pub status: u16,
    /// All headers but `Status`.
    pub headers: Vec<(String, String)>,
    pub body: Bytes,
}

/// Where git keeps the program. Fails when there is no git, or it came without.
pub(super) fn find() -> Result<PathBuf> {
    let output = Command::new("git").arg("--exec-path").output().context("run git")?;
    let folder = String::from_utf8(output.stdout).context("output of git --exec-path")?;
    let backend = Path::new(folder.trim_end()).join("git-http-backend");
    ensure!(backend.exists(), "git came without {}", backend.display());
    Ok(backend)
}

pub(super) fn run(backend: &Path, root: &Path, module: &str, request: &BackendRequest<'_>) -> Result<BackendAnswer> {
    let BackendRequest { method, service, query, content_type, content_encoding, protocol, body } = request;
    // A pipe would have to be filled while the answer is read.
    let mut input = tempfile::tempfile().context("make a file for a request's body")?;
    input.write_all(body).context("write a request's body")?;
    input.rewind().context("rewind a request's body")?;
    let output = command(backend, root)
        .current_dir(root)
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("PATH_INFO", format!("/{module}.git/{service}"))
        .env("REQUEST_METHOD", method)
        .env("QUERY_STRING", query)
        .env("CONTENT_TYPE", content_type)
        .env("CONTENT_LENGTH", body.len().to_string())
        .env("HTTP_CONTENT_ENCODING", content_encoding)
        .env("GIT_PROTOCOL", protocol)
        .stdin(input)
        .stderr(Stdio::piped())
        .output()
        .context("run git http-backend")?;
    parse(output.stdout.into())
        .with_context(|| format!("git http-backend: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

fn parse(output: Bytes) -> Result<BackendAnswer> {
    let mut status = 200;
    let mut headers = Vec::new();
    let mut at = 0;
    loop {
        let rest = &output[at..];
        let length = rest.iter().position(|&byte| byte == b'\n').context("an answer without the end of its headers")?;
        let line = std::str::from_utf8(&rest[..length]).context("header of an answer")?.trim_end_matches('\r');
        at += length + 1;
        match line.split_once(':') {
            None if line.is_empty() => return Ok(BackendAnswer { status, headers, body: output.slice(at..) }),
            None => anyhow::bail!("{line:?} is no header"),
            Some(("Status", value)) => {
                let code = value.trim().split(' ').next().unwrap_or_default();
                status = code.parse().with_context(|| format!("status {value:?}"))?;
            }
            Some((name, value)) => headers.push((name.to_owned(), value.trim().to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{BackendAnswer, parse};

    #[test]
    fn headers_end_at_the_empty_line() {
        let answer = parse("Status: 404 Not Found\r\nPragma: no-cache\r\n\r\na: b\r\n\r\n".into()).unwrap();
        let headers = vec![("Pragma".to_owned(), "no-cache".to_owned())];
        assert_eq!(answer, BackendAnswer { status: 404, headers, body: "a: b\r\n\r\n".into() });
        assert_eq!(parse("\r\n".into()).unwrap().status, 200);
        for wrong in ["", "a: b\r\n", "nothing\r\n\r\n", "Status: x\r\n\r\n"] {
            assert!(parse(wrong.into()).is_err(), "{wrong:?}");
        }
    }
}
