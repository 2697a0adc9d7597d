//! The user who called us through sudo or doas, with the environment that user had before.
//!
//! sudo clears the environment (`env_reset`), replaces PATH (`secure_path`) and HOME; its own process, our parent
//! (with `use_pty` a fork of it), still has what the user had. Users and groups come from `/etc/passwd` and
//! `/etc/group` read as files: a static program has no name service.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use super::process::Process;

/// Who called us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvokingUser {
    /// User id, never 0.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Supplementary groups, the primary one included.
    pub groups: Vec<u32>,
    /// Login name.
    pub name: Option<OsString>,
    /// The environment that a command of this user has. It holds secrets: it is for the child alone.
    pub environment: Vec<(OsString, OsString)>,
    /// Where the environment is from.
    pub source: EnvironmentSource,
}

/// Where the invoking user's environment is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EnvironmentSource {
    /// The process of sudo or doas above us: complete.
    SudoProcess,
    /// Our own, with HOME, USER and LOGNAME of the user: what sudo removed is missing.
    Own,
}

/// The user behind sudo or doas; `None` when we are not root or root called us.
#[must_use]
pub fn invoking_user() -> Option<InvokingUser> {
    if !nix::unistd::geteuid().is_root() {
        return None;
    }
    let own: Vec<(OsString, OsString)> = std::env::vars_os().collect();
    let caller = Caller::from_environment(&own, &read_users())?;
    let groups = read_file("/etc/group");
    let escalation = escalation_process();
    let (environment, source) = match escalation.as_ref().and_then(|found| found.environment()) {
        Some(original) => (with_explicit_variables(original, &own), EnvironmentSource::SudoProcess),
        None => (own_environment(own, &caller), EnvironmentSource::Own),
    };
    let mut all_groups = match escalation.and_then(|found| found.caller_groups(caller.uid)) {
        Some(groups) => groups,
        None => parse_groups(&groups, caller.name.as_deref()),
    };
    if !all_groups.contains(&caller.gid) {
        all_groups.push(caller.gid);
    }
    Some(InvokingUser { uid: caller.uid, gid: caller.gid, groups: all_groups, name: caller.name, environment, source })
}

/// One line of `/etc/passwd`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct User {
    name: OsString,
    uid: u32,
    gid: u32,
    home: PathBuf,
}

/// Who sudo or doas says called.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Caller {
    uid: u32,
    gid: u32,
    name: Option<OsString>,
    home: Option<PathBuf>,
}

impl Caller {
    /// sudo sets SUDO_UID, SUDO_GID and SUDO_USER; doas sets DOAS_USER alone.
    fn from_environment(environment: &[(OsString, OsString)], users: &[User]) -> Option<Self> {
        let get = |name: &str| environment.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_os_str());
        let number = |name: &str| get(name)?.to_str()?.parse::<u32>().ok();
        let (uid, gid, name) = match (number("SUDO_UID"), number("SUDO_GID")) {
            (Some(uid), Some(gid)) => (uid, gid, get("SUDO_USER").map(OsStr::to_owned)),
            _ => {
                let name = get("DOAS_USER")?;
                let user = users.iter().find(|user| user.name == name)?;
                (user.uid, user.gid, Some(name.to_owned()))
            }
        };
        if uid == 0 || uid == u32::MAX || gid == u32::MAX {
            return None;
        }
        let user = users.iter().find(|user| user.uid == uid);
        Some(Self {
            uid,
            gid,
            name: name.or_else(|| user.map(|user| user.name.clone())),
            home: user.map(|user| user.home.clone()),
        })
    }
}

/// The sudo or doas process that made us root, our parent. When a shell or make stands between, what that set in the
/// environment is ours already, and is the better one.
struct Escalation {
    process: Process,
    /// The process that called it.
    caller: Option<Process>,
}

fn escalation_process() -> Option<Escalation> {
    let process = Process::open(nix::unistd::getppid().as_raw().unsigned_abs()).known()?;
    if !is_escalation(&process) {
        return None;
    }
    let environ = process.raw_environ().known();
    // Under use_pty the parent is sudo's monitor, a fork with the same environment; a sudo above it with another one
    // was called before by somebody else.
    let mut caller = parent_of(&process);
    while let Some(above) = caller.take_if(|above| is_escalation(above) && above.raw_environ().known() == environ) {
        caller = parent_of(&above);
    }
    Some(Escalation { process, caller })
}

fn is_escalation(process: &Process) -> bool {
    let executable = process.executable_path().known().unwrap_or_default();
    matches!(executable.rsplit('/').next(), Some("sudo" | "sudo-rs" | "doas"))
}

fn parent_of(process: &Process) -> Option<Process> {
    Process::open(process.status().known()?.parent).known()
}

impl Escalation {
    fn environment(&self) -> Option<Vec<(OsString, OsString)>> {
        let bytes = self.process.raw_environ().known()?;
        let environment = bytes
            .split(|byte| *byte == 0)
            .filter_map(|entry| {
                let equals = entry.iter().position(|byte| *byte == b'=').filter(|at| *at > 0)?;
                Some((os(&entry[..equals]), os(&entry[equals + 1..])))
            })
            .collect();
        Some(environment)
    }

    /// The supplementary groups of the process that called sudo, if it is the user's own: they include those of
    /// directories that no file knows.
    fn caller_groups(&self, uid: u32) -> Option<Vec<u32>> {
        let status = self.caller.as_ref()?.status().known()?;
        (status.uid == uid).then_some(status.groups)
    }
}

/// What sudo sets or replaces for root; of our environment these say nothing about the user's.
fn is_set_by_sudo(name: &OsStr) -> bool {
    matches!(
        name.as_bytes(),
        b"HOME"
            | b"LOGNAME"
            | b"MAIL"
            | b"PATH"
            | b"PS1"
            | b"PWD"
            | b"OLDPWD"
            | b"SHELL"
            | b"TERM"
            | b"USER"
            | b"USERNAME"
            | b"XAUTHORITY"
    ) || name.as_bytes().starts_with(b"SUDO_")
        || name.as_bytes().starts_with(b"DOAS_")
}

/// The user's environment, and what was set between sudo and us: `sudo GOFLAGS=-v gobuild-trace …`.
fn with_explicit_variables(
    mut environment: Vec<(OsString, OsString)>,
    own: &[(OsString, OsString)],
) -> Vec<(OsString, OsString)> {
    for (name, value) in own.iter().filter(|(name, _)| !is_set_by_sudo(name)) {
        match environment.iter_mut().find(|(existing, _)| existing == name) {
            Some((_, existing)) => value.clone_into(existing),
            None => environment.push((name.clone(), value.clone())),
        }
    }
    environment
}

fn own_environment(own: Vec<(OsString, OsString)>, caller: &Caller) -> Vec<(OsString, OsString)> {
    let mut environment: Vec<_> = own
        .into_iter()
        .filter(|(name, _)| !name.as_bytes().starts_with(b"SUDO_") && !name.as_bytes().starts_with(b"DOAS_"))
        .collect();
    let home = caller.home.as_ref().map(|home| home.clone().into_os_string());
    for (name, value) in [("HOME", home), ("USER", caller.name.clone()), ("LOGNAME", caller.name.clone())] {
        let Some(value) = value else { continue };
        environment.retain(|(existing, _)| existing != name);
        environment.push((name.into(), value));
    }
    environment
}

fn read_users() -> Vec<User> {
    parse_users(&read_file("/etc/passwd"))
}

fn read_file(path: &str) -> Vec<u8> {
    std::fs::read(path).unwrap_or_default()
}

/// `name:password:uid:gid:comment:home:shell`.
fn parse_users(text: &[u8]) -> Vec<User> {
    text.split(|byte| *byte == b'\n')
        .filter_map(|line| {
            let mut fields = line.split(|byte| *byte == b':');
            let name = fields.next()?;
            let uid = parse_number(fields.nth(1)?)?;
            let gid = parse_number(fields.next()?)?;
            let home = fields.nth(1)?;
            Some(User { name: os(name), uid, gid, home: os(home).into() })
        })
        .collect()
}

/// Groups that name the user as a member: `name:password:gid:member,member`.
fn parse_groups(text: &[u8], user: Option<&OsStr>) -> Vec<u32> {
    let Some(user) = user else { return Vec::new() };
    text.split(|byte| *byte == b'\n')
        .filter_map(|line| {
            let mut fields = line.split(|byte| *byte == b':').skip(2);
            let gid = parse_number(fields.next()?)?;
            fields.next()?.split(|byte| *byte == b',').any(|member| member == user.as_bytes()).then_some(gid)
        })
        .collect()
}

fn parse_number(bytes: &[u8]) -> Option<u32> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

fn os(bytes: &[u8]) -> OsString {
    OsString::from_vec(bytes.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(entries: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
        entries.iter().map(|(name, value)| (name.into(), value.into())).collect()
    }

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/bash\nann:x:1000:1001:Ann:/home/ann:/bin/sh\nbroken\n:::\n";

    #[test]
    fn sudo_and_doas_name_the_caller() {
        let users = parse_users(PASSWD);
        assert_eq!(users.len(), 2);
        let caller = |entries: &[(&str, &str)]| Caller::from_environment(&environment(entries), &users);
        let ann = Caller { uid: 1000, gid: 1001, name: Some("ann".into()), home: Some("/home/ann".into()) };
        assert_eq!(caller(&[("SUDO_UID", "1000"), ("SUDO_GID", "1001"), ("SUDO_USER", "ann")]), Some(ann.clone()));
        assert_eq!(caller(&[("DOAS_USER", "ann")]), Some(ann));
        assert_eq!(caller(&[("SUDO_UID", "0"), ("SUDO_GID", "0")]), None);
        assert_eq!(caller(&[("SUDO_UID", "4294967295"), ("SUDO_GID", "1")]), None);
        assert_eq!(caller(&[("SUDO_UID", "x"), ("SUDO_GID", "1")]), None);
        assert_eq!(caller(&[("DOAS_USER", "nobody-here")]), None);
        assert_eq!(caller(&[]), None);
    }

    #[test]
    fn what_was_set_behind_sudo_wins() {
        let original =
            environment(&[("PATH", "/home/ann/bin"), ("HOME", "/home/ann"), ("GOFLAGS", "-mod=mod"), ("A", "1")]);
        let own =
            environment(&[("PATH", "/usr/sbin"), ("HOME", "/root"), ("GOFLAGS", "-v"), ("B", "2"), ("SUDO_UID", "1")]);
        let mut merged = with_explicit_variables(original, &own);
        merged.sort();
        assert_eq!(
            merged,
            environment(&[("A", "1"), ("B", "2"), ("GOFLAGS", "-v"), ("HOME", "/home/ann"), ("PATH", "/home/ann/bin")])
        );
    }

    #[test]
    fn groups_are_those_with_the_user_as_member() {
        let text = b"root:x:0:\nadm:x:4:syslog,ann\nann:x:1001:\nannex:x:7:annex\nbroken:x\n";
        assert_eq!(parse_groups(text, Some(OsStr::new("ann"))), [4]);
        assert_eq!(parse_groups(text, None), Vec::<u32>::new());
    }
}
