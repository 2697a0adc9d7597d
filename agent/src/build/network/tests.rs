use super::*;
use crate::ring::event::{ERRNO_TAKEN, SocketId};

const PORT: u16 = 443;

/// The requester's goroutine starts the dialler.
fn dialler(requester: u64) -> Task {
    Task { pid: 1, tid: 1, goroutine: requester + 100, parent_goroutine: requester }
}

/// Opened and its handshake over at `at_ns`; the descriptor is the requester's number.
fn opened(network: &mut Network, at_ns: u64, requester: u64) -> ConnectionIndex {
    let index = greeted(network, at_ns, requester);
    wrote(network, at_ns, requester, Content::TlsChangeCipher, 300);
    index
}

/// As [`opened`], with a handshake that nobody answered yet.
fn greeted(network: &mut Network, at_ns: u64, requester: u64) -> ConnectionIndex {
    let connect = Connect {
        kernel: requester,
        fd: requester as i32,
        result: 0,
        syn_ns: at_ns,
        datagram: false,
        address: IpAddr::from([192, 0, 2, 1]),
        port: PORT,
        local_port: 0,
    };
    let index = network.connect(at_ns, dialler(requester), &connect).unwrap();
    let hello = Content::ClientHello { sni: Some("proxy.test".to_owned()), alpn: Vec::new() };
    wrote(network, at_ns, requester, hello, 250);
    index
}

fn wrote(network: &mut Network, at_ns: u64, requester: u64, content: Content, total_bytes: u64) {
    let event = SocketEvent {
        socket: SocketId { kernel: requester, connected_ns: 0 },
        fd: requester as i32,
        write: true,
        first: false,
        first_by_goroutine: false,
        first_since_write: true,
        bytes: 0,
        total_bytes,
        local_port: 0,
        content,
    };
    // The connection's own goroutines, which the dialler started.
    let task = Task { goroutine: requester + 200, parent_goroutine: requester + 100, ..dialler(requester) };
    network.socket(at_ns, task, &event).unwrap();
}

fn closed(network: &mut Network, at_ns: u64, requester: u64) {
    changed(network, at_ns, (requester, 0), TcpChange::Closed(0));
}

fn changed(network: &mut Network, at_ns: u64, (kernel, syn_ns): (u64, u64), change: TcpChange) {
    let tcp =
        Tcp { kernel, change, syn_ns, bytes_acked: 0, bytes_received: 0, local_port: 0, srtt_us: 0, retransmits: 0 };
    network.tcp(at_ns, &tcp);
}

#[test]
fn a_connection_is_its_diallers() {
    let mut network = Network::default();
    let first = opened(&mut network, 10, 1);
    let second = opened(&mut network, 20, 2);
    assert_eq!(network.opened_by(dialler(1)), Some(first));
    assert_eq!(network.opened_by(dialler(2)), Some(second));
    // Of two address families, each dialled by a goroutine of its own.
    assert_eq!(network.opened_by(Task { goroutine: 2, ..Task::default() }), None);
    assert_eq!(network.opened_by(Task { pid: 1, goroutine: 2, ..Task::default() }), Some(second));
}

#[test]
fn a_handshake_given_up_after_ten_seconds_timed_out() {
    const SECOND: u64 = 1_000_000_000;
    for (closed_ns, expected) in [(9 * SECOND, None), (11 * SECOND, Some(ErrorType::TimedOut))] {
        let mut network = Network::default();
        let silent = greeted(&mut network, SECOND / 2, 1);
        let open = opened(&mut network, SECOND / 2, 2);
        for requester in [1, 2] {
            closed(&mut network, closed_ns, requester);
        }
        assert_eq!(network.failure(silent).map(|(kind, _)| kind), expected);
        assert_eq!(network.failure(open), None);
    }
}

/// A SYN that is never answered, and the socket closed at last.
fn given_up(network: &mut Network, kernel: u64, dialler: Task, (syn_ns, closed_ns): (u64, u64)) -> ConnectionIndex {
    let connect = Connect {
        kernel,
        fd: 3,
        result: -115,
        syn_ns,
        datagram: false,
        address: IpAddr::from([192, 0, 2, 1]),
        port: PORT,
        local_port: 0,
    };
    let index = network.connect(syn_ns, dialler, &connect).unwrap();
    changed(network, closed_ns, (kernel, syn_ns), TcpChange::Failed(0));
    index
}

#[test]
fn a_dial_given_up_after_thirty_seconds_timed_out() {
    const SECOND: u64 = 1_000_000_000;
    let mut network = Network::default();
    let kind = |network: &Network, index| network.failure(index).map(|(kind, _)| kind);
    let early = given_up(&mut network, 1, dialler(1), (SECOND, 30 * SECOND));
    assert_eq!(kind(&network, early), Some(ErrorType::Cancelled));
    let late = given_up(&mut network, 2, dialler(2), (SECOND, 31 * SECOND));
    assert_eq!(kind(&network, late), Some(ErrorType::TimedOut));
    // Two addresses share the time.
    given_up(&mut network, 3, dialler(3), (SECOND, 16 * SECOND));
    let second = given_up(&mut network, 4, dialler(3), (16 * SECOND, 31 * SECOND));
    assert_eq!(kind(&network, second), Some(ErrorType::TimedOut));
}

/// A listener on the same machine answers while the call is still on its way back.
#[test]
fn what_happens_within_the_call_is_not_lost() {
    const ECONNRESET: u32 = 104;
    const ECONNREFUSED: u32 = 111;
    let changes: [(&[TcpChange], _, _); 3] = [
        (&[TcpChange::Established, TcpChange::Closed(ECONNRESET)], Some((100, 110)), ErrorType::Reset),
        (&[TcpChange::Failed(ECONNREFUSED)], Some((100, 110)), ErrorType::ConnectionRefused),
        (&[TcpChange::Failed(ERRNO_TAKEN)], Some((100, 110)), ErrorType::Other),
    ];
    for (changes, opened, error) in changes {
        let mut network = Network::default();
        for (at_ns, change) in (110..).step_by(10).zip(changes) {
            changed(&mut network, at_ns, (7, 100), *change);
        }
        // The socket was gone, and with it the time of its SYN.
        let connect = Connect {
            kernel: 7,
            fd: 3,
            result: -115,
            syn_ns: 0,
            datagram: false,
            address: IpAddr::from([127, 0, 0, 1]),
            port: PORT,
            local_port: 0,
        };
        let index = network.connect(200, dialler(1), &connect).unwrap();
        assert_eq!(network.connections[index].start_ns(), 100);
        assert_eq!(network.opening(index, 300).connect, opened);
        assert_eq!(network.failure(index).map(|(kind, _)| kind), Some(error));
    }
}

/// net.Resolver has one look-up for all that want the same name at the same time.
#[test]
fn who_joins_a_lookup_that_fails_waits_for_it() {
    let message = |name: &str, id, answer| DnsMessage {
        id,
        answer,
        name: format!("{name}."),
        record_type: "A".to_owned(),
        rcode: answer.then(|| "NXDOMAIN".to_owned()),
        addresses: Vec::new(),
        truncated: false,
    };
    let mut network = Network::default();
    for (at_ns, name, id, answer) in [
        (10, "nowhere.test", 1, false),
        (20, "other.test", 2, false),
        (50, "nowhere.test", 1, true),
        (90, "other.test", 2, true),
    ] {
        network.dns(at_ns, dialler(1), 3, &message(name, id, answer));
    }
    for asked_ns in [5, 15, 30] {
        assert_eq!(network.failed_lookup(1, Some("nowhere.test"), asked_ns, 100), Some((10, 50)));
        assert_eq!(network.lookup_failure(1, "nowhere.test", asked_ns, 100), Some(ErrorType::HostNotFound));
    }
    assert_eq!(network.failed_lookup(1, Some("nowhere.test"), 60, 70), None);
    assert_eq!(network.failed_lookup(1, Some("third.test"), 30, 100), None);
    // Lower tiers know no name.
    assert_eq!(network.failed_lookup(1, None, 30, 100), Some((10, 90)));
}
