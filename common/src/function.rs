//! Calls of the go command's own functions, seen by uprobes at their entries and returns.
//!
//! What to read at such a place is data: the agent knows the functions and the layout of each Go version, the kernel
//! program follows the [`Capture`]s that it was given.

use crate::Header;

/// Bytes of text for each capture of an entry. The order is that of [`FunctionSite::captures`].
pub const TEXT_BYTES: [usize; CAPTURES] = [32, 256, 128, 512];
/// Captures of a site.
pub const CAPTURES: usize = 4;
/// Bytes of a cache action's id, captured beside the texts.
pub const ACTION_ID: usize = 32;

/// Which value a [`Capture`] starts from: argument or result registers in the order of Go's internal ABI (amd64: RAX,
/// RBX, RCX, RDI, RSI, R8, R9, R10, R11; arm64: R0…), or the stack pointer.
pub const STACK_POINTER: u8 = 9;

/// What a [`Capture`] takes. The discriminants are the wire format.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CaptureKind {
    /// Nothing.
    None = 0,
    /// A string whose pointer is in the register and whose length is in the next one.
    StringInRegisters = 1,
    /// A string header (pointer, length) in memory.
    StringInMemory = 2,
    /// The word itself.
    Word = 3,
    /// [`ACTION_ID`] bytes in memory.
    Id = 4,
}

wire! {
    /// One thing to read. The value starts as the register; for each of `steps` it becomes the word at
    /// `value + offsets[step]`; what is taken lies at `value + offsets[steps]` ([`CaptureKind::Word`]: is the value).
    pub struct Capture : 12 {
        /// Index of the register, or [`STACK_POINTER`].
        pub register: u8,
        /// A [`CaptureKind`] as `u8`.
        pub kind: u8,
        /// Pointers to follow, at most 2.
        pub steps: u8,
        /// Zero.
        pub _pad: u8,
        /// Byte offsets.
        pub offsets: [u16; 3],
        /// Zero.
        pub _pad2: u16,
    }
}

impl Capture {
    /// Takes nothing.
    pub const NONE: Self = Self { register: 0, kind: 0, steps: 0, _pad: 0, offsets: [0; 3], _pad2: 0 };
}

/// Functions that are watched. The discriminants are the wire format.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Function {
    /// `cmd/go/internal/trace.StartSpan`.
    StartSpan = 1,
    /// `cmd/go/internal/trace.(*Span).Done`.
    SpanDone = 2,
    /// `cmd/go/internal/web.get`.
    WebGet = 3,
    /// `net/http.(*Transport).roundTrip`: one request of a `web.get`.
    RoundTrip = 4,
    /// `cmd/go/internal/modfetch.(*proxyRepo).Versions`.
    ProxyVersions = 5,
    /// `cmd/go/internal/modfetch.(*proxyRepo).Latest`.
    ProxyLatest = 6,
    /// `cmd/go/internal/modfetch.(*proxyRepo).Stat`.
    ProxyStat = 7,
    /// `cmd/go/internal/modfetch.(*proxyRepo).GoMod`.
    ProxyGoMod = 8,
    /// `cmd/go/internal/modfetch.(*proxyRepo).Zip`.
    ProxyZip = 9,
    /// `cmd/go/internal/work.(*Builder).useCache`.
    UseCache = 10,
    /// `os/exec.(*Cmd).Run`.
    CommandRun = 11,
    /// `net/http.(*Transport).dialConn`: opens a connection, its TLS handshake included.
    DialConnection = 12,
    /// `net/http.(*persistConn).roundTrip`: one request on a connection of HTTP/1.
    Exchange = 13,
    /// `cmd/go/internal/modfetch.(*codeRepo).Versions`.
    RepositoryVersions = 14,
    /// `cmd/go/internal/modfetch.(*codeRepo).Latest`.
    RepositoryLatest = 15,
    /// `cmd/go/internal/modfetch.lookupDirect`: finds the repository of a module, and prepares a copy of it.
    RepositoryLookup = 16,
}

wire! {
    /// What is known of a place that a uprobe is attached at: value of the array `SITES`, whose index is the attach
    /// cookie.
    pub struct FunctionSite : 56 {
        /// A [`Function`] as `u8`.
        pub function: u8,
        /// 1: a return, 0: the entry.
        pub returns: u8,
        /// 1: an entry with texts beyond the second.
        pub large: u8,
        /// Zero.
        pub _pad: [u8; 5],
        /// What to read.
        pub captures: [Capture; CAPTURES],
    }
}

/// Number of [`FunctionSite`]s that can be told apart.
pub const FUNCTION_SITES: u32 = 512;

wire! {
    /// Fixed part of a call record: a return has no more.
    pub struct FunctionCall : 80 {
        /// Who; a goroutine always, or the record is not written.
        pub header: Header,
        /// A [`Function`] as `u8`.
        pub function: u8,
        /// 1: a return.
        pub returns: u8,
        /// Bit of each capture that could not be read.
        pub unread: u8,
        /// Bit of each text that was cut.
        pub cut: u8,
        /// Bytes of each text.
        pub lengths: [u16; CAPTURES],
        /// Zero.
        pub _pad: u32,
        /// Captured words: the first two captures.
        pub words: [u64; 2],
    }
}

wire! {
    /// An entry whose texts are the first two.
    pub struct FunctionEntrySmall : 400 {
        /// Fixed part.
        pub call: FunctionCall,
        /// Captured id.
        pub id: [u8; ACTION_ID],
        /// First text.
        pub text0: [u8; TEXT_BYTES[0]],
        /// Second text.
        pub text1: [u8; TEXT_BYTES[1]],
    }
}

wire! {
    /// An entry with all four texts.
    pub struct FunctionEntryLarge : 1008 {
        /// Fixed part.
        pub call: FunctionCall,
        /// First text.
        pub text0: [u8; TEXT_BYTES[0]],
        /// Second text.
        pub text1: [u8; TEXT_BYTES[1]],
        /// Third text.
        pub text2: [u8; TEXT_BYTES[2]],
        /// Fourth text.
        pub text3: [u8; TEXT_BYTES[3]],
    }
}
