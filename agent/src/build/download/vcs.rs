//! Version control children that modules wait for.

use super::{
    super::{cache_path::ModuleVersion, types::ErrorType},
    Download,
    attempt::{Attempt, Outcome, Subject},
};
use crate::ring::event::Task;

impl Download {
    /// A version control child was started. Gives its attempt, if a module waits for it.
    pub fn vcs_started(&mut self, at_ns: u64, parent: Task, program: &str) -> Option<usize> {
        let goroutine = (parent.pid, parent.goroutine);
        let module = match self.current.get(&goroutine) {
            Some(&waiting) => {
                self.attempts[waiting].by_vcs = true;
                self.attempts[waiting].subject.module().cloned()
            }
            // A question about versions looks for no file first.
            None => {
                let path = self.asking_repository(goroutine)?.to_owned();
                Some(ModuleVersion { path, version: String::new() })
            }
        };
        let index = self.attempts.len();
        self.attempts.push(Attempt::new(Subject::Vcs(module, program.to_owned()), parent.pid, parent.goroutine, at_ns));
        Some(index)
    }

    /// A version control child, or one that it started, runs with these arguments: a URL names the server, and git's own
    /// configuration may have made it another one than the go command's.
    pub fn vcs_runs(&mut self, index: usize, arguments: &[String]) {
        // `git-remote-https NAME URL`, where the URL that was asked for stands for a name that there is none.
        let host = arguments.iter().rev().find_map(|argument| remote_host(argument));
        let attempt = &mut self.attempts[index];
        attempt.asks_server |= match command(arguments) {
            "ls-remote" | "fetch" | "clone" => true,
            // They write a URL down and ask nobody.
            "remote" | "config" => false,
            _ => host.is_some(),
        };
        if host.is_some() {
            attempt.host = host;
        }
    }

    /// Data moves through a version control child, or one that it started, or one of them computes.
    pub fn vcs_works(&mut self, at_ns: u64, index: usize) {
        self.attempts[index].progress_ns = at_ns;
    }

    /// A version control child ended.
    pub fn vcs_ended(&mut self, at_ns: u64, index: usize, success: bool) {
        if success {
            self.attempts[index].finish(at_ns, Outcome::Done);
        } else {
            self.attempts[index].fail(at_ns, ErrorType::Vcs, None);
        }
    }
}

/// Which of git's commands; something else of others.
fn command(arguments: &[String]) -> &str {
    let mut words = arguments.iter().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "-c" | "-C" => drop(words.next()),
            flag if flag.starts_with('-') => {}
            command => return command,
        }
    }
    ""
}

/// The server that a URL of a repository names, `name[:port]`.
fn remote_host(argument: &str) -> Option<String> {
    let (scheme, rest) = argument.split_once("://")?;
    let remote = matches!(
        scheme,
        "https" | "http" | "git" | "ssh" | "git+ssh" | "svn" | "svn+ssh" | "bzr" | "bzr+ssh" | "ftp" | "ftps"
    );
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    (remote && !host.is_empty()).then(|| host.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_that_is_written_down_is_no_question() {
        for (line, asks) in [
            ("git -c core.x=1 remote add origin -- https://git.test/remote", false),
            ("git -c log.showsignature=false ls-remote -q origin", true),
            ("git-remote-https origin https://git.test/a", true),
            ("git cat-file blob remote", false),
        ] {
            let mut download = Download::default();
            download.attempts.push(Attempt::new(Subject::Vcs(None, "git".to_owned()), 1, 1, 0));
            download.vcs_runs(0, &line.split(' ').map(str::to_owned).collect::<Vec<_>>());
            assert_eq!(download.attempts[0].asks_server, asks, "{line}");
        }
    }

    #[test]
    fn urls_of_repositories_name_their_server() {
        assert_eq!(remote_host("https://u:p@git.test:8443/a/b.git").as_deref(), Some("git.test:8443"));
        assert_eq!(remote_host("git+ssh://git@git.test/a").as_deref(), Some("git.test"));
        for argument in ["origin", "refs/tags/v1.0.0", "file:///srv/a", "https:///a", "core.x=https://git.test"] {
            assert_eq!(remote_host(argument), None, "{argument}");
        }
    }
}
