use std::net::IpAddr;

use super::*;
use crate::{
    build::network::{ConnectionIndex, Network},
    ring::{
        call::{Answer, Query, RequestUrl},
        event::{Connect, Content, SocketEvent, SocketId},
    },
};

/// A go command that asks a proxy, and of which the functions of net/http are watched.
#[derive(Default)]
struct Client {
    network: Network,
    download: Download,
}

impl Client {
    fn task(goroutine: u64, parent_goroutine: u64) -> Task {
        Task { pid: 1, tid: 1, goroutine, parent_goroutine }
    }

    /// A dialler of `requester`'s opens a connection, whose handle and kernel address are its number.
    fn dial(&mut self, at_ns: u64, requester: u64, number: u64) -> ConnectionIndex {
        let connection = self.connect(at_ns, requester, number);
        let dialler = Self::task(number, requester);
        self.write(at_ns, dialler, number, Content::ClientHello { sni: None, alpn: Vec::new() }, 250);
        self.write(at_ns, dialler, number, Content::TlsChangeCipher, 64);
        self.download.dial_ends(dialler, number, &self.network);
        connection
    }

    /// As [`Self::dial`], without TLS.
    fn dial_plain(&mut self, at_ns: u64, requester: u64, number: u64) -> ConnectionIndex {
        let connection = self.connect(at_ns, requester, number);
        self.download.dial_ends(Self::task(number, requester), number, &self.network);
        connection
    }

    fn connect(&mut self, at_ns: u64, requester: u64, number: u64) -> ConnectionIndex {
        let dialler = Self::task(number, requester);
        let connect = Connect {
            kernel: number,
            fd: number as i32,
            result: 0,
            syn_ns: at_ns,
            datagram: false,
            address: IpAddr::from([192, 0, 2, 1]),
            port: 443,
            local_port: number as u16,
        };
        let connection = self.network.connect(at_ns, dialler, &connect).unwrap();
        self.download.dialled(connection, &mut self.network);
        connection
    }

    fn write(&mut self, at_ns: u64, task: Task, number: u64, content: Content, bytes: u32) {
        let event = SocketEvent {
            socket: SocketId { kernel: number, connected_ns: 0 },
            fd: number as i32,
            write: true,
            first: false,
            first_by_goroutine: true,
            first_since_write: false,
            bytes,
            total_bytes: bytes.into(),
            local_port: 0,
            content,
        };
        let connection = self.network.socket(at_ns, task, &event).unwrap();
        self.download.socket(at_ns, task, &event, connection, &mut self.network);
    }

    /// The goroutine that writes a connection's requests, started by the one that dialled it.
    fn request_written(&mut self, at_ns: u64, number: u64) {
        self.write(at_ns, Self::task(1000 + number, number), number, Content::TlsData, 158);
    }

    fn ask(&mut self, at_ns: u64, requester: u64) {
        let path = format!("/m{requester}/@v/v1.0.0.mod");
        let (text, host) = (format!("https://proxy.test{path}"), "proxy.test".to_owned());
        let url = RequestUrl { text, host, path, go_get: false };
        let task = Self::task(requester, 0);
        self.download.query_begins(task, Query::Mod, &format!("m{requester}"));
        self.download.request_begins(at_ns, task, &url, &self.network);
        self.download.hop_begins(at_ns, task, &url);
    }

    fn give(&mut self, at_ns: u64, requester: u64, number: u64) {
        self.download.exchange_begins(at_ns, Self::task(requester, 0), number, &mut self.network);
    }

    fn answer(&mut self, at_ns: u64, requester: u64) {
        let answer = Answer { status: Some(200) };
        self.download.hop_ends(at_ns, Self::task(requester, 0), answer, &mut self.network);
        self.download.request_ends(at_ns, Self::task(requester, 0), answer, &self.network);
    }

    /// Connection and time of the request of the attempt with this number.
    fn sent(&self, attempt: usize) -> (Option<ConnectionIndex>, Option<u64>) {
        let hop = self.download.attempts[attempt].hops.last().unwrap();
        (hop.connection, hop.sent_ns)
    }
}

/// net/http closes a connection at once that nobody waits for any more when it is open, and that makes one idle too many.
#[test]
fn a_request_did_not_leave_on_a_connection_that_was_closed_unused() {
    let mut client = Client::default();
    client.ask(1, 1);
    let first = client.dial(2, 1, 101);
    client.give(3, 1, 101);
    client.request_written(4, 101);
    client.ask(5, 2);
    // It dials, and gets the first one's connection before that is done.
    client.answer(6, 1);
    client.give(7, 2, 101);
    let unused = client.dial(8, 2, 102);
    client.write(9, Client::task(102, 2), 102, Content::TlsData, 24);
    client.request_written(10, 101);
    client.answer(11, 2);
    assert_ne!(first, unused);
    assert_eq!((client.sent(0), client.sent(1)), ((Some(first), Some(4)), (Some(first), Some(10))));
}

#[test]
fn an_answer_that_is_read_before_its_write_returns_belongs_to_its_connection() {
    let mut client = Client::default();
    client.ask(1, 1);
    let own = client.dial(2, 1, 101);
    client.ask(3, 2);
    let other = client.dial(4, 2, 102);
    client.give(5, 1, 102);
    client.answer(6, 1);
    client.give(7, 2, 101);
    client.request_written(8, 102);
    client.request_written(9, 101);
    client.answer(10, 2);
    assert_eq!((client.sent(0), client.sent(1)), ((Some(other), Some(5)), (Some(own), Some(9))));
}

#[test]
fn a_request_that_is_given_to_another_connection_is_that_ones() {
    let mut client = Client::default();
    client.ask(1, 1);
    client.dial(2, 1, 101);
    client.give(3, 1, 101);
    client.request_written(4, 101);
    // The server had closed it.
    let second = client.dial(5, 1, 102);
    client.give(6, 1, 102);
    client.request_written(7, 102);
    client.answer(8, 1);
    assert_eq!(client.sent(0), (Some(second), Some(7)));
    assert_eq!(client.download.attempts[0].connection, Some(second));
}

/// Over HTTP/2 each request is written by a goroutine that its requester started.
#[test]
fn a_write_that_returns_after_the_next_question_belongs_to_the_one_before() {
    let mut client = Client::default();
    client.ask(1, 1);
    let connection = client.dial(2, 1, 101);
    client.answer(3, 1);
    client.download.query_ends(4, Client::task(1, 0), Query::Mod, false, &client.network);
    client.ask(5, 1);
    client.write(6, Client::task(201, 1), 101, Content::TlsData, 90);
    client.write(7, Client::task(202, 1), 101, Content::TlsData, 90);
    client.answer(8, 1);
    assert_eq!((client.sent(0), client.sent(1)), ((Some(connection), Some(3)), (Some(connection), Some(7))));
}

#[test]
fn what_a_requester_writes_itself_is_no_request_of_its_starters() {
    let mut client = Client::default();
    client.ask(1, 1);
    let connection = client.dial(2, 1, 101);
    client.ask(3, 2);
    // A WINDOW_UPDATE, from the goroutine that reads an answer.
    client.write(4, Client::task(2, 1), 101, Content::TlsData, 48);
    assert_eq!(client.sent(0), (None, None));
    client.write(5, Client::task(201, 1), 101, Content::TlsData, 90);
    assert_eq!(client.sent(0), (Some(connection), Some(5)));
}

#[test]
fn a_request_that_is_told_after_its_refusal_is_not_the_next_ones() {
    let mut client = Client::default();
    client.ask(1, 1);
    client.dial_plain(2, 1, 101);
    client.give(3, 1, 101);
    let refusal = Answer { status: Some(404) };
    client.download.hop_ends(4, Client::task(1, 0), refusal, &mut client.network);
    client.download.request_ends(4, Client::task(1, 0), refusal, &client.network);
    let request = Content::HttpRequest {
        method: "GET".to_owned(),
        path: "/m1/@v/v1.0.0.mod".to_owned(),
        host: Some("proxy.test".to_owned()),
    };
    client.write(5, Client::task(1101, 101), 101, request, 158);
    assert_eq!(client.sent(0).1, Some(3));
    let evident: Vec<bool> = client.download.attempts.iter().map(Attempt::evident).collect();
    assert_eq!(evident, [true, false], "nothing was asked after the refusal");
}
