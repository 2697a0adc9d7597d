//! What the go command itself says of failures.

use super::{
    super::{cache_path::ModuleVersion, types::ErrorType},
    Download,
    attempt::{Attempt, Outcome, Subject},
    error::{classify, of_the_network},
    names,
};

impl Download {
    /// The go command said something; errors name their module and reason.
    pub fn stderr(&mut self, at_ns: u64, pid: u32, text: &str) {
        for line in text.lines() {
            let Some(kind) = classify(line) else { continue };
            let named: Vec<_> = self
                .attempts
                .iter()
                .filter(|attempt| attempt.pid == pid)
                .filter_map(|attempt| attempt.subject.module())
                .filter(|module| line.contains(&format!("{}@{}", module.path, module.version)))
                .cloned()
                .collect();
            for module in named {
                let of_module =
                    |attempt: &&mut Attempt| attempt.pid == pid && attempt.subject.module() == Some(&module);
                for attempt in self.attempts.iter_mut().filter(of_module) {
                    let evident = attempt.evident();
                    match &mut attempt.error {
                        Some((known, text)) => {
                            if *known == ErrorType::Other {
                                *known = kind;
                            }
                            *text = Some(line.trim().to_owned());
                        }
                        None if evident => attempt.fail(at_ns, kind, Some(line.trim().to_owned())),
                        None => {}
                    }
                }
                self.failed_unseen(at_ns, pid, &module, kind, line);
                self.modules.entry(module).or_default().error = Some((kind, line.trim().to_owned()));
            }
        }
    }

    /// A network failure that the go command names is an attempt, although no connection showed it: the name was not
    /// found, or another goroutine dialled.
    fn failed_unseen(&mut self, at_ns: u64, pid: u32, module: &ModuleVersion, kind: ErrorType, line: &str) {
        if !of_the_network(kind) {
            return;
        }
        let own = |attempt: &&mut Attempt| {
            attempt.pid == pid
                && attempt.subject.module() == Some(module)
                && matches!(attempt.subject, Subject::Module(..))
        };
        if self.attempts.iter_mut().filter(own).any(|attempt| attempt.error.is_some()) {
            return;
        }
        // The message quotes the URL: `Get "https://…/%21mod/@v/v1.0.0.mod": dial tcp: …`.
        let urls: Vec<_> =
            line.split('"').map(|part| percent_encoding::percent_decode_str(part).decode_utf8_lossy()).collect();
        let unseen = self.attempts.iter_mut().rev().filter(own).find(|attempt| {
            let ended = attempt.end.is_none_or(|(_, outcome)| outcome == Outcome::Dissolved);
            ended && urls.iter().any(|url| names(url, &attempt.subject))
        });
        if let Some(attempt) = unseen {
            let end_ns = attempt.end.map_or(at_ns, |(end_ns, _)| end_ns);
            attempt.end = Some((end_ns.max(attempt.asked_ns), Outcome::Failed));
            attempt.error = Some((kind, Some(line.trim().to_owned())));
        }
    }
}
