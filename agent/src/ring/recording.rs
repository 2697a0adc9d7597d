//! Recordings: the event stream in a file, so that a report can be made again anywhere, byte for byte.
//!
//! Layout: [`MAGIC`], version (u32, little endian), then frames. A frame is the length of its payload (u32, little
//! endian), an FNV-1a check of it (u32) and the payload: one [`Event`] in postcard encoding. A file that was cut
//! anywhere is read up to the last whole frame; that the end is missing is said, not fatal.

use std::io::{self, BufWriter, Read, Write};

use super::Event;

/// First bytes of every recording.
pub const MAGIC: [u8; 8] = *b"GOBTRACE";
/// Version of the frames' content; a reader refuses any other.
pub const VERSION: u32 = 3;
/// No event is longer; a longer frame is damage.
const MAX_FRAME_BYTES: u32 = 1 << 22;

/// Why a file is no recording that we can read.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    /// The file does not begin with [`MAGIC`].
    #[error("not a recording")]
    NotARecording,
    /// Another program version wrote it.
    #[error(
        "recording has version {found}, this program reads version {VERSION}; render it with the gobuild-trace that made it"
    )]
    Version {
        /// Version in the file.
        found: u32,
    },
    /// It ends before its first event.
    #[error("the recording ends before its first event")]
    Empty,
    /// The file could not be read.
    #[error("cannot read the recording")]
    Io(#[from] io::Error),
}

/// Writes a recording.
#[derive(Debug)]
pub struct Recorder<W: Write> {
    out: BufWriter<W>,
}

impl<W: Write> Recorder<W> {
    /// Begins a recording.
    pub fn new(out: W) -> io::Result<Self> {
        let mut out = BufWriter::with_capacity(1 << 16, out);
        out.write_all(&MAGIC)?;
        out.write_all(&VERSION.to_le_bytes())?;
        Ok(Self { out })
    }

    /// Appends an event.
    pub fn write(&mut self, event: &Event) -> io::Result<()> {
        let payload = postcard::to_stdvec(event).map_err(io::Error::other)?;
        let length = u32::try_from(payload.len()).map_err(io::Error::other)?;
        self.out.write_all(&length.to_le_bytes())?;
        self.out.write_all(&check(&payload).to_le_bytes())?;
        self.out.write_all(&payload)
    }

    /// Hands what is buffered to the file, so that a recording cut by a kill ends near the kill.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Events of a recording, in order.
#[derive(Debug)]
pub struct Recording<R: Read> {
    input: R,
    cut: bool,
}

impl<R: Read> Recording<R> {
    /// Reads the head of a recording.
    pub fn open(mut input: R) -> Result<Self, RecordingError> {
        let mut head = [0; 12];
        input.read_exact(&mut head).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => RecordingError::NotARecording,
            _ => RecordingError::Io(error),
        })?;
        let [magic @ .., a, b, c, d] = head;
        if magic != MAGIC {
            return Err(RecordingError::NotARecording);
        }
        match u32::from_le_bytes([a, b, c, d]) {
            VERSION => Ok(Self { input, cut: false }),
            found => Err(RecordingError::Version { found }),
        }
    }

    /// The file ended in the middle of a frame or a frame was damaged; known after the last event.
    pub fn cut(&self) -> bool {
        self.cut
    }

    fn frame(&mut self) -> io::Result<Option<Event>> {
        let mut head = [0; 8];
        let mut filled = 0;
        while filled < head.len() {
            match self.input.read(&mut head[filled..])? {
                0 if filled == 0 => return Ok(None),
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => filled += count,
            }
        }
        let [a, b, c, d, e, f, g, h] = head;
        let length = u32::from_le_bytes([a, b, c, d]);
        if length > MAX_FRAME_BYTES {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut payload = Vec::new();
        let read = (&mut self.input).take(length.into()).read_to_end(&mut payload)?;
        if read != length as usize || check(&payload) != u32::from_le_bytes([e, f, g, h]) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        postcard::from_bytes(&payload).map(Some).map_err(io::Error::other)
    }
}

impl<R: Read> Iterator for Recording<R> {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        if self.cut {
            return None;
        }
        self.frame().unwrap_or_else(|_| {
            self.cut = true;
            None
        })
    }
}

/// FNV-1a. Tells a cut or overwritten frame from a whole one; it is no defence against a forger.
fn check(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, &byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}
