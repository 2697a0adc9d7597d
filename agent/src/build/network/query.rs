//! A question to a name server.

use std::net::IpAddr;

use super::super::types::{self, ErrorType};
use crate::ring::event::Task;

/// A DNS query with its retries.
#[derive(Debug)]
pub(super) struct Query {
    pub(super) pid: u32,
    pub(super) task: Task,
    pub(super) id: u16,
    pub(super) name: String,
    pub(super) record_type: String,
    pub(super) server: Option<IpAddr>,
    pub(super) start_ns: u64,
    pub(super) end_ns: Option<u64>,
    pub(super) last_sent_ns: u64,
    pub(super) attempts: u32,
    pub(super) rcode: Option<String>,
    pub(super) answers: Vec<IpAddr>,
}

impl Query {
    /// It is for this name, as it stands or in a search domain.
    pub(super) fn asks_for(&self, name: &str) -> bool {
        let asked = self.name.trim_end_matches('.');
        asked.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    }

    /// Why it gave no address.
    pub(super) fn failure(&self) -> Option<ErrorType> {
        match self.rcode.as_deref() {
            Some("NOERROR") => None,
            Some("NXDOMAIN") => Some(ErrorType::HostNotFound),
            Some(_) => Some(ErrorType::TryAgain),
            None => Some(ErrorType::TimedOut),
        }
    }

    /// Its row in the report; what was never answered ends at `end_ns`.
    pub(super) fn row(&self, build_start_ns: u64, end_ns: u64) -> types::DnsQuery {
        let error_type = self.failure();
        types::DnsQuery {
            name: self.name.clone(),
            record_type: self.record_type.clone(),
            server: self.server.map(|server| server.to_string()),
            rcode: self.rcode.clone(),
            answers: self.answers.iter().map(ToString::to_string).collect(),
            duration_ns: self.end_ns.unwrap_or(end_ns).saturating_sub(self.start_ns),
            attempts: self.attempts,
            error_type,
            error: error_type.map(|_| self.rcode.clone().unwrap_or_else(|| "no answer".to_owned())),
            start_ns: self.start_ns.saturating_sub(build_start_ns),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_server_that_is_not_known_is_absent() {
        let query = |server| Query {
            pid: 1,
            task: Task::default(),
            id: 7,
            name: "h.test.".to_owned(),
            record_type: "A".to_owned(),
            server,
            start_ns: 5,
            end_ns: None,
            last_sent_ns: 5,
            attempts: 1,
            rcode: None,
            answers: Vec::new(),
        };
        let json = |server| serde_json::to_value(query(server).row(0, 9)).unwrap();
        assert_eq!(json(None).get("server"), None);
        assert_eq!(json(Some([10, 0, 0, 53].into()))["server"], "10.0.0.53");
    }
}
