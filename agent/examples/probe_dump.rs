//! Development aid: runs a command under the probes and prints its records.
#![allow(missing_docs, clippy::undocumented_unsafe_blocks, clippy::unwrap_used, reason = "scratch")]
use gobuild_trace::probe::*;
use gobuild_trace_common::*;
use std::{os::unix::process::CommandExt, path::Path, time::Duration};
use zerocopy::FromBytes;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let quiet = std::env::var_os("QUIET").is_some();
    let cookie = 0x4000_0000 | (std::process::id() & 0xffff);
    let mut probes = match Probes::load(&Config { root_cookie: cookie, measure: true, ..Config::default() }) {
        Ok(p) => p,
        Err(e) => {
            println!("{e}");
            std::process::exit(1);
        }
    };
    for s in probes.statuses() {
        println!("{:?}", s);
    }
    if let Ok(key) = file_key(Path::new("/usr/local/go/bin/go")) {
        let facts = FileFacts {
            role: Role::Go as u8,
            goroutine: 1,
            g_m: 48,
            g_goid: 152,
            g_parent_goid: 280,
            m_procid: 64,
            _pad: [0; 6],
        };
        probes.set_file(key, facts).unwrap();
    }
    let mut ring = probes.ring().unwrap();
    let mut command = std::process::Command::new(&args[0]);
    command.args(&args[1..]);
    unsafe {
        command.pre_exec(move || {
            libc::close(cookie as i32);
            Ok(())
        });
    }
    let start = std::time::Instant::now();
    let mut child = command.spawn().unwrap();
    let mut kinds = std::collections::BTreeMap::<u16, (u64, u64)>::new();
    let mut print = |bytes: &[u8]| {
        let (h, _) = Header::read_from_prefix(bytes).unwrap();
        let e = kinds.entry(h.kind).or_default();
        e.0 += 1;
        e.1 += bytes.len() as u64;
        if quiet {
            return;
        }
        let who = format!("{:>14} {}/{} g{}<{}", h.ktime_ns, h.tgid, h.tid, h.goid, h.parent_goid);
        match h.kind {
            1 => println!("{who} fork {}", Fork::read_from_prefix(bytes).unwrap().0.child),
            2 | 3 => {
                let (e, rest) = Exec::read_from_prefix(bytes).unwrap();
                println!(
                    "{who} exec role {} old {} ppid {} {} args[{}/{}] {:?} env {:?} file {:x}:{} gen {} {} {}",
                    e.role,
                    e.old_tid,
                    e.parent,
                    String::from_utf8_lossy(&e.path[..e.path_len as usize]),
                    e.args_used,
                    e.args_len,
                    String::from_utf8_lossy(&rest[..e.args_used.min(120) as usize]),
                    String::from_utf8_lossy(
                        &e.environ_tail[e.environ_used.saturating_sub(60) as usize..e.environ_used as usize]
                    ),
                    e.file.device,
                    e.file.inode,
                    e.file.generation,
                    e.file.size,
                    e.file.ctime_s
                );
            }
            4 => {
                let (e, _) = Exit::read_from_prefix(bytes).unwrap();
                println!(
                    "{who} exit {:#x} u {} s {} rss {} io {}/{}",
                    e.status, e.user_ns, e.system_ns, e.max_rss_bytes, e.io_wait_ns, e.io_waits
                );
            }
            5 => {
                let (e, _) = Wait::read_from_prefix(bytes).unwrap();
                println!(
                    "{who} wait {} {:#x} u {} s {} rss {} {}",
                    e.child, e.status, e.user_ns, e.system_ns, e.max_rss_bytes, e.by_waitid
                );
            }
            6 | 7 => {
                let (e, rest) = PathHead::read_from_prefix(bytes).unwrap();
                println!(
                    "{who} path op {} = {} {:o} {} ino {:x}:{}:{}",
                    e.operation,
                    e.result,
                    e.flags,
                    String::from_utf8_lossy(&rest[..e.path_len as usize]),
                    e.device,
                    e.inode,
                    e.generation
                );
            }
            8 => {
                let (e, _) = FileIo::read_from_prefix(bytes).unwrap();
                println!(
                    "{who} fileio fd {} op {} {}B/{} opened {}",
                    e.fd, e.operation, e.written_bytes, e.writes, e.opened_ns
                );
            }
            9 => {
                let (e, _) = Stderr::read_from_prefix(bytes).unwrap();
                println!("{who} stderr {:?}", String::from_utf8_lossy(&e.text[..e.used as usize]));
            }
            10 => {
                let (e, _) = FileLock::read_from_prefix(bytes).unwrap();
                println!("{who} lock fd {} ended {} = {} since {}", e.fd, e.ended, e.result, e.since_ns);
            }
            11 => {
                let (e, _) = Connect::read_from_prefix(bytes).unwrap();
                println!(
                    "{who} connect fd {} = {} sk {:x} syn {} {:?}:{} local {:?}:{} fam {} type {}",
                    e.fd,
                    e.result,
                    e.socket,
                    e.syn_ns,
                    &e.addresses.remote[..4],
                    e.addresses.remote_port,
                    &e.addresses.local[..4],
                    e.addresses.local_port,
                    e.addresses.family,
                    e.addresses.socket_type
                );
            }
            12 => {
                let (e, _) = TcpState::read_from_prefix(bytes).unwrap();
                println!(
                    "{who} tcp sk {:x} fd {} {}->{} err {} acked {} recv {} srtt {} retr {} {:?}:{} l {}",
                    e.socket,
                    e.fd,
                    e.old_state,
                    e.new_state,
                    e.error,
                    e.bytes_acked,
                    e.bytes_received,
                    e.srtt_us,
                    e.retransmits,
                    &e.addresses.remote[..4],
                    e.addresses.remote_port,
                    e.addresses.local_port
                );
            }
            13 => {
                let (e, _) = SocketIo::read_from_prefix(bytes).unwrap();
                println!(
                    "{who} sockio fd {} dir {} first {} {}B total {} used {} {:?}",
                    e.fd,
                    e.direction,
                    e.first,
                    e.bytes,
                    e.total_bytes,
                    e.used,
                    String::from_utf8_lossy(&e.payload[..e.used.min(60) as usize])
                );
            }
            14 => {
                let (e, _) = BlockIo::read_from_prefix(bytes).unwrap();
                println!(
                    "{who} block dev {:x} w {} by_inode {} first {} {}B lat {} q {} ino {:x}:{}:{} err {}",
                    e.device,
                    e.write,
                    e.by_inode,
                    e.first_part,
                    e.bytes,
                    e.latency_ns,
                    e.queued_ns,
                    e.inode_device,
                    e.inode,
                    e.generation,
                    e.error
                );
            }
            k => println!("{who} kind {k}"),
        }
    };
    let status = loop {
        ring.wait(Duration::from_millis(50)).unwrap();
        ring.drain(&mut print);
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
    };
    if let Some(ms) = std::env::var("LINGER_MS").ok().and_then(|v| v.parse().ok()) {
        std::thread::sleep(Duration::from_millis(ms));
    }
    ring.drain(&mut print);
    println!("{status} after {:?}", start.elapsed());
    println!("kinds {kinds:?}");
    println!(
        "dropped {} lost {:?}",
        probes.dropped(),
        probes.lost().iter().map(|(k, n)| (k.tgid, k.kind, k.reason, *n)).collect::<Vec<_>>()
    );
    for s in probes.program_stats() {
        println!("{s:?}");
    }
}
