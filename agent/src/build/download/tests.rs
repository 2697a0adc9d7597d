use std::net::IpAddr;

use super::*;
use crate::{
    build::network::{ConnectionIndex, Network},
    ring::{
        call::{Answer, Query, RequestUrl},
        event::{Connect, Content, SocketEvent, SocketId},
    },
};

/// A go command that asks a proxy over HTTP/1 under TLS, where only the functions of net/http tell whose a request is.
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
        self.download.dialled(dialler, connection, &mut self.network);
        self.write(at_ns, dialler, number, Content::ClientHello { sni: None, alpn: Vec::new() }, 250);
        self.write(at_ns, dialler, number, Content::TlsChangeCipher, 64);
        self.download.dial_ends(dialler, number, &self.network);
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
