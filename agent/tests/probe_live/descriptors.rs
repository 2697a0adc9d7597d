//! Descriptor numbers that one thread closes while another opens them again.

use std::{net::UdpSocket, process::Command, thread};

use gobuild_trace_common::{Connect, Kind};

use crate::{root, trace};

/// Makes [`reopen`] work.
const CONNECTS: &str = "GOBUILD_TRACE_CONNECTS";
const THREADS: usize = 4;
const EACH: usize = 5_000;

/// Not a test of its own: what the traced process does.
#[test]
fn reopen() {
    if std::env::var_os(CONNECTS).is_none() {
        return;
    }
    let work = || {
        for _ in 0..EACH {
            let socket = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
            socket.connect(("127.0.0.1", 9)).unwrap();
        }
    };
    let threads: Vec<_> = (0..THREADS).map(|_| thread::spawn(work)).collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn a_number_that_is_opened_again_while_it_is_closed_is_the_new_ones() {
    let Some(_one) = root() else { return };
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "descriptors::reopen"]).env(CONNECTS, "1");
    let trace = trace(&mut command, |_| {});
    assert!(trace.status.success());
    assert_eq!((trace.of::<Connect>(&[Kind::Connect]).len(), trace.dropped), (THREADS * EACH, 0));
}
