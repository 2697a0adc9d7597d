//! Loading, attaching, and the programs' own figures.

use std::{
    collections::BTreeMap,
    fs, io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use aya::{
    EbpfLoader,
    maps::{Array, HashMap, MapData, RingBuf},
    programs::{BtfTracePoint, Program, ProgramError},
};
use gobuild_trace_common::{
    ABSENT, Field, FileFacts, FileKey, ForeignIo, LostKey, Offsets, SCOPE_ALL, SCOPE_TREE, Settings, ThreadTimes,
};
use thiserror::Error;

use super::{
    btf::Btf,
    events::EventRing,
    functions::{self, Attachment, Functions, FunctionsError, Place},
    losses::Losses,
    threads::Threads,
    uprobe_multi,
    wire::Wire,
};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/gobuild-trace-ebpf"));

/// Which processes are watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// What descends from a process that called `close(root_cookie)`.
    Tree,
    /// Every go command of the host and what descends from it.
    All,
}

/// What to load.
#[derive(Clone, Debug)]
pub struct Config {
    /// Bytes of the ring; rounded up to a power of two of at least a page.
    pub ring_bytes: u32,
    /// Which processes.
    pub scope: Scope,
    /// Number that a root announces itself with by `close`; at least 0x4000_0000, so that it is no descriptor. 0: none.
    pub root_cookie: u32,
    /// Processes that can be tracked at a time.
    pub max_processes: u32,
    /// Count the programs' run time (costs two clock reads per run).
    pub measure: bool,
    /// Load the program for uprobes in go commands.
    pub functions: bool,
    /// Kernel fields to go without, as on a kernel that lacks them; names of [`Offsets::FIELDS`].
    pub without_fields: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            ring_bytes: 16 << 20,
            scope: Scope::Tree,
            root_cookie: 0,
            max_processes: 16384,
            measure: false,
            functions: false,
            without_fields: Vec::new(),
        }
    }
}

/// Why nothing can be observed. The messages say what to do.
#[derive(Debug, Error)]
pub enum ProbeError {
    /// Built with `AYA_BUILD_SKIP`.
    #[error("this build has no kernel programs in it; build without AYA_BUILD_SKIP")]
    NoPrograms,
    /// No type information.
    #[error("the kernel exposes no BTF at {path} ({source}); needs a kernel with CONFIG_DEBUG_INFO_BTF")]
    NoBtf {
        /// Where it was looked for.
        path: &'static str,
        /// Why it could not be read.
        source: io::Error,
    },
    /// Type information that cannot be read.
    #[error("the kernel's BTF is not readable: {0}")]
    Btf(#[from] super::btf::BtfError),
    /// aya's own parser refused it.
    #[error("the kernel's BTF is not readable: {0}")]
    AyaBtf(#[from] aya::BtfError),
    /// `bpf(2)` refused.
    #[error(
        "not permitted to load kernel programs; run as root, or with CAP_BPF and CAP_PERFMON \
         (in a container also allow bpf(2) in the seccomp profile)"
    )]
    NotPermitted,
    /// Lockdown forbids reading kernel memory.
    #[error("kernel lockdown is in mode confidentiality, which forbids reading kernel memory; boot without it")]
    Lockdown,
    /// A map could not be made, or the object not be read.
    #[error("loading the kernel programs: {0}")]
    Load(#[from] aya::EbpfError),
    /// Without this program nothing can be observed.
    #[error("kernel program {name}: {reason}")]
    Mandatory {
        /// The program.
        name: &'static str,
        /// What the kernel said.
        reason: String,
    },
    /// A map of the object is missing or of another kind.
    #[error("map {name}: {reason}")]
    Map {
        /// The map.
        name: &'static str,
        /// What is wrong.
        reason: String,
    },
}

/// What a program is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    /// Without it nothing can be observed.
    Mandatory,
    /// Lock waits.
    Locks,
    /// TCP states.
    Sockets,
    /// Block I/O.
    Disk,
    /// What threads do and wait for.
    Scheduler,
}

/// Whether a program runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProgramState {
    /// Attached.
    Attached,
    /// Not loaded or attached; what the kernel said.
    Missing(String),
}

/// A program and its state.
#[derive(Clone, Debug)]
pub struct ProgramStatus {
    /// Name, which is the tracepoint's.
    pub name: &'static str,
    /// What it is for.
    pub tier: Tier,
    /// Whether it runs.
    pub state: ProgramState,
}

/// A program's own figures.
#[derive(Clone, Debug)]
pub struct ProgramStats {
    /// Name, which is the tracepoint's.
    pub name: &'static str,
    /// Time spent in it; absent where the kernel does not count it, see [`Config::measure`].
    pub run_time_ns: Option<u64>,
    /// Runs; absent likewise.
    pub run_count: Option<u64>,
    /// Runs that the kernel left out because the program was already running on that processor: events lost uncounted.
    pub recursion_misses: u64,
    /// Instructions that the verifier walked; 0 before 5.16.
    pub verified_instructions: u32,
}

const PROGRAMS: &[(&str, Tier)] = &[
    ("sched_process_fork", Tier::Mandatory),
    ("sched_process_exec", Tier::Mandatory),
    ("sched_process_exit", Tier::Mandatory),
    ("sys_exit", Tier::Mandatory),
    ("flock_lock_inode", Tier::Locks),
    ("inet_sock_set_state", Tier::Sockets),
    ("block_bio_queue", Tier::Disk),
    ("block_split", Tier::Disk),
    ("block_rq_issue", Tier::Disk),
    ("block_rq_complete", Tier::Disk),
    ("sched_switch", Tier::Scheduler),
    ("sched_wakeup", Tier::Scheduler),
    ("sched_wakeup_new", Tier::Scheduler),
];

/// The loaded programs and their maps. Dropping it detaches everything.
pub struct Probes {
    ebpf: aya::Ebpf,
    statuses: Vec<ProgramStatus>,
    files: HashMap<MapData, Wire<FileKey>, Wire<FileFacts>>,
    losses: Losses,
    devices: HashMap<MapData, u32, Wire<ForeignIo>>,
    ring: Option<EventRing>,
    functions: Functions,
    threads: Threads,
    statistics: Option<OwnedFd>,
}

impl Probes {
    /// Loads and attaches.
    ///
    /// # Errors
    /// When nothing could be observed: no BTF, no permission, or a mandatory program refused. Others degrade, see
    /// [`Probes::statuses`].
    pub fn load(config: &Config) -> Result<Self, ProbeError> {
        if OBJECT.is_empty() {
            return Err(ProbeError::NoPrograms);
        }
        const BTF_PATH: &str = "/sys/kernel/btf/vmlinux";
        let bytes = fs::read(BTF_PATH).map_err(|source| ProbeError::NoBtf { path: BTF_PATH, source })?;
        let kernel = Btf::parse(&bytes)?;
        let offsets = Wire(without(kernel.offsets(), &config.without_fields));
        let settings = Wire(settings(config, &kernel));
        let aya_btf = aya::Btf::from_sys_fs()?;

        let mut loader = EbpfLoader::new();
        loader
            .btf(Some(&aya_btf))
            .override_global("OFFSETS", &offsets, true)
            .override_global("SETTINGS", &settings, true)
            .map_max_entries("EVENTS", config.ring_bytes)
            .map_max_entries("PROCS", config.max_processes)
            .map_max_entries("THREAD_TIMES", config.max_processes);
        let mut ebpf = loader.load(OBJECT).map_err(|error| match unix_error(&error) {
            Some(libc::EPERM | libc::EACCES) => refused(),
            _ => ProbeError::Load(error),
        })?;

        // It takes CAP_SYS_ADMIN (kernel/bpf/syscall.c, `bpf_enable_stats`), which nothing else here does.
        let statistics = config.measure.then(|| aya::sys::enable_stats(aya::sys::Stats::RunTime).ok()).flatten();
        let mut statuses = Vec::with_capacity(PROGRAMS.len());
        for (name, tier) in PROGRAMS {
            let state = match attach(&mut ebpf, name, &aya_btf) {
                Ok(()) => ProgramState::Attached,
                Err(error) if *tier == Tier::Mandatory => {
                    return Err(match unix_error(&error) {
                        Some(libc::EPERM) => refused(),
                        _ => ProbeError::Mandatory { name, reason: shorten(&error) },
                    });
                }
                Err(error) => ProgramState::Missing(shorten(&error)),
            };
            statuses.push(ProgramStatus { name, tier: *tier, state });
        }

        let loaded = if config.functions { load_functions(&ebpf) } else { Err("not asked for".to_owned()) };
        let ring = take::<RingBuf<MapData>>(&mut ebpf, "EVENTS")?;
        Ok(Self {
            files: take(&mut ebpf, "FILES")?,
            losses: Losses::new(take(&mut ebpf, "DROPPED")?, take(&mut ebpf, "LOST")?),
            devices: take(&mut ebpf, "DEVICES")?,
            ring: Some(EventRing::new(ring)),
            threads: Threads::new(
                take(&mut ebpf, "THREAD_TIMES")?,
                take(&mut ebpf, "ON_CPU")?,
                take(&mut ebpf, "OFF_CPU")?,
            ),
            functions: Functions::new(take::<Array<MapData, Wire<_>>>(&mut ebpf, "SITES")?, loaded),
            ebpf,
            statuses,
            statistics,
        })
    }

    /// The programs and whether they run.
    pub fn statuses(&self) -> &[ProgramStatus] {
        &self.statuses
    }

    /// Why no function of a go command can be watched; `None` when it can.
    pub fn functions_unavailable(&self) -> Option<&str> {
        self.functions.unavailable()
    }

    /// Watches an executable's functions, at all places or at none. The places' bytes must have been verified.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn attach_functions(&mut self, executable: &fs::File, places: &[Place]) -> Result<Attachment, FunctionsError> {
        self.functions.attach(executable, places)
    }

    /// The ring's reading end; `None` the second time.
    pub fn ring(&mut self) -> Option<EventRing> {
        self.ring.take()
    }

    /// Says what an executable is. Running processes of it that are undecided follow at their next event.
    ///
    /// # Errors
    /// When the map is full.
    pub fn set_file(&mut self, key: FileKey, facts: FileFacts) -> io::Result<()> {
        #[expect(clippy::needless_borrows_for_generic_args, reason = "from aya 0.15 on, map values go by reference")]
        self.files.insert(&Wire(key), &Wire(facts), 0).map_err(io::Error::other)
    }

    /// How many events did not reach the ring since the last call, by process, kind and reason; those that the kernel could
    /// count by reason alone have neither process nor kind. A few reads of memory when there are none.
    pub fn take_lost(&mut self) -> Vec<(LostKey, u64)> {
        self.losses.take()
    }

    /// Processes and kinds of which the kernel counts losses; those of processes that are gone are let go once taken.
    pub fn lost_kept(&self) -> usize {
        self.losses.kept()
    }

    /// What the threads of each tracked process did since it is tracked, what is under way included.
    pub fn thread_times(&mut self, now_ns: u64) -> BTreeMap<u32, ThreadTimes> {
        self.threads.sample(now_ns)
    }

    /// A process has ended: none of its threads waits for anything.
    pub fn process_ended(&mut self, tgid: u32, at_ns: u64) {
        self.threads.ended(tgid, at_ns);
    }

    /// Number of events that did not reach the ring.
    pub fn dropped(&self) -> u64 {
        self.losses.dropped().iter().sum()
    }

    /// What block devices did for nobody that is watched, by their kernel number: sums since load. `None` where block
    /// I/O is not seen.
    pub fn foreign_io(&self) -> Option<Vec<(u32, ForeignIo)>> {
        let sees =
            |program: &ProgramStatus| program.name == "block_rq_complete" && program.state == ProgramState::Attached;
        let rows = || self.devices.iter().filter_map(Result::ok).map(|(device, Wire(io))| (device, io)).collect();
        self.statuses.iter().any(sees).then(rows)
    }

    /// The programs' own figures.
    pub fn program_stats(&self) -> Vec<ProgramStats> {
        PROGRAMS
            .iter()
            .map(|(name, _)| *name)
            .chain([functions::PROGRAM])
            .filter_map(|name| {
                let fd = match self.ebpf.program(name)? {
                    Program::BtfTracePoint(program) => program.fd().ok()?.as_fd().as_raw_fd(),
                    Program::UProbe(_) => self.functions.descriptor()?,
                    _ => return None,
                };
                let fdinfo = fdinfo(fd);
                let figure = |name: &str| fdinfo.get(name).copied().unwrap_or(0);
                // Without counting they are shown as 0; `kernel.bpf_stats_enabled` counts for everybody.
                let counted = |name: &str| Some(figure(name)).filter(|n| self.statistics.is_some() || *n > 0);
                Some(ProgramStats {
                    name,
                    run_time_ns: counted("run_time_ns"),
                    run_count: counted("run_cnt"),
                    recursion_misses: figure("recursion_misses"),
                    verified_instructions: u32::try_from(figure("verified_insns")).unwrap_or(0),
                })
            })
            .collect()
    }
}

/// What this kernel offers, without loading anything.
#[derive(Clone, Debug)]
pub struct FeatureReport {
    /// `uname -r`.
    pub kernel: String,
    /// Type information was read, or why not.
    pub btf: Result<(), String>,
    /// Tracepoints that this kernel lacks.
    pub missing_tracepoints: Vec<&'static str>,
    /// Kernel fields that this kernel lacks.
    pub missing_fields: Vec<&'static str>,
    /// Mode of the lockdown module (`none`, `integrity`, `confidentiality`); `None` without the module.
    pub lockdown: Option<String>,
}

/// Looks at what this kernel offers, without loading anything.
pub fn features() -> FeatureReport {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned();
    let mut report = FeatureReport {
        kernel,
        btf: Ok(()),
        missing_tracepoints: Vec::new(),
        missing_fields: Vec::new(),
        lockdown: lockdown(),
    };
    let bytes = match fs::read("/sys/kernel/btf/vmlinux") {
        Ok(bytes) => bytes,
        Err(error) => {
            report.btf = Err(error.to_string());
            return report;
        }
    };
    match Btf::parse(&bytes) {
        Ok(btf) => {
            report.missing_tracepoints = PROGRAMS
                .iter()
                .map(|(name, _)| *name)
                .filter(|name| btf.tracepoint_arguments(name).is_none())
                .collect();
            report.missing_fields = Offsets::FIELDS
                .iter()
                .filter(|field| field.members.iter().all(|path| btf.member(field.structure, path).is_none()))
                .map(|field| field.name)
                .collect();
        }
        Err(error) => report.btf = Err(error.to_string()),
    }
    report
}

/// The same but for these fields.
fn without(offsets: Offsets, fields: &[String]) -> Offsets {
    let left =
        |(field, value): (&Field, u32)| if fields.iter().any(|name| name == field.name) { ABSENT } else { value };
    let values: Vec<u32> = Offsets::FIELDS.iter().zip(offsets.values()).map(left).collect();
    Offsets::from_values(&values)
}

fn settings(config: &Config, kernel: &Btf<'_>) -> Settings {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let page_bytes = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten().unwrap_or(4096);
    Settings {
        scope: match config.scope {
            Scope::Tree => SCOPE_TREE,
            Scope::All => SCOPE_ALL,
        },
        root_cookie: config.root_cookie,
        wake_bytes: config.ring_bytes / 8,
        task_pt_regs: u8::from(version(&release) >= (5, 15)),
        exit_group_dead: u8::from(kernel.tracepoint_arguments("sched_process_exit") == Some(2)),
        bio_argument: u8::from(kernel.tracepoint_arguments("block_bio_queue") == Some(2)),
        issue_argument: u8::from(kernel.tracepoint_arguments("block_rq_issue") == Some(2)),
        // A module's structures are not in the kernel's BTF, so the version decides.
        overlay_indirect: u8::from(version(&release) >= (6, 13)),
        page_shift: page_bytes.ilog2() as u8,
        // Half of a large write-back is beyond 64; what is beyond is counted as lost. The verifier of 6.1 has patience
        // for 64 and not for 256, which costs that of 6.18 less than a third of what it allows.
        max_bios: if version(&release) < (6, 6) { 64 } else { 256 },
        _pad: [0; 12],
    }
}

/// Major and minor of `uname -r`.
fn version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

fn attach(ebpf: &mut aya::Ebpf, name: &str, btf: &aya::Btf) -> Result<(), ProgramError> {
    let program: &mut BtfTracePoint = ebpf
        .program_mut(name)
        .ok_or(ProgramError::InvalidName { name: name.to_owned() })
        .and_then(|program| match program {
            Program::BtfTracePoint(program) => Ok(program),
            _ => Err(ProgramError::UnexpectedProgramType),
        })?;
    program.load(name, btf)?;
    program.attach()?;
    Ok(())
}

/// The program for uprobes, loaded for links to many places.
fn load_functions(ebpf: &aya::Ebpf) -> Result<OwnedFd, String> {
    // 6.1 loads the program and then refuses the link (EINVAL).
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    if version(&release) < (6, 6) {
        return Err("watching the go command's functions needs Linux 6.6 or newer".to_owned());
    }
    uprobe_multi::load(OBJECT, functions::PROGRAM, ebpf.maps()).map_err(|error| shorten(&error))
}

fn take<T: TryFrom<aya::maps::Map, Error = aya::maps::MapError>>(
    ebpf: &mut aya::Ebpf,
    name: &'static str,
) -> Result<T, ProbeError> {
    let map = ebpf.take_map(name).ok_or_else(|| ProbeError::Map { name, reason: "not in the object".to_owned() })?;
    T::try_from(map).map_err(|error| ProbeError::Map { name, reason: error.to_string() })
}

fn refused() -> ProbeError {
    if lockdown().as_deref() == Some("confidentiality") { ProbeError::Lockdown } else { ProbeError::NotPermitted }
}

/// The mode in brackets of `none [integrity] confidentiality`.
fn lockdown() -> Option<String> {
    let text = fs::read_to_string("/sys/kernel/security/lockdown").ok()?;
    let (_, rest) = text.split_once('[')?;
    rest.split_once(']').map(|(mode, _)| mode.to_owned())
}

/// errno at the end of an error's chain.
fn unix_error(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(code) = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) {
            return Some(code);
        }
        next = error.source();
    }
    None
}

/// An error's chain without most of the verifier's log, whose last lines say what was refused.
fn shorten(error: &(dyn std::error::Error + 'static)) -> String {
    let text = error.to_string();
    let lines: Vec<&str> = text.lines().collect();
    let mut short = lines.get(lines.len().saturating_sub(40)..).unwrap_or_default().join("\n");
    let mut next = error.source();
    while let Some(cause) = next {
        short = format!("{short}: {cause}");
        next = cause.source();
    }
    short
}

/// Numeric lines of `/proc/self/fdinfo/<fd>`.
fn fdinfo(fd: i32) -> BTreeMap<String, u64> {
    fs::read_to_string(format!("/proc/self/fdinfo/{fd}"))
        .unwrap_or_default()
        .lines()
        .filter_map(|line| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_owned(), value.trim().parse().ok()?))
        })
        .collect()
}
