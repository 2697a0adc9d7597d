//! Turns one ring record into one typed [`Event`].
//!
//! A record is bytes from another program (the kernel side of a possibly different version): sizes and discriminants are
//! checked, texts cut and cleaned. Secrets in arguments, texts and paths are removed here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use gobuild_trace_common as wire;
use zerocopy::FromBytes;

use super::{
    call, content,
    event::{
        Block, Body, Connect, ERRNO_TAKEN, Event, Exec, Exit, FileEvent, FileOperation, Inode, LockEvent, PathEvent,
        PathOperation, SocketEvent, SocketId, Status, Task, Tcp, TcpChange, ThreadTimes, Wait,
    },
};
use crate::host::redact;

/// A record that is not what its header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Shorter than the struct that its kind names.
    #[error("record of kind {kind} has {length} bytes, needs {needed}")]
    Short {
        /// Kind in the header.
        kind: u16,
        /// Bytes there are.
        length: usize,
        /// Bytes there should be.
        needed: usize,
    },
    /// Shorter than a header.
    #[error("record of {0} bytes has no header")]
    NoHeader(usize),
    /// A kind, operation or direction that this version does not know.
    #[error("unknown {what} {value}")]
    Unknown {
        /// Which discriminant.
        what: &'static str,
        /// Its value.
        value: u16,
    },
}

/// An event, and what only the reader of the ring needs of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// The event.
    pub event: Event,
    /// Of an exec: the file that runs now, and the role that the kernel gave it.
    pub executable: Option<Executable>,
}

/// The file of an exec.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Executable {
    /// `super_block.s_dev`, kernel encoding.
    pub device: u32,
    /// `inode.i_generation`.
    pub generation: u32,
    /// `inode.i_ino`.
    pub inode: u64,
    /// `inode.i_size`.
    pub size: u64,
    /// Seconds of `inode.i_ctime`.
    pub ctime_s: i64,
}

impl Executable {
    /// As the kernel programs' maps know it.
    pub fn key(&self) -> wire::FileKey {
        let Self { device, generation, inode, size, ctime_s } = *self;
        wire::FileKey { device, generation, inode, size, ctime_s }
    }
}

impl From<wire::FileKey> for Executable {
    fn from(key: wire::FileKey) -> Self {
        let wire::FileKey { device, generation, inode, size, ctime_s } = key;
        Self { device, generation, inode, size, ctime_s }
    }
}

impl From<wire::ThreadTimes> for ThreadTimes {
    fn from(times: wire::ThreadTimes) -> Self {
        let wire::ThreadTimes { running_ns, runnable_ns, blocked_ns } = times;
        Self { running_ns, runnable_ns, blocked_ns }
    }
}

/// Decodes one record.
pub fn record(bytes: &[u8]) -> Result<Decoded, DecodeError> {
    let (header, _) = wire::Header::read_from_prefix(bytes).map_err(|_| DecodeError::NoHeader(bytes.len()))?;
    let mut executable = None;
    let body = match header.kind {
        kind if kind == wire::Kind::Fork as u16 => Body::Fork { child: read::<wire::Fork>(bytes, kind)?.child },
        kind if kind == wire::Kind::ExecSmall as u16 || kind == wire::Kind::ExecLarge as u16 => {
            let exec = read::<wire::Exec>(bytes, kind)?;
            executable = Some(Executable {
                device: exec.file.device,
                generation: exec.file.generation,
                inode: exec.file.inode,
                size: exec.file.size,
                ctime_s: exec.file.ctime_s,
            });
            Body::Exec(exec_event(&exec, bytes.get(size_of::<wire::Exec>()..).unwrap_or_default()))
        }
        kind if kind == wire::Kind::Exit as u16 => {
            let exit = read::<wire::Exit>(bytes, kind)?;
            Body::Exit(Exit {
                status: wait_status(exit.status),
                user_ns: exit.user_ns,
                system_ns: exit.system_ns,
                max_rss_bytes: exit.max_rss_bytes,
                io_wait_ns: exit.io_wait_ns,
                threads: exit.threads.into(),
            })
        }
        kind if kind == wire::Kind::Wait as u16 => {
            let wait = read::<wire::Wait>(bytes, kind)?;
            Body::Wait(Wait {
                child: wait.child,
                user_ns: wait.user_ns,
                system_ns: wait.system_ns,
                max_rss_bytes: wait.max_rss_bytes,
            })
        }
        kind if kind == wire::Kind::PathSmall as u16 || kind == wire::Kind::PathLarge as u16 => {
            let head = read::<wire::PathHead>(bytes, kind)?;
            Body::Path(path_event(&head, bytes.get(size_of::<wire::PathHead>()..).unwrap_or_default())?)
        }
        kind if kind == wire::Kind::FileIo as u16 => {
            let io = read::<wire::FileIo>(bytes, kind)?;
            let operation = match io.operation {
                op if op == wire::FileOperation::FirstWrite as u8 => FileOperation::FirstWrite,
                op if op == wire::FileOperation::Truncate as u8 => FileOperation::Truncate,
                op if op == wire::FileOperation::Close as u8 => FileOperation::Close,
                op if op == wire::FileOperation::Progress as u8 => FileOperation::Progress,
                other => return Err(DecodeError::Unknown { what: "file operation", value: other.into() }),
            };
            Body::File(FileEvent {
                fd: io.fd,
                operation,
                written_bytes: io.written_bytes,
                last_write_ns: io.last_write_ns,
            })
        }
        kind if kind == wire::Kind::Stderr as u16 => {
            let stderr = read::<wire::Stderr>(bytes, kind)?;
            Body::Stderr(redact::text(&text(&stderr.text, stderr.used as usize)))
        }
        kind if kind == wire::Kind::FileLock as u16 => {
            let lock = read::<wire::FileLock>(bytes, kind)?;
            Body::Lock(LockEvent {
                fd: (lock.fd >= 0).then_some(lock.fd),
                ended: lock.ended != 0,
                since_ns: lock.since_ns,
            })
        }
        kind if kind == wire::Kind::Connect as u16 => {
            let connect = read::<wire::Connect>(bytes, kind)?;
            Body::Connect(Connect {
                kernel: connect.socket,
                fd: connect.fd,
                result: connect.result,
                syn_ns: connect.syn_ns,
                datagram: connect.addresses.socket_type == 2,
                address: remote(&connect.addresses),
                port: connect.addresses.remote_port,
                local_port: connect.addresses.local_port,
            })
        }
        kind if kind == wire::Kind::TcpState as u16 => {
            let state = read::<wire::TcpState>(bytes, kind)?;
            Body::Tcp(tcp_event(&state))
        }
        kind if kind == wire::Kind::SocketIo as u16 => {
            let io = read::<wire::SocketIo>(bytes, kind)?;
            Body::Socket(socket_event(&io)?)
        }
        kind if kind == wire::Kind::BlockIo as u16 => {
            let io = read::<wire::BlockIo>(bytes, kind)?;
            Body::Block(Block {
                device: io.device,
                write: io.write != 0,
                first_part: io.first_part != 0,
                bytes: io.bytes,
                latency_ns: io.latency_ns,
                inode: inode(io.inode_device, io.inode, io.generation),
            })
        }
        kind if kind == wire::Kind::FunctionReturn as u16
            || kind == wire::Kind::FunctionEntrySmall as u16
            || kind == wire::Kind::FunctionEntryLarge as u16 =>
        {
            Body::Call(call::event(bytes, kind)?)
        }
        other => return Err(DecodeError::Unknown { what: "record kind", value: other }),
    };
    let task = Task { pid: header.tgid, tid: header.tid, goroutine: header.goid, parent_goroutine: header.parent_goid };
    Ok(Decoded { event: Event { at_ns: header.ktime_ns, task, body }, executable })
}

pub(super) fn read<T: FromBytes>(bytes: &[u8], kind: u16) -> Result<T, DecodeError> {
    T::read_from_prefix(bytes).map(|(value, _)| value).map_err(|_| DecodeError::Short {
        kind,
        length: bytes.len(),
        needed: size_of::<T>(),
    })
}

fn text(bytes: &[u8], used: usize) -> String {
    String::from_utf8_lossy(bytes.get(..used).unwrap_or(bytes)).into_owned()
}

fn exec_event(exec: &wire::Exec, rest: &[u8]) -> Exec {
    let used = (exec.args_used as usize).min(rest.len());
    let cut = (exec.args_len as usize) > used;
    let mut arguments: Vec<String> =
        rest[..used].split(|&byte| byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
    // Each argument ends with a NUL, so a whole list leaves one empty word; a cut one leaves half a word, which is
    // dropped: half a flag could be half a secret that no longer looks like one.
    arguments.pop();
    let environ = exec.environ_tail.get(..exec.environ_used as usize).unwrap_or(&exec.environ_tail);
    let import_path = environ
        .split(|&byte| byte == 0)
        .filter_map(|entry| entry.strip_prefix(b"TOOLEXEC_IMPORTPATH="))
        .next_back()
        .filter(|path| !path.is_empty())
        .map(|path| String::from_utf8_lossy(path).into_owned());
    Exec {
        path: text(&exec.path, exec.path_len.into()),
        arguments: redact::arguments(&arguments),
        arguments_cut: cut,
        import_path,
        in_tree: exec.in_tree != 0,
        parent: exec.parent,
        uid: exec.uid,
        process_start_ns: exec.start_ns,
    }
}

fn path_event(head: &wire::PathHead, rest: &[u8]) -> Result<PathEvent, DecodeError> {
    const O_ACCMODE: u32 = 0o3;
    const O_CREAT: u32 = 0o100;
    const O_EXCL: u32 = 0o200;
    let path = text(rest, usize::from(head.path_len));
    let operation = match head.operation {
        op if op == wire::PathOperation::Open as u8 => {
            if head.flags & (O_ACCMODE | O_CREAT) == 0 {
                PathOperation::OpenRead
            } else {
                PathOperation::OpenWrite { create: head.flags & O_CREAT != 0, exclusive: head.flags & O_EXCL != 0 }
            }
        }
        op if op == wire::PathOperation::Stat as u8 => PathOperation::Stat,
        op if op == wire::PathOperation::Rename as u8 => PathOperation::RenameTo,
        op if op == wire::PathOperation::Unlink as u8 => PathOperation::Unlink,
        op if op == wire::PathOperation::Mkdir as u8 => PathOperation::Mkdir,
        other => return Err(DecodeError::Unknown { what: "path operation", value: other.into() }),
    };
    Ok(PathEvent {
        operation,
        relative: !path.starts_with('/') && head.dirfd != -100,
        path,
        truncated: head.truncated != 0,
        result: head.result,
        inode: inode(head.device, head.inode, head.generation),
    })
}

fn inode(device: u32, number: u64, generation: u32) -> Option<Inode> {
    (number != 0).then_some(Inode { device, number, generation })
}

fn tcp_event(state: &wire::TcpState) -> Tcp {
    const TCP_ESTABLISHED: u8 = 1;
    const TCP_SYN_SENT: u8 = 2;
    const TCP_CLOSE: u8 = 7;
    const SHUTDOWN_MASK: u8 = 3;
    const ECONNRESET: u32 = 104;
    let own = state.shutdown & SHUTDOWN_MASK == SHUTDOWN_MASK;
    // `tcp_reset` sets `sk_err` and then the state; a `getsockopt(SO_ERROR)` in between, by which net.Dial asks how its
    // connect went, leaves 0. A reset is what ends a connection this early.
    let change = match (state.old_state, state.new_state, state.error) {
        (TCP_SYN_SENT, TCP_ESTABLISHED, _) => TcpChange::Established,
        (TCP_SYN_SENT, _, 0) if !own => TcpChange::Failed(ERRNO_TAKEN),
        (TCP_SYN_SENT, _, error) => TcpChange::Failed(error),
        (_, TCP_CLOSE, 0) if !own => TcpChange::Closed(ECONNRESET),
        // What the peer answers to a connection that was closed breaks nothing.
        (_, _, _) if own => TcpChange::Closed(0),
        (_, _, error) => TcpChange::Closed(error),
    };
    Tcp {
        kernel: state.socket,
        change,
        syn_ns: state.syn_ns,
        bytes_acked: state.bytes_acked,
        bytes_received: state.bytes_received,
        local_port: state.addresses.local_port,
        srtt_us: state.srtt_us,
        retransmits: state.retransmits,
    }
}

fn socket_event(io: &wire::SocketIo) -> Result<SocketEvent, DecodeError> {
    const SOCK_DGRAM: u16 = 2;
    let write = match io.direction {
        way if way == wire::SocketDirection::Write as u8 => true,
        way if way == wire::SocketDirection::Read as u8 => false,
        other => return Err(DecodeError::Unknown { what: "socket direction", value: other.into() }),
    };
    let payload = io.payload.get(..usize::from(io.used)).unwrap_or(&io.payload);
    Ok(SocketEvent {
        socket: SocketId { kernel: io.socket, connected_ns: io.connected_ns },
        fd: io.fd,
        write,
        first: io.first & wire::FIRST_ON_SOCKET != 0,
        first_by_goroutine: io.first & wire::FIRST_BY_GOROUTINE != 0,
        first_since_write: io.first & wire::FIRST_SINCE_WRITE != 0,
        bytes: io.bytes,
        total_bytes: io.total_bytes,
        local_port: io.local_port,
        content: match io.socket_type {
            SOCK_DGRAM => content::datagram(payload, 53),
            _ => content::stream(payload, io.bytes as usize, io.remote_port),
        },
    })
}

fn remote(addresses: &wire::Addresses) -> IpAddr {
    let bytes = &addresses.remote;
    if addresses.family == 2 {
        IpAddr::V4(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]))
    } else {
        // Go dials IPv4 peers from IPv6 sockets on some hosts; the mapped form is the same peer.
        Ipv6Addr::from(*bytes).to_canonical()
    }
}

/// Linux wait status: signal in the low seven bits, else exit status in the second byte.
fn wait_status(status: u32) -> Status {
    match status & 0x7f {
        0 => Status::Code(((status >> 8) & 0xff) as i32),
        signal => Status::Signal(signal as i32),
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros;

    use super::*;

    #[test]
    fn who_ended_a_connection_is_told_by_what_it_still_wanted() {
        use TcpChange::{Closed, Established, Failed};
        const BOTH: u8 = 3;
        // (old, new, sk_shutdown, sk_err): states as `enum` in net/tcp_states.h.
        let cases = [
            ((2, 1, 0, 0), Established),
            ((2, 7, 0, 111), Failed(111)),
            ((2, 7, 0, 0), Failed(ERRNO_TAKEN)),
            ((2, 7, BOTH, 0), Failed(0)),
            ((1, 7, 0, 104), Closed(104)),
            ((1, 7, 0, 0), Closed(104)),
            // Closed with something unread.
            ((1, 7, BOTH, 0), Closed(0)),
            ((1, 4, BOTH, 0), Closed(0)),
            // The peer answers with a reset to what was closed before.
            ((5, 7, BOTH, 104), Closed(0)),
            // It closed first, and answers what is written after that with a reset.
            ((8, 7, 1, 32), Closed(32)),
        ];
        for ((old_state, new_state, shutdown, error), change) in cases {
            let state = wire::TcpState { old_state, new_state, shutdown, error, ..FromZeros::new_zeroed() };
            assert_eq!(tcp_event(&state).change, change, "{old_state} {new_state} {shutdown} {error}");
        }
    }
}
