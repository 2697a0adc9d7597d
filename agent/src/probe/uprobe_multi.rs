//! Many uprobes of one executable as one link (Linux 6.6).
//!
//! A link for each place would be detached one by one, and each waits for two grace periods of RCU: 65 places held up the
//! end of a run for eight seconds on 6.18. aya 0.14 knows no such links, so the program is loaded and linked here, from
//! the object and the maps that aya made.

use std::{
    collections::HashMap,
    ffi::CString,
    io,
    os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
};

use aya::maps::Map;
use aya_obj::{
    Object,
    generated::{bpf_attach_type, bpf_attr, bpf_cmd, bpf_prog_type},
};
use thiserror::Error;

/// Why the program could not be loaded that way.
#[derive(Debug, Error)]
pub enum MultiError {
    /// The object could not be read again.
    #[error("reading the object: {0}")]
    Parse(#[from] aya_obj::ParseError),
    /// A map or call could not be resolved.
    #[error("linking the program: {0}")]
    Relocate(#[from] aya_obj::relocation::EbpfRelocationError),
    /// The object has no such program.
    #[error("the object has no program {0}")]
    NoProgram(&'static str),
    /// The kernel refused it.
    #[error("{0}")]
    Refused(#[from] io::Error),
}

/// Loads a uprobe program for links to many places. `maps` are those that aya made of the same object.
pub(super) fn load<'a>(
    object: &[u8],
    name: &'static str,
    maps: impl Iterator<Item = (&'a str, &'a Map)>,
) -> Result<OwnedFd, MultiError> {
    let mut object = Object::parse(object)?;
    let fds: HashMap<String, RawFd> =
        maps.filter_map(|(name, map)| Some((name.to_owned(), descriptor(map)?))).collect();
    let own_maps = object.maps.clone();
    let text_sections = object.functions.keys().map(|(section, _)| *section).collect();
    let resolved = own_maps.iter().filter_map(|(name, map)| Some((name.as_str(), *fds.get(name)?, map)));
    object.relocate_maps(resolved, &text_sections)?;
    object.relocate_calls(&text_sections)?;
    let program = object.programs.get(name).ok_or(MultiError::NoProgram(name))?;
    let function = object.functions.get(&program.function_key()).ok_or(MultiError::NoProgram(name))?;

    // SAFETY: every field of the union is plain data, for which zeros are valid.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    let mut log = vec![0u8; 1 << 16];
    // SAFETY: the fields belong to BPF_PROG_LOAD; what they point to outlives the call.
    unsafe {
        let load = &mut attr.__bindgen_anon_3;
        for (to, from) in load.prog_name.iter_mut().zip(name.bytes().take(15)) {
            *to = from.cast_signed();
        }
        load.prog_type = bpf_prog_type::BPF_PROG_TYPE_KPROBE as u32;
        load.expected_attach_type = bpf_attach_type::BPF_TRACE_UPROBE_MULTI as u32;
        load.insns = function.instructions.as_ptr() as u64;
        load.insn_cnt = u32::try_from(function.instructions.len()).unwrap_or(u32::MAX);
        load.license = program.license.as_ptr() as u64;
    }
    bpf(bpf_cmd::BPF_PROG_LOAD, &mut attr).or_else(|first| {
        // Once more, to hear why.
        // SAFETY: as above.
        unsafe {
            let load = &mut attr.__bindgen_anon_3;
            load.log_level = 1;
            load.log_buf = log.as_mut_ptr() as u64;
            load.log_size = u32::try_from(log.len()).unwrap_or(u32::MAX);
        }
        bpf(bpf_cmd::BPF_PROG_LOAD, &mut attr).map_err(|_| {
            let text = String::from_utf8_lossy(&log);
            let last = text.trim_end_matches(['\0', '\n']).lines().rev().take(3).collect::<Vec<_>>();
            io::Error::new(first.kind(), format!("{first}: {}", last.into_iter().rev().collect::<Vec<_>>().join("; ")))
                .into()
        })
    })
}

/// Attaches a program at file offsets of the executable at `path`, each with its cookie.
///
/// # Errors
/// What the kernel said; then nothing is attached.
pub(super) fn attach(program: &OwnedFd, path: &str, offsets: &[u64], cookies: &[u64]) -> io::Result<OwnedFd> {
    let path = CString::new(path).map_err(io::Error::other)?;
    let count = u32::try_from(offsets.len().min(cookies.len())).map_err(io::Error::other)?;
    // SAFETY: every field of the union is plain data, for which zeros are valid.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    // SAFETY: the fields belong to BPF_LINK_CREATE; what they point to outlives the call.
    unsafe {
        let link = &mut attr.link_create;
        link.__bindgen_anon_1.prog_fd = program.as_raw_fd().cast_unsigned();
        link.attach_type = bpf_attach_type::BPF_TRACE_UPROBE_MULTI as u32;
        let multi = &mut link.__bindgen_anon_3.uprobe_multi;
        multi.path = path.as_ptr() as u64;
        multi.offsets = offsets.as_ptr() as u64;
        multi.cookies = cookies.as_ptr() as u64;
        multi.cnt = count;
    }
    bpf(bpf_cmd::BPF_LINK_CREATE, &mut attr)
}

/// `bpf(2)` for the commands that give a descriptor.
fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<OwnedFd> {
    // SAFETY: the attribute is as large as said, and callers filled in what the command reads.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command as libc::c_long, &raw mut *attr, size_of::<bpf_attr>()) };
    let fd = RawFd::try_from(result).ok().filter(|fd| *fd >= 0).ok_or_else(io::Error::last_os_error)?;
    // SAFETY: the kernel has just made this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The descriptor of a map of the kinds that the object has.
fn descriptor(map: &Map) -> Option<RawFd> {
    let data = match map {
        Map::Array(data) | Map::HashMap(data) | Map::LruHashMap(data) | Map::PerCpuArray(data) | Map::RingBuf(data) => {
            data
        }
        _ => return None,
    };
    Some(data.fd().as_fd().as_raw_fd())
}
