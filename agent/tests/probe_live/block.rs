//! Block requests and who is charged for them.

use gobuild_trace_common::BlockIo;

use super::*;

const MIB: u64 = 1 << 20;

/// A directory on a file system with a block device, where the test binary lives.
fn on_disk() -> tempfile::TempDir {
    tempfile::tempdir_in(std::env::current_exe().unwrap().parent().unwrap()).unwrap()
}

fn blocks(trace: &Trace, key: &FileKey, write: u8, by_inode: u8) -> u64 {
    trace
        .of::<BlockIo>(&[Kind::BlockIo])
        .iter()
        .map(|(io, _)| io)
        .filter(|io| (io.inode, io.inode_device, io.write, io.by_inode) == (key.inode, key.device, write, by_inode))
        .inspect(|io| assert!(io.latency_ns > 0 && io.status == 0))
        .map(|io| io.bytes)
        .sum()
}

#[test]
fn blocks_are_charged_to_their_owner() {
    let Some(_one) = root() else { return };
    let directory = on_disk();
    // Written back by `sync`, which never opened the file; read again by the task that asks.
    let script = "dd if=/dev/zero of=buffered bs=64k count=16; sync; \
                  echo 1 > /proc/sys/vm/drop_caches; dd if=buffered of=/dev/null bs=64k";
    let trace = trace(Command::new("sh").args(["-c", script]).current_dir(directory.path()), |_| {});
    assert!(trace.status.success(), "{}", trace.stderr);
    let buffered = file_key(&directory.path().join("buffered")).unwrap();
    let written = blocks(&trace, &buffered, 1, 1) + blocks(&trace, &buffered, 1, 0);
    assert_eq!(written, MIB, "written back");
    assert_eq!(blocks(&trace, &buffered, 0, 0), MIB, "read");
    let dd = trace.execs().into_iter().rfind(|program| program.path.ends_with("/dd")).unwrap();
    let exit = trace.exits()[&dd.exec.header.tgid];
    assert!(exit.io_waits > 0 && exit.io_wait_ns > 0, "reading waits for the device");
    assert!(exit.io_wait_ns < exit.header.ktime_ns - exit.start_ns);
}

#[test]
fn files_on_overlayfs_lead_to_the_inode_that_holds_their_pages() {
    let Some(_one) = root() else { return };
    let directory = on_disk();
    for name in ["lower", "upper", "work", "merged"] {
        fs::create_dir(directory.path().join(name)).unwrap();
    }
    let script = "mount -t overlay overlay -o lowerdir=lower,upperdir=upper,workdir=work merged || exit 42; \
                  touch merged/file; umount merged";
    let trace = trace(Command::new("unshare").args(["-m", "sh", "-c", script]).current_dir(directory.path()), |_| {});
    if trace.status.code() == Some(42) {
        assert!(std::env::var_os("CI").is_none(), "no overlayfs in CI: {}", trace.stderr);
        eprintln!("skipped: no overlayfs: {}", trace.stderr);
        return;
    }
    assert!(trace.status.success(), "{}", trace.stderr);
    let upper = file_key(&directory.path().join("upper/file")).unwrap();
    let paths = trace.paths();
    let (created, _) =
        paths.iter().find(|(head, path)| path == "merged/file" && head.result >= 0 && head.flags & 3 != 0).unwrap();
    assert_eq!((created.inode, created.device), (upper.inode, upper.device));
}

/// As on a kernel whose structures have other names: what cannot be charged is nobody's, never a build's.
#[test]
fn without_the_way_from_a_page_to_its_inode_written_files_are_nobodys() {
    let Some(_one) = root() else { return };
    let directory = on_disk();
    let write = "dd if=/dev/zero of=buffered bs=64k count=16; sync";
    for field in ["mapping_host", "page_mapping", "bio_io_vec"] {
        let config = Config { without_fields: vec![field.to_owned()], ..Config::default() };
        let trace = trace_with(config, Command::new("sh").args(["-c", write]).current_dir(directory.path()), |_| {});
        assert!(trace.status.success(), "{}", trace.stderr);
        let charged = trace.of::<BlockIo>(&[Kind::BlockIo]);
        assert!(charged.iter().all(|(io, _)| io.by_inode == 0), "{field}");
        assert!(charged.iter().map(|(io, _)| io.bytes).sum::<u64>() < MIB, "{field}");
        assert!(trace.foreign.values().any(|io| io.write_bytes >= MIB && io.write_operations > 0), "{field}");
    }
    let whole = trace(Command::new("sh").args(["-c", write]).current_dir(directory.path()), |_| {});
    let buffered = file_key(&directory.path().join("buffered")).unwrap();
    assert_eq!(blocks(&whole, &buffered, 1, 1) + blocks(&whole, &buffered, 1, 0), MIB);
}
