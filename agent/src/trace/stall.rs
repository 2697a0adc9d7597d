//! When to say that something hangs: after `--stall-after`, at 30 s, at 60 s, then each minute.

use std::{collections::HashMap, time::Duration};

use crate::{
    build::{Stage, Waiting},
    units, words,
};

/// Remembers what was said.
#[derive(Debug)]
pub struct Stalls {
    after_ns: u64,
    /// Wait → age at which to speak next.
    next_ns: HashMap<String, u64>,
}

const STEPS_NS: [u64; 2] = [30_000_000_000, 60_000_000_000];

impl Stalls {
    /// First word after `after` without progress.
    pub fn new(after: Duration) -> Self {
        Self { after_ns: u64::try_from(after.as_nanos()).unwrap_or(u64::MAX).max(1), next_ns: HashMap::new() }
    }

    /// Waits that are due to be named at `now_ns`, with the time since their last progress.
    pub fn due<'a>(&mut self, waiting: &'a [Waiting], now_ns: u64) -> Vec<(&'a Waiting, u64)> {
        self.next_ns.retain(|key, _| waiting.iter().any(|wait| wait.key == *key));
        let mut due = Vec::new();
        for wait in waiting {
            let age_ns = now_ns.saturating_sub(wait.progress_ns);
            if age_ns < self.after_ns {
                // It moved: the next standstill is a new one.
                self.next_ns.remove(&wait.key);
                continue;
            }
            let next_ns = self.next_ns.entry(wait.key.clone()).or_insert(self.after_ns);
            if age_ns >= *next_ns {
                *next_ns = following(age_ns);
                due.push((wait, age_ns));
            }
        }
        due
    }
}

/// The step after an age.
fn following(age_ns: u64) -> u64 {
    const MINUTE_NS: u64 = 60_000_000_000;
    STEPS_NS.into_iter().find(|&step| step > age_ns).unwrap_or((age_ns / MINUTE_NS + 1) * MINUTE_NS)
}

/// `0:34 stalled 21 s: k8s.io/api v0.31.2 zip, proxy.corp.example, no first byte`.
pub fn line(wait: &Waiting, elapsed_ns: u64, age_ns: u64) -> String {
    let mut what = printable(&wait.subject);
    if let Some(kind) = wait.kind {
        what.push(' ');
        what.push_str(words::fetch_kind(kind));
    }
    if let Some(host) = &wait.host {
        what.push_str(", ");
        what.push_str(&printable(host));
    }
    let stage = match wait.stage {
        Stage::Queue => "request not sent",
        Stage::Dns => "no answer to the DNS query",
        Stage::Connect => "no answer to the TCP connect",
        Stage::Tls => "TLS handshake not complete",
        Stage::Ttfb => "no first byte",
        Stage::Transfer => "body stands still",
        Stage::Verify => "checksum check",
        Stage::Vcs => "version control command running",
        Stage::Unzip => "unpacking",
        Stage::Lock => "waits for another process's lock",
        Stage::Unattributed => "no progress",
    };
    let age_s = age_ns / 1_000_000_000;
    let age = if age_s < 60 { format!("{age_s} s") } else { units::duration(age_s * 1_000_000_000) };
    format!("{} stalled {age}: {what}, {stage}", units::clock(elapsed_ns))
}

fn printable(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { '\u{fffd}' } else { letter }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::FetchKind;

    const SECOND: u64 = 1_000_000_000;

    fn wait(progress_ns: u64) -> Waiting {
        Waiting {
            build: "b".to_owned(),
            key: "k".to_owned(),
            subject: "k8s.io/api v0.31.2".to_owned(),
            kind: Some(FetchKind::Zip),
            host: Some("proxy.corp.example".to_owned()),
            stage: Stage::Ttfb,
            since_ns: 0,
            progress_ns,
        }
    }

    #[test]
    fn speaks_at_ten_thirty_sixty_seconds_then_each_minute() {
        let mut stalls = Stalls::new(Duration::from_secs(10));
        let waiting = [wait(0)];
        let spoken: Vec<u64> = (0..=200).filter(|second| !stalls.due(&waiting, second * SECOND).is_empty()).collect();
        assert_eq!(spoken, [10, 30, 60, 120, 180]);
    }

    #[test]
    fn progress_starts_again() {
        let mut stalls = Stalls::new(Duration::from_secs(10));
        assert_eq!(stalls.due(&[wait(0)], 12 * SECOND).len(), 1);
        assert!(stalls.due(&[wait(11 * SECOND)], 13 * SECOND).is_empty());
        assert_eq!(stalls.due(&[wait(11 * SECOND)], 21 * SECOND).len(), 1);
    }

    #[test]
    fn the_line_names_module_host_and_stage() {
        assert_eq!(
            line(&wait(0), 34 * SECOND, 21 * SECOND),
            "0:34 stalled 21 s: k8s.io/api v0.31.2 zip, proxy.corp.example, no first byte"
        );
    }
}
