//! The body of an answer: at its rate, up to its cut.

use std::{
    io,
    num::NonZeroU64,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use super::{
    log::Ticket,
    rule::{ConnectionEnd, Cut, End},
    wire::{LastByte, Mark, Wire},
};
use crate::clock::nanoseconds;

const CHUNK_BYTES: u64 = 16 << 10;

/// Paced chunks leave at most this often.
const CHUNKS_PER_S: u64 = 50;

/// From the last byte before a cut to the cut: what was written is on its way by then. An h2 stream that is reset at once
/// takes the frames with it that still wait in its queue.
const BEFORE_CUT: Duration = Duration::from_millis(5);

#[derive(Debug)]
pub(super) struct AnswerBody {
    left: Bytes,
    sent: u64,
    pace: Option<Pace>,
    cut: Option<Cut>,
    cutting: Option<Pin<Box<Sleep>>>,
    wire: Arc<Wire>,
    ticket: Arc<Ticket>,
}

#[derive(Debug)]
struct Pace {
    bytes_per_s: NonZeroU64,
    start: Option<Instant>,
    wait: Option<Pin<Box<Sleep>>>,
}

impl AnswerBody {
    /// A body of `content`, whose record is `ticket`.
    pub(super) fn new(
        content: Bytes,
        rate: Option<NonZeroU64>,
        cut: Option<Cut>,
        wire: Arc<Wire>,
        ticket: Arc<Ticket>,
    ) -> Self {
        let length = content.len() as u64;
        let body = Self {
            left: content,
            sent: 0,
            pace: rate.map(|bytes_per_s| Pace { bytes_per_s, start: None, wait: None }),
            cut: cut.filter(|cut| cut.after_bytes < length),
            cutting: None,
            wire,
            ticket,
        };
        body.wire.mark(Mark::Headers(Arc::clone(&body.ticket)));
        if body.left.is_empty() {
            // hyper never asks for the frames of a body that is at its end.
            body.wire.mark(Mark::LastByte(body.last_byte()));
        }
        body
    }

    fn last_byte(&self) -> LastByte {
        LastByte::new(Arc::clone(&self.ticket))
    }

    fn poll_cut(&mut self, cut: Cut, cx: &mut Context<'_>) -> Poll<io::Error> {
        if self.cutting.is_none() {
            self.wire.mark(Mark::Cut(self.last_byte()));
        }
        let cutting = self.cutting.get_or_insert_with(|| Box::pin(sleep(BEFORE_CUT)));
        ready!(cutting.as_mut().poll(cx));
        match cut.then {
            End::ResetStream => Poll::Ready(io::Error::new(io::ErrorKind::ConnectionAborted, "cut by a rule")),
            End::Close => self.break_off(ConnectionEnd::Close),
            End::Reset => self.break_off(ConnectionEnd::Reset),
        }
    }

    fn break_off(&self, end: ConnectionEnd) -> Poll<io::Error> {
        self.wire.break_off(end);
        Poll::Pending
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = &mut *self;
        let mut size = CHUNK_BYTES.min(this.left.len() as u64);
        if size == 0 {
            return Poll::Ready(None);
        }
        if let Some(cut) = this.cut {
            size = size.min(cut.after_bytes - this.sent);
            if size == 0 {
                return this.poll_cut(cut, cx).map(|error| Some(Err(error)));
            }
        }
        if let Some(pace) = &mut this.pace {
            let rate = pace.bytes_per_s.get();
            size = size.min((rate / CHUNKS_PER_S).max(1));
            let start = *pace.start.get_or_insert_with(Instant::now);
            let due = Duration::from_secs_f64((this.sent + size) as f64 / rate as f64);
            let wait = pace.wait.get_or_insert_with(|| Box::pin(sleep_until(start + due)));
            ready!(wait.as_mut().poll(cx));
            pace.wait = None;
            let held = nanoseconds(start.elapsed());
            this.ticket.change(|record| record.held.body_ns = held);
        }
        let size = usize::try_from(size).expect("at most the length of a slice");
        let chunk = this.left.split_to(size);
        this.sent += chunk.len() as u64;
        let sent = this.sent;
        this.ticket.change(|record| record.body_bytes = sent);
        if this.left.is_empty() {
            this.wire.mark(Mark::LastByte(this.last_byte()));
        }
        Poll::Ready(Some(Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left.len() as u64)
    }
}
