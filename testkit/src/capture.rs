//! How long clients waited for the kernel to open connections, from the packets themselves. Needs root
//! (`CAP_NET_RAW`).

use std::{
    collections::BTreeMap,
    io::IoSliceMut,
    net::{SocketAddr, SocketAddrV4},
    os::fd::{AsRawFd, OwnedFd},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::{
    cmsg_space,
    sys::{
        socket::{
            AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockProtocol, SockType, recvmsg, setsockopt,
            socket, sockopt,
        },
        time::{TimeSpec, TimeVal},
    },
};

use crate::clock::nanoseconds;

/// How long a read waits before it looks whether to stop.
const TURN: TimeVal = TimeVal::new(0, 50_000);

/// TCP handshakes with one IPv4 server, watched until this is dropped.
#[derive(Debug)]
pub struct HandshakeWatch {
    seen: Arc<Mutex<BTreeMap<u16, Handshake>>>,
    stop: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

/// Two packets of a handshake, on the kernel's clock.
#[derive(Clone, Copy, Debug)]
struct Handshake {
    syn: Duration,
    answer: Option<Duration>,
}

impl HandshakeWatch {
    /// Begins to watch. Packets that come from now on are seen.
    pub fn start(server: SocketAddr) -> Result<Self> {
        let SocketAddr::V4(server) = server else { bail!("{server} is no IPv4 address") };
        // Only what comes in: on loopback, a tap of every protocol sees each packet twice (packet(7)).
        let tap = socket(AddressFamily::Packet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, SockProtocol::EthIp)
            .context("open a packet socket")?;
        // The kernel's time of arrival: a thread's would be late by its wait for a processor.
        setsockopt(&tap, sockopt::ReceiveTimestampns, &true).context("SO_TIMESTAMPNS")?;
        setsockopt(&tap, sockopt::RcvBuf, &(4 << 20)).context("SO_RCVBUF")?;
        setsockopt(&tap, sockopt::ReceiveTimeout, &TURN).context("SO_RCVTIMEO")?;
        let (seen, stop) = (Arc::default(), Arc::new(AtomicBool::new(false)));
        let reader = std::thread::Builder::new()
            .name("handshakes".to_owned())
            .spawn({
                let (seen, stop) = (Arc::clone(&seen), Arc::clone(&stop));
                move || read(&tap, server, &seen, &stop)
            })
            .context("start a thread")?;
        Ok(Self { seen, stop, reader: Some(reader) })
    }

    /// Clients that have asked for a connection so far.
    pub fn clients(&self) -> usize {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Client port → nanoseconds from its first SYN to the answer.
    pub fn opened(&self) -> BTreeMap<u16, u64> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let length = |handshake: &Handshake| Some(nanoseconds(handshake.answer?.saturating_sub(handshake.syn)));
        seen.iter().filter_map(|(&port, handshake)| Some((port, length(handshake)?))).collect()
    }
}

impl Drop for HandshakeWatch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(reader) = self.reader.take() {
            // A panic in it has been printed.
            let _ = reader.join();
        }
    }
}

fn read(tap: &OwnedFd, server: SocketAddrV4, seen: &Mutex<BTreeMap<u16, Handshake>>, stop: &AtomicBool) {
    let mut control = cmsg_space!(TimeSpec);
    let mut packet = [0; 128];
    while !stop.load(Ordering::Relaxed) {
        let mut parts = [IoSliceMut::new(&mut packet)];
        let received = recvmsg::<()>(tap.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::empty());
        // Nothing came in this turn, or a signal did.
        let Ok(message) = received else { continue };
        let length = message.bytes;
        let at = message.cmsgs().into_iter().flatten().find_map(|control| match control {
            ControlMessageOwned::ScmTimestampns(at) => Some(Duration::from(at)),
            _ => None,
        });
        let (Some(at), Some(segment)) = (at, packet.get(..length).and_then(Segment::parse)) else { continue };
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        match segment {
            Segment { to, syn: true, acknowledges: false, from } if to == server => {
                seen.entry(from.port()).or_insert(Handshake { syn: at, answer: None });
            }
            Segment { from, syn: true, acknowledges: true, to } if from == server => {
                if let Some(handshake) = seen.get_mut(&to.port()) {
                    handshake.answer.get_or_insert(at);
                }
            }
            _ => {}
        }
    }
}

/// What is needed of a TCP segment over IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Segment {
    from: SocketAddrV4,
    to: SocketAddrV4,
    syn: bool,
    acknowledges: bool,
}

impl Segment {
    /// RFC 791 §3.1, RFC 9293 §3.1.
    fn parse(packet: &[u8]) -> Option<Self> {
        const TCP: u8 = 6;
        const SYN: u8 = 0x02;
        const ACK: u8 = 0x10;
        let header_bytes = usize::from(packet.first()? & 0x0f) * 4;
        if packet.first()? >> 4 != 4 || *packet.get(9)? != TCP {
            return None;
        }
        let address = |at: usize| packet.get(at..at + 4)?.first_chunk::<4>().copied();
        let tcp = packet.get(header_bytes..)?;
        let port = |at: usize| tcp.get(at..at + 2)?.first_chunk::<2>().map(|bytes| u16::from_be_bytes(*bytes));
        let flags = tcp.get(13)?;
        Some(Self {
            from: SocketAddrV4::new(address(12)?.into(), port(0)?),
            to: SocketAddrV4::new(address(16)?.into(), port(2)?),
            syn: flags & SYN != 0,
            acknowledges: flags & ACK != 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::HandshakeWatch;

    #[test]
    fn a_connection_is_seen_to_open() {
        if !nix::unistd::geteuid().is_root() {
            assert!(std::env::var_os("CI").is_none(), "CI must run this as root");
            eprintln!("skipped: needs root for a packet socket");
            return;
        }
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let watch = HandshakeWatch::start(server.local_addr().unwrap()).unwrap();
        let client = TcpStream::connect(server.local_addr().unwrap()).unwrap();
        let port = client.local_addr().unwrap().port();
        let opened_ns = (0..100).find_map(|_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            watch.opened().get(&port).copied()
        });
        assert!(opened_ns.is_some_and(|ns| ns < 1_000_000_000), "{opened_ns:?}");
        assert_eq!(watch.clients(), 1);
    }
}
