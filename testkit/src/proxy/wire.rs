//! Two layers around a socket: one below TLS that counts bytes, one above it that knows when the kernel has taken what
//! was written.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::Notify,
};

use super::{log::Ticket, record::State, rule::ConnectionEnd};
use crate::clock::Stamp;

/// What the layers of one connection, and the answers on it, share.
#[derive(Debug, Default)]
pub(crate) struct Wire {
    pub received: AtomicU64,
    pub sent: AtomicU64,
    /// Set before the socket is dropped: it ends with RST.
    reset: AtomicBool,
    /// Tells the connection's task to break off.
    pub broken: Notify,
    marks: Mutex<Vec<Mark>>,
}

/// Something to note when all that was written so far has reached the kernel.
#[derive(Debug)]
pub(super) enum Mark {
    Headers(Arc<Ticket>),
    LastByte(LastByte),
    Cut(LastByte),
}

/// The last byte of an answer, given to the connection and not yet seen to leave.
#[derive(Debug)]
pub(super) struct LastByte(Arc<Ticket>);

impl LastByte {
    pub(super) fn new(ticket: Arc<Ticket>) -> Self {
        ticket.hand_over();
        Self(ticket)
    }
}

impl Drop for LastByte {
    fn drop(&mut self) {
        self.0.arrived();
    }
}

impl Wire {
    pub(super) fn mark(&self, mark: Mark) {
        self.marks().push(mark);
    }

    fn flushed(&self) {
        let marks = std::mem::take(&mut *self.marks());
        if marks.is_empty() {
            return;
        }
        let now = Stamp::now();
        for mark in marks {
            match mark {
                Mark::Headers(ticket) => ticket.change(|record| record.headers_sent = Some(now)),
                Mark::LastByte(last) => last.0.change(|record| {
                    record.body_sent = Some(now);
                    record.state = State::Complete;
                }),
                Mark::Cut(last) => last.0.change(|record| {
                    record.body_sent = Some(now);
                    record.state = State::Cut;
                }),
            }
        }
    }

    /// Makes the connection's task drop it.
    pub(super) fn break_off(&self, end: ConnectionEnd) {
        if end == ConnectionEnd::Reset {
            self.reset.store(true, Ordering::Relaxed);
        }
        self.broken.notify_one();
    }

    fn marks(&self) -> MutexGuard<'_, Vec<Mark>> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The layer below TLS.
#[derive(Debug)]
pub(crate) struct Counted {
    socket: TcpStream,
    wire: Arc<Wire>,
}

impl Counted {
    pub(crate) fn new(socket: TcpStream, wire: Arc<Wire>) -> Self {
        Self { socket, wire }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if self.wire.reset.load(Ordering::Relaxed) {
            // Where this fails the connection ends with FIN instead: the client still sees it broken off.
            let _ = self.socket.set_zero_linger();
        }
    }
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.socket).poll_read(cx, buf))?;
        let read = buf.filled().len() - before;
        self.wire.received.fetch_add(read as u64, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.socket).poll_write(cx, buf))?;
        self.wire.sent.fetch_add(written as u64, Ordering::Relaxed);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.socket).poll_write_vectored(cx, bufs))?;
        self.wire.sent.fetch_add(written as u64, Ordering::Relaxed);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

/// The layer above TLS. hyper flushes after it has written all that it has, and rustls' flush ends when the kernel has
/// taken the last record: then the marks are due.
#[derive(Debug)]
pub(super) struct Flushed<S> {
    stream: S,
    wire: Arc<Wire>,
}

impl<S> Flushed<S> {
    pub(super) fn new(stream: S, wire: Arc<Wire>) -> Self {
        Self { stream, wire }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Flushed<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Flushed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.wire.flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
