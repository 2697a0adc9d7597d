//! The log: open records, filled in while an answer goes out, and the file of finished ones.

use std::{
    collections::BTreeMap,
    fs::File,
    io::Write,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::record::{ConnectionRecord, RequestRecord, State};
use crate::clock::Stamp;

/// How long a reader waits for answers whose last byte was handed over but not seen to leave. A client that has read the
/// whole body may look at the log before the server has stamped it.
const SETTLE: Duration = Duration::from_millis(500);

#[derive(Debug, Default)]
pub(super) struct Log {
    state: Mutex<LogState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct LogState {
    requests: BTreeMap<u64, RequestRecord>,
    connections: BTreeMap<u64, ConnectionRecord>,
    last_request: u64,
    last_connection: u64,
    handed_over: u64,
    file: Option<File>,
}

impl Log {
    pub(super) fn new(file: Option<File>) -> Arc<Self> {
        let state = LogState { file, ..LogState::default() };
        Arc::new(Self { state: Mutex::new(state), changed: Condvar::new() })
    }

    pub(super) fn requests(&self) -> Vec<RequestRecord> {
        self.settle().requests.values().cloned().collect()
    }

    pub(super) fn connections(&self) -> Vec<ConnectionRecord> {
        self.settle().connections.values().cloned().collect()
    }

    /// The connections once they are all closed; `None` when one still is open after `timeout`.
    pub(super) fn closed_connections(&self, timeout: Duration) -> Option<Vec<ConnectionRecord>> {
        let deadline = Instant::now() + timeout;
        let mut state = self.lock();
        loop {
            if state.connections.values().all(|record| record.closed.is_some()) {
                return Some(state.connections.values().cloned().collect());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    pub(super) fn close_connection(&self, id: u64, closed: Stamp) {
        self.connection(id, |record| record.closed = Some(closed));
        self.changed.notify_all();
    }

    /// Forgets finished requests and closed connections; numbers go on.
    pub(super) fn clear(&self) {
        let mut state = self.settle();
        state.requests.retain(|_, record| is_open(record.state));
        state.connections.retain(|_, record| record.closed.is_none());
    }

    pub(super) fn open_connection(&self, record: impl FnOnce(u64) -> ConnectionRecord) -> u64 {
        let mut state = self.lock();
        state.last_connection += 1;
        let id = state.last_connection;
        state.connections.insert(id, record(id));
        id
    }

    pub(super) fn connection(&self, id: u64, change: impl FnOnce(&mut ConnectionRecord)) {
        if let Some(record) = self.lock().connections.get_mut(&id) {
            change(record);
        }
    }

    /// Opens a record; `record` gets its number and the connection's record.
    pub(super) fn open_request(
        self: &Arc<Self>,
        connection: u64,
        record: impl FnOnce(u64, &mut ConnectionRecord) -> RequestRecord,
    ) -> Option<Ticket> {
        let mut state = self.lock();
        let id = state.last_request + 1;
        let record = record(id, state.connections.get_mut(&connection)?);
        state.last_request = id;
        state.requests.insert(id, record);
        drop(state);
        Some(Ticket { log: Arc::clone(self), id })
    }

    fn settle(&self) -> MutexGuard<'_, LogState> {
        let deadline = Instant::now() + SETTLE;
        let mut state = self.lock();
        while state.handed_over > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state
    }

    fn lock(&self) -> MutexGuard<'_, LogState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to fill in one record. Whoever still has to do with the answer holds a share of it; when the last one goes,
/// the record is final: it goes to the file, as aborted unless it came to an end of its own.
#[derive(Debug)]
pub(super) struct Ticket {
    log: Arc<Log>,
    id: u64,
}

impl Ticket {
    pub(super) fn change(&self, change: impl FnOnce(&mut RequestRecord)) {
        if let Some(record) = self.log.lock().requests.get_mut(&self.id) {
            change(record);
        }
    }

    /// The last byte was given to the connection: readers wait for [`Ticket::arrived`].
    pub(super) fn hand_over(&self) {
        self.log.lock().handed_over += 1;
    }

    /// The kernel took the last byte, or never will.
    pub(super) fn arrived(&self) {
        let mut state = self.log.lock();
        state.handed_over = state.handed_over.saturating_sub(1);
        self.log.changed.notify_all();
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut state = self.log.lock();
        let LogState { requests, file, .. } = &mut *state;
        let Some(record) = requests.get_mut(&self.id) else {
            return;
        };
        if is_open(record.state) {
            record.state = State::Aborted;
        }
        if let Some(file) = file
            && let Ok(mut line) = serde_json::to_vec(record)
        {
            line.push(b'\n');
            if let Err(error) = file.write_all(&line) {
                eprintln!("testkit: request log: {error}");
            }
        }
    }
}

fn is_open(state: State) -> bool {
    match state {
        State::Waiting | State::Stalled | State::Answering => true,
        State::Complete | State::Cut | State::Aborted => false,
    }
}
