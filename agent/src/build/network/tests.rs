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

const REFUSED: TcpChange = TcpChange::Failed(111);

/// Both addresses of a name are tried, by goroutines that the dial's starts for it.
fn tried(network: &mut Network, kernel: u64, start_ns: u64) -> ConnectionIndex {
    let racer = Task { pid: 1, tid: 1, goroutine: 100 + kernel, parent_goroutine: 50 };
    let connect = Connect {
        kernel,
        fd: kernel as i32,
        result: -115,
        syn_ns: start_ns,
        datagram: false,
        address: IpAddr::from([192, 0, 2, kernel as u8]),
        port: PORT,
        local_port: 0,
    };
    network.connect(start_ns, racer, &connect).unwrap()
}

/// The goroutine that dials for [`tried`]. A requester with the number 7 started it.
const DIALLING: Task = Task { pid: 1, tid: 1, goroutine: 50, parent_goroutine: 7 };

#[test]
fn what_is_dialled_by_a_goroutine_of_each_family_is_the_requesters() {
    let mut network = Network::default();
    network.dial_begins(DIALLING);
    let first = tried(&mut network, 1, 10);
    let second = tried(&mut network, 2, 310);
    changed(&mut network, 320, (2, 310), TcpChange::Established);
    let requested: Vec<_> = network.dialled_by(1, 7).map(|(index, _)| index).collect();
    assert_eq!(requested, [first, second]);
    assert_eq!((network.opened_by(DIALLING), network.opened_instead(first)), (Some(second), second));
    // The dial took as long as all of it.
    assert_eq!(network.opening(second, 400).connect, Some((10, 320)));
    // It was left, and that is no failure of the dial.
    changed(&mut network, 330, (1, 10), TcpChange::Failed(0));
    assert_eq!(network.failure(first).map(|(kind, _)| kind), Some(ErrorType::Cancelled));
    assert_eq!(network.dial_failure(first), None);
    // The writer of HTTP/1 is the dial's; that of another goroutine's request is not.
    let write = |network: &mut Network, parent_goroutine| {
        let task = Task { goroutine: 900 + parent_goroutine, parent_goroutine, ..DIALLING };
        let event = SocketEvent { socket: SocketId { kernel: 2, connected_ns: 0 }, ..written(Content::TlsData) };
        network.socket(400, task, &event).unwrap();
        network.connection(second).multiplexed
    };
    assert_eq!((write(&mut network, 50), write(&mut network, 7)), (false, true));
    network.dial_ends(DIALLING);
    // A toolchain switch: the same numbers are other goroutines'.
    network.replaced(1);
    let another = tried(&mut network, 3, 1_000);
    assert_eq!(network.opening(another, 2_000).connect, Some((1_000, 2_000)));
}

/// Without probes in the go command.
#[test]
fn who_dials_shows_itself_in_the_handshake_and_who_wanted_it_when_it_writes() {
    let mut network = Network::default();
    let index = tried(&mut network, 1, 10);
    let event = |content| SocketEvent { socket: SocketId { kernel: 1, connected_ns: 0 }, ..written(content) };
    let shaker = Task { goroutine: 60, parent_goroutine: 50, ..DIALLING };
    network.socket(20, shaker, &event(Content::ClientHello { sni: None, alpn: Vec::new() })).unwrap();
    assert_eq!(network.connection(index).requester(), (1, 0));
    network.socket(30, shaker, &event(Content::TlsChangeCipher)).unwrap();
    network.socket(40, Task { goroutine: 70, parent_goroutine: 50, ..DIALLING }, &event(Content::TlsData)).unwrap();
    assert!(!network.connection(index).multiplexed);
    assert!(!network.shows_requester(index, shaker));
    assert!(network.shows_requester(index, DIALLING));
    assert_eq!(network.connection(index).requester(), (1, 7));
}

fn written(content: Content) -> SocketEvent {
    SocketEvent {
        socket: SocketId { kernel: 0, connected_ns: 0 },
        fd: 0,
        write: true,
        first: false,
        first_by_goroutine: false,
        first_since_write: false,
        bytes: 0,
        total_bytes: 0,
        local_port: 0,
        content,
    }
}

/// A SYN that was sent again is told of a dial that failed too, a round trip only where one was measured.
#[test]
fn segments_sent_again_are_told_without_a_round_trip() {
    let mut network = Network::default();
    let (refused, closed) = (tried(&mut network, 1, 10), tried(&mut network, 2, 20));
    let told = |kernel, syn_ns, change, srtt_us, retransmits| Tcp {
        kernel,
        change,
        syn_ns,
        bytes_acked: 0,
        bytes_received: 0,
        local_port: 0,
        srtt_us,
        retransmits,
    };
    network.tcp(100, &told(1, 10, REFUSED, 0, 2));
    network.tcp(100, &told(2, 20, TcpChange::Established, 0, 1));
    network.tcp(200, &told(2, 20, TcpChange::Closed(0), 50, 3));
    let (rows, _) = network.rows(0, 300);
    assert_eq!((rows[refused].round_trip_ns, rows[refused].retransmits), (None, Some(2)));
    assert_eq!((rows[closed].round_trip_ns, rows[closed].retransmits), (Some(50_000), Some(3)));
}

#[test]
fn what_a_name_server_has_no_room_for_is_answered_over_tcp() {
    let mut network = Network::default();
    let task = Task { pid: 1, tid: 1, goroutine: 9, parent_goroutine: 8 };
    let message = |answer, truncated| DnsMessage {
        id: 5,
        answer,
        name: "proxy.test.".to_owned(),
        record_type: "A".to_owned(),
        rcode: answer.then(|| "NOERROR".to_owned()),
        addresses: Vec::new(),
        truncated,
    };
    let server = IpAddr::from([192, 0, 2, 53]);
    let connect = |kernel, datagram| Connect {
        kernel,
        fd: 3,
        result: 0,
        syn_ns: 0,
        datagram,
        address: server,
        port: DNS_PORT,
        local_port: 0,
    };
    // The socket of a connection that is gone had the address and the number.
    let gone = tried(&mut network, 3, 1);
    assert_eq!(network.connect(10, task, &connect(4, true)), None);
    network.dns(11, task, 3, &message(false, false));
    network.dns(20, task, 3, &message(true, true));
    assert_eq!(network.connect(30, task, &connect(3, false)), None);
    network.dns(40, task, 3, &message(false, false));
    let length = SocketEvent {
        socket: SocketId { kernel: 3, connected_ns: 30 },
        fd: 3,
        write: false,
        total_bytes: 2,
        ..written(Content::Opaque)
    };
    assert_eq!(network.socket(50, task, &length), None);
    // Whatever it says: there is no third way.
    network.dns(51, task, 3, &message(true, true));
    assert_eq!(network.connection(gone).last_read_ns, 0);
    let (connections, queries) = network.rows(0, 1_000);
    assert_eq!(connections.len(), 1);
    let [query] = queries.as_slice() else { panic!("{queries:#?}") };
    assert_eq!((query.start_ns, query.duration_ns, query.attempts), (11, 40, 1));
    assert_eq!((query.rcode.as_deref(), query.server.as_deref()), (Some("NOERROR"), Some("192.0.2.53")));
}
