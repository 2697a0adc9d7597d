//! What connections tell of downloads: which attempt sent its request, and what answered it.

use std::collections::HashMap;

use super::{
    super::{
        network::{ConnectionIndex, Network},
        types::FollowsBecause,
    },
    Download,
    attempt::Attempt,
    call::AnsweredHop,
    error::status_error,
    names, rows,
};
use crate::ring::{
    call::RequestUrl,
    event::{Content, SocketEvent, Task},
};

/// A TLS record with an alert (close_notify), which TLS 1.3 sends as application data: header, explicit nonce of TLS 1.2,
/// alert, tag. No request is as short.
const LONGEST_ALERT_BYTES: u64 = 5 + 8 + 3 + 16;

/// A write is told when it returns, and its thread may be held up within it: longest time by which its answer was read
/// before.
const LATE_WRITE_NS: u64 = 1_000_000_000;

/// Longest time from the look that finds a file missing to its request on a connection that is open.
const LOOK_TO_REQUEST_NS: u64 = 250_000_000;

impl Download {
    /// A connection is dialled, or it has turned out who wanted it.
    pub fn dialled(&mut self, connection: ConnectionIndex, network: &mut Network) {
        let requester = network.connection(connection).requester();
        let waiting = self.requesting(requester).or_else(|| self.current.get(&requester).copied());
        let waiting = waiting
            .map(|index| &self.attempts[index])
            .filter(|attempt| requester.1 != 0 && attempt.asked_ns <= network.connection(connection).start_ns());
        if let Some(attempt) = waiting {
            let url = attempt.hops.last().map(|hop| &hop.url).or(attempt.url.as_ref());
            network.opened_for(connection, attempt.subject.module_path(), url.map(RequestUrl::host_name));
        }
    }

    /// Payload moved on a connection.
    pub fn socket(
        &mut self,
        at_ns: u64,
        task: Task,
        event: &SocketEvent,
        connection: ConnectionIndex,
        network: &mut Network,
    ) {
        if network.shows_requester(connection, task) {
            self.dialled(connection, network);
        }
        match &event.content {
            Content::HttpRequest { path, host, .. } if event.write => {
                self.exchanges.remove(&connection);
                let sent = self.attempts.iter().rposition(|attempt| {
                    let hop = attempt.hops.last();
                    attempt.open()
                        && attempt.pid == task.pid
                        // Not the one after it: this write is told late, its answer was there before.
                        && !self.failure_is_known(attempt)
                        && hop.map_or_else(
                            || attempt.sent_ns.is_none() && names(path, &attempt.subject),
                            |hop| hop.sent_ns.is_none() && hop.asks_for(path, host.as_deref()),
                        )
                });
                let early = self.early_responses.remove(&connection);
                if let Some(index) = sent {
                    let attempt = &mut self.attempts[index];
                    if attempt.url.is_none() {
                        attempt.host.clone_from(host);
                    }
                    let asked = attempt.asked_ns.max(at_ns.saturating_sub(LATE_WRITE_NS));
                    self.left(at_ns, index, connection, network);
                    self.plain.insert(connection, index);
                    if let Some((response_ns, status)) = early.filter(|(response_ns, _)| *response_ns >= asked) {
                        self.plain.remove(&connection);
                        self.response(response_ns, index, status);
                    }
                }
            }
            Content::HttpResponse { status, .. } if !event.write => match self.plain.remove(&connection) {
                Some(index) => self.response(at_ns, index, *status),
                None => drop(self.early_responses.insert(connection, (at_ns, *status))),
            },
            // It is closed, perhaps by the goroutine that dialled it and before it carried anything.
            Content::TlsData | Content::Opaque if event.write && u64::from(event.bytes) <= LONGEST_ALERT_BYTES => {}
            Content::TlsData | Content::Opaque if event.write && self.exchanges.contains_key(&connection) => {
                // Over HTTP/1 a goroutine of the connection writes all its requests.
                if let Some(given) = self.exchanges.remove(&connection) {
                    self.left(at_ns, given.attempt, connection, network);
                }
            }
            // What else moves there is the rest of an answer, or a close.
            Content::TlsData | Content::Opaque if self.one_at_a_time.contains(&connection) => {}
            Content::TlsData | Content::Opaque if event.write => {
                // Over HTTP/2 each request is written by a goroutine of its own, which the requester started
                // (net/http, `(*http2ClientConn).RoundTrip`).
                // A requester itself writes only that it has read (`transportResponseBody.Read`).
                let requester = self.works((task.pid, task.goroutine));
                if event.first_by_goroutine && !requester && network.connection(connection).carries_requests() {
                    self.request_sent(at_ns, task.pid, task.parent_goroutine, connection, network);
                }
            }
            Content::TlsData | Content::Opaque => {
                // Over HTTP/1 the requester reads the body itself; the last write before it was its request.
                let written_ns = network.connection(connection).last_write_ns();
                let goroutine = (task.pid, task.goroutine);
                let own = self.requesting_or_reading(goroutine).or_else(|| self.current.get(&goroutine).copied());
                if task.goroutine != 0
                    && let Some(index) = own
                    && self.attempts[index].sent_ns.is_none()
                    && written_ns >= self.attempts[index].asked_ns
                {
                    self.request_sent(written_ns, task.pid, task.goroutine, connection, network);
                }
            }
            Content::HttpRequest { .. }
            | Content::HttpResponse { .. }
            | Content::ClientHello { .. }
            | Content::ServerHello { .. }
            | Content::TlsChangeCipher
            | Content::TlsAlert
            | Content::TlsHandshake
            | Content::Dns(_) => {}
        }
    }

    fn request_sent(
        &mut self,
        at_ns: u64,
        pid: u32,
        requester: u64,
        connection: ConnectionIndex,
        network: &mut Network,
    ) {
        if requester == 0 {
            return;
        }
        let key = (pid, requester);
        if let Some(given) = self.take_answered(key, at_ns) {
            let attempt = &mut self.attempts[given.attempt];
            attempt.sent_late(at_ns, given.hop, connection);
            network.carried(connection, attempt.subject.module_path());
            return;
        }
        let open = |index: &&usize| self.attempts[**index].open();
        let index = self
            .requesting_or_reading(key)
            .or_else(|| self.current_sumdb.get(&key).filter(open).copied())
            .or_else(|| self.current.get(&key).filter(open).copied());
        // It is on its way on another connection, whose writer was seen to get it.
        let given = |index: &usize| self.exchanges.values().any(|given| given.attempt == *index);
        match index.filter(|index| !given(index)) {
            Some(index) => self.left(at_ns, index, connection, network),
            None => network.carried(connection, None),
        }
    }

    /// A goroutine has something to fetch.
    fn works(&self, goroutine: (u32, u64)) -> bool {
        self.requesting_or_reading(goroutine).is_some()
            || self.current.contains_key(&goroutine)
            || self.current_sumdb.contains_key(&goroutine)
    }

    /// The oldest request of a goroutine that was answered and not seen to leave.
    fn take_answered(&mut self, goroutine: (u32, u64), now_ns: u64) -> Option<AnsweredHop> {
        let answered = self.answered.get_mut(&goroutine)?;
        answered.retain(|hop| now_ns.saturating_sub(hop.end_ns) < LATE_WRITE_NS);
        let oldest = (!answered.is_empty()).then(|| answered.remove(0));
        if answered.is_empty() {
            self.answered.remove(&goroutine);
        }
        oldest
    }

    /// The request of an attempt left on a connection.
    pub(super) fn left(&mut self, at_ns: u64, index: usize, connection: ConnectionIndex, network: &mut Network) {
        let attempt = &mut self.attempts[index];
        attempt.sent(at_ns, connection);
        network.carried(connection, attempt.subject.module_path());
    }

    fn response(&mut self, at_ns: u64, index: usize, status: u16) {
        let attempt = &mut self.attempts[index];
        attempt.progress_ns = at_ns;
        // Where the function that asked is seen, its return says more.
        if attempt.url.is_some() {
            return;
        }
        attempt.status = Some(status);
        attempt.first_byte_ns.get_or_insert(at_ns);
        if status < 400 {
            return;
        }
        attempt.fail(at_ns, status_error(status), None);
        // A zip's next attempt begins when its file is emptied.
        if !attempt.file_opened {
            let mut next = Attempt::new(attempt.subject.clone(), attempt.pid, attempt.goroutine, at_ns);
            next.follows = Some((index, FollowsBecause::Fallthrough));
            let index = self.attempts.len();
            self.by_subject.insert((next.pid, next.subject.clone()), index);
            if next.goroutine != 0 {
                self.current.insert((next.pid, next.goroutine), index);
            }
            self.attempts.push(next);
        }
    }

    /// Attempts whose request left on an HTTP/1 connection under TLS and was not answered. There all requests of a
    /// connection are written by one goroutine that no requester started (net/http, `persistConn.writeLoop`), and the
    /// requester shows itself only when it reads the body. Until then: the connection carries one request at a time, and
    /// the request follows the look that found the file missing. Nothing is said where two would fit one.
    pub(super) fn unanswered(&self, network: &Network) -> HashMap<usize, (u64, ConnectionIndex)> {
        let mut placed: HashMap<usize, (u64, ConnectionIndex)> = HashMap::new();
        let silent = |attempt: &Attempt| {
            attempt.open()
                && !attempt.by_vcs
                && attempt.sent_ns.is_none()
                && (!attempt.file_opened || attempt.url.is_some())
                && attempt.goroutine != 0
        };
        for (connection, pid, written_ns) in network.unanswered() {
            let own = |attempt: &Attempt| rows::dialled_connection(attempt, network) == Some(connection);
            let fits = |attempt: &Attempt| {
                let asked = attempt.asked_ns..attempt.asked_ns.saturating_add(LOOK_TO_REQUEST_NS);
                silent(attempt) && attempt.pid == pid && (asked.contains(&written_ns) || own(attempt))
            };
            let mut fitting = self.attempts.iter().enumerate().filter(|(_, attempt)| fits(attempt));
            if let (Some((index, _)), None) = (fitting.next(), fitting.next()) {
                placed.insert(index, (written_ns, connection));
            }
        }
        placed
    }
}
