//! Documents for tests: a few that a reader would meet, and any document at all from random bytes.

pub mod arbitrary;

use std::collections::BTreeMap;

use crate::build::*;
use crate::diagnose;

const S: u64 = 1_000_000_000;
const MS: u64 = 1_000_000;

/// A document around `builds` whose findings are those of `diagnose`.
pub fn document(run: Option<Run>, mut builds: Vec<Build>) -> Document {
    let mut lost = LostEvents::default();
    for build in &mut builds {
        build.findings = diagnose::findings(build);
        lost.total += build.lost_events.total;
        for (reason, count) in &build.lost_events.by_reason {
            *lost.by_reason.entry(reason.clone()).or_default() += count;
        }
    }
    Document {
        schema_version: SCHEMA_VERSION,
        tool: Tool { name: "gobuild-trace".to_owned(), version: "0.1.0".to_owned() },
        machine: Machine { kernel: "6.12.0".to_owned(), cpus: 4, hostname: "runner-7".to_owned() },
        probes: vec![
            Probe { name: Tier::Paths, state: ProbeState::Ok, reason: None },
            Probe { name: Tier::Goroutine, state: ProbeState::Ok, reason: None },
            Probe { name: Tier::Spans, state: ProbeState::Off, reason: None },
            Probe { name: Tier::Requests, state: ProbeState::Off, reason: None },
        ],
        run,
        complete: lost.total == 0,
        lost_events: lost,
        builds,
    }
}

pub fn words(line: &str) -> Vec<String> {
    line.split(' ').map(str::to_owned).collect()
}

pub fn run(line: &str, exit_code: i32, duration_ns: u64) -> Run {
    Run {
        command: words(line),
        exit_code: Some(exit_code),
        signal: None,
        duration_ns: Some(duration_ns),
        scope: Scope::Tree,
    }
}

/// A go command that did nothing yet and worked.
pub fn build(line: &str, duration_ns: u64) -> Build {
    let command = words(line);
    Build {
        id: format!("4711-{}", line.len()),
        trace_id: "0af7651916cd43dd8448eb211c80319c".to_owned(),
        subcommand: command.get(1).cloned().unwrap_or_default(),
        command,
        go_version: Some("go1.26.8".to_owned()),
        exit_code: Some(0),
        result: Some(BuildResult::Success),
        pid: 4711,
        started_at: "2026-11-21T08:00:00.000000001Z".to_owned(),
        duration_ns,
        user_ns: Some(duration_ns),
        system_ns: Some(0),
        complete: true,
        summary: Summary { cpu_ns: Some(duration_ns), cores: 4, ..Summary::default() },
        phases: vec![PhaseShare { phase: Phase::Load, wall_share_ns: duration_ns, cpu_ns: Some(duration_ns) }],
        ..Build::default()
    }
}

pub fn fetch(id: u64, kind: FetchKind, host: &str, stages: Stages) -> Fetch {
    let duration_ns = stages.sum_ns();
    Fetch {
        id,
        kind,
        for_module: None,
        state: FetchState::Done,
        source: Some(Source::Proxy),
        proxy_index: None,
        url: None,
        host: Some(host.to_owned()),
        status: None,
        requests: None,
        bytes: Some(1000),
        start_ns: 0,
        duration_ns,
        wall_share_ns: duration_ns,
        stages,
        connection: None,
        redirects: Vec::new(),
        follows: None,
        follows_because: None,
        error_type: None,
        error: None,
    }
}

pub fn module(path: &str, version: &str, fetches: Vec<Fetch>) -> Module {
    Module {
        path: path.to_owned(),
        version: Some(version.to_owned()),
        result: if fetches.is_empty() { ModuleResult::Cached } else { ModuleResult::Downloaded },
        source: Some(Source::Proxy),
        host: fetches.first().and_then(|fetch| fetch.host.clone()),
        bytes: fetches.iter().filter_map(|fetch| fetch.bytes).sum(),
        cached: if fetches.is_empty() { vec![FileKind::Mod, FileKind::Zip] } else { Vec::new() },
        lock_wait_ns: None,
        unzip_ns: None,
        duration_ns: fetches.iter().map(|fetch| fetch.duration_ns).sum(),
        wall_share_ns: fetches.iter().map(|fetch| fetch.wall_share_ns).sum(),
        error_type: None,
        error: None,
        cache_entry: Some(if fetches.is_empty() { CacheEntry::Hit } else { CacheEntry::Miss }),
        fetches,
    }
}

pub fn zip_stages(ttfb_ns: u64, transfer_ns: u64) -> Stages {
    Stages { queue_ns: Some(0), ttfb_ns: Some(ttfb_ns), transfer_ns: Some(transfer_ns), ..Stages::default() }
}

pub const PROXY: &str = "proxy.corp.example";
pub const GIT: &str = "git.corp.example";

/// The design's example: 87 modules downloaded, 14 files slow, 4 modules by git after a 404.
pub fn example() -> Document {
    let mut id = 0;
    let mut next = || {
        id += 1;
        id
    };
    let slow_names = [("k8s.io/api", "v0.31.2", 7_900), ("k8s.io/client-go", "v0.31.2", 2_600)];
    let mut modules: Vec<Module> = slow_names
        .iter()
        .map(|(path, version, ms)| {
            let mut row = module(
                path,
                version,
                vec![
                    fetch(next(), FetchKind::Mod, PROXY, zip_stages(40 * MS, MS)),
                    fetch(next(), FetchKind::Zip, PROXY, zip_stages(ms * MS, 300 * MS)),
                ],
            );
            row.unzip_ns = Some(150 * MS);
            row
        })
        .collect();
    let aws = fetch(next(), FetchKind::Zip, PROXY, zip_stages(41 * MS, 4_800 * MS));
    modules.push(module("github.com/aws/aws-sdk-go", "v1.55.5", vec![aws]));
    for number in 0..4 {
        let mut missed = fetch(next(), FetchKind::Info, PROXY, zip_stages(50 * MS, 0));
        missed.state = FetchState::Failed;
        missed.bytes = None;
        missed.status = Some(404);
        missed.error_type = Some(ErrorType::Http404);
        let stages = Stages { unattributed_ns: Some((3_800 - number * 900) * MS), ..Stages::default() };
        let mut git = fetch(next(), FetchKind::Vcs, GIT, stages);
        git.source = Some(Source::Direct);
        git.follows = Some(missed.id);
        git.follows_because = Some(FollowsBecause::Fallthrough);
        let mut row = module(&format!("{GIT}/team/part{number}"), "v1.4.0", vec![missed, git]);
        row.host = Some(GIT.to_owned());
        row.source = Some(Source::Direct);
        modules.push(row);
    }
    for number in 0..80 {
        let fetches = vec![
            fetch(next(), FetchKind::Info, PROXY, zip_stages(38 * MS, 0)),
            fetch(next(), FetchKind::Mod, PROXY, zip_stages(39 * MS, MS)),
            fetch(next(), FetchKind::Zip, PROXY, zip_stages((35 + number / 8) * MS, 4 * MS)),
        ];
        modules.push(module(&format!("example.com/lib/number{number}"), "v1.0.0", fetches));
    }
    for number in 0..12 {
        modules.push(module(&format!("example.com/kept/number{number}"), "v1.0.0", Vec::new()));
    }

    let mut packages: Vec<Package> = (0..371)
        .map(|number| Package {
            import_path: format!("example.com/lib/number{number}"),
            compile_ns: Some((400 - number) * MS),
            wall_share_ns: (371 - number) * MS / 3,
            reason: Some(if number < 168 { RebuildReason::InputsChanged } else { RebuildReason::NeverBuilt }),
            because_of: (1..120).contains(&number).then(|| "k8s.io/api/core/v1".to_owned()),
            ..Package::new(String::new(), CacheResult::Miss)
        })
        .collect();
    packages[0].import_path = "k8s.io/api/core/v1".to_owned();
    packages[0].compile_ns = Some(6_800 * MS);
    packages[0].wall_share_ns = 4_100 * MS;
    packages.extend((0..412).map(|number| Package::new(format!("std/number{number}"), CacheResult::Hit)));
    let compile = ToolRun {
        tool: "compile".to_owned(),
        import_path: Some("k8s.io/api/core/v1".to_owned()),
        pid: 5000,
        duration_ns: 6_800 * MS,
        wall_share_ns: 4_100 * MS,
        user_ns: Some(10_900 * MS),
        system_ns: Some(300 * MS),
        exit_code: Some(0),
        ..ToolRun::default()
    };

    let mut build = build("go build ./...", 72 * S);
    build.user_ns = Some(120 * S);
    build.system_ns = Some(10 * S);
    build.summary = Summary {
        modules_downloaded: 87,
        download_bytes: 64_100_000,
        build_cache_hits: Some(412),
        build_cache_misses: Some(371),
        cpu_ns: Some(130 * S),
        cores: 4,
        failed_fetches: 0,
    };
    let phase = |phase, ms, cpu| PhaseShare { phase, wall_share_ns: ms * MS, cpu_ns: Some(cpu * MS) };
    build.phases = vec![
        phase(Phase::Download, 31_200, 9_400),
        phase(Phase::Compile, 33_000, 112_000),
        phase(Phase::Link, 6_100, 7_900),
        phase(Phase::Other, 1_700, 700),
        phase(Phase::Run, 0, 0),
    ];
    let stage = |stage, ms| StageShare { stage, wall_share_ns: ms * MS };
    build.stages = vec![
        stage(Stage::Ttfb, 17_900),
        stage(Stage::Vcs, 6_300),
        stage(Stage::Transfer, 5_600),
        stage(Stage::Unzip, 1_200),
        stage(Stage::Dns, 50),
        stage(Stage::Connect, 60),
        stage(Stage::Tls, 90),
        stage(Stage::Lock, 0),
    ];
    build.hosts = vec![
        Host {
            host: PROXY.to_owned(),
            source: Source::Proxy,
            requests: 261,
            errors: BTreeMap::from([(ErrorType::Http404, 12)]),
            bytes: 60_000_000,
            wall_share_ns: 23_700 * MS,
            duration_ns: Durations { sum: Some(50 * S), p50: Some(41 * MS), p95: Some(1_900 * MS), max: Some(8 * S) },
        },
        Host {
            host: GIT.to_owned(),
            source: Source::Direct,
            requests: 4,
            errors: BTreeMap::new(),
            bytes: 4_100_000,
            wall_share_ns: 6_300 * MS,
            duration_ns: Durations { sum: Some(9 * S), p50: Some(2_100 * MS), p95: None, max: Some(4 * S) },
        },
    ];
    build.modules = modules;
    build.caches = Caches {
        build: Some(BuildCache {
            hits: 412,
            misses: 371,
            directory: None,
            backend: Some(CacheBackend::Local),
            saved_ns: Some(95 * S),
        }),
        module: Some(ModuleCache { hits: 12, misses: 87, incomplete: Some(0), directory: None }),
        packages,
        ..Caches::default()
    };
    build.tools = vec![compile];
    let direction = |operations, bytes, p50, p95| DiskDirection {
        operations,
        bytes,
        latency_ns: Durations { sum: Some(S), p50: Some(p50), p95: Some(p95), max: Some(p95 * 3) },
        latency_buckets: Vec::new(),
    };
    build.disk = Some(Disk {
        io_wait_ns: Some(3_400 * MS),
        io_wait_by_role: vec![
            RoleIoWait { role: "go".to_owned(), io_wait_ns: 2_900 * MS },
            RoleIoWait { role: "link".to_owned(), io_wait_ns: 500 * MS },
        ],
        read: direction(900, 210_000_000, 180_000, 2 * MS),
        write: direction(4_000, 1_200_000_000, 900_000, 12 * MS),
        by_device: vec![DeviceIo {
            device: "vda".to_owned(),
            read: direction(900, 210_000_000, 180_000, 2 * MS),
            write: direction(4_000, 1_200_000_000, 900_000, 12 * MS),
            others: Some(OtherIo {
                read: DiskCount { operations: 20_000, bytes: 2_600_000_000 },
                write: DiskCount { operations: 40, bytes: 3_000_000 },
            }),
        }],
        by_area: vec![
            AreaIo { area: Area::BuildCache, read_bytes: 180_000_000, write_bytes: 900_000_000 },
            AreaIo { area: Area::ModuleCache, read_bytes: 0, write_bytes: 290_000_000 },
            AreaIo { area: Area::Work, read_bytes: 0, write_bytes: 0 },
            AreaIo { area: Area::Other, read_bytes: 30_000_000, write_bytes: 10_000_000 },
        ],
    });
    document(Some(run("go build ./...", 0, 72 * S)), vec![build])
}

/// All from the caches; only the link was to do.
pub fn warm() -> Build {
    let mut build = build("go build ./...", 900 * MS);
    build.phases = vec![
        PhaseShare { phase: Phase::Load, wall_share_ns: 300 * MS, cpu_ns: Some(500 * MS) },
        PhaseShare { phase: Phase::Link, wall_share_ns: 600 * MS, cpu_ns: Some(700 * MS) },
    ];
    build.modules = (0..99).map(|number| module(&format!("example.com/m{number}"), "v1.0.0", Vec::new())).collect();
    build.caches.module = Some(ModuleCache { hits: 99, misses: 0, incomplete: Some(0), directory: None });
    build.caches.build = Some(BuildCache { hits: 783, misses: 0, directory: None, backend: None, saved_ns: None });
    build
}

/// Ended by SIGTERM while a proxy did not answer.
pub fn killed_in_flight() -> Document {
    let mut build = build("go mod download", 600 * S);
    build.exit_code = None;
    build.signal = Some("SIGTERM".to_owned());
    build.result = Some(BuildResult::Cancellation);
    build.subcommand = "mod download".to_owned();
    build.summary.cpu_ns = Some(4_100 * MS);
    build.summary.modules_downloaded = 61;
    build.summary.download_bytes = 38_200_000;
    build.modules = (0..61)
        .map(|number| {
            let zip = fetch(number, FetchKind::Zip, PROXY, zip_stages(41 * MS, 10 * MS));
            module(&format!("example.com/m{number}"), "v1.0.0", vec![zip])
        })
        .collect();
    let mut open =
        fetch(99, FetchKind::Zip, PROXY, Stages { queue_ns: Some(0), ttfb_ns: Some(588 * S), ..Stages::default() });
    open.state = FetchState::InFlight;
    open.bytes = None;
    open.start_ns = 12 * S;
    let mut row = module("k8s.io/api", "v0.31.2", vec![open]);
    row.result = ModuleResult::InFlight;
    build.modules.push(row);
    build.phases = vec![
        PhaseShare { phase: Phase::Download, wall_share_ns: 599 * S, cpu_ns: Some(4_000 * MS) },
        PhaseShare { phase: Phase::Load, wall_share_ns: S, cpu_ns: Some(100 * MS) },
    ];
    let mut wrapped = run("go mod download", 0, 600 * S);
    wrapped.exit_code = None;
    wrapped.signal = Some("SIGTERM".to_owned());
    document(Some(wrapped), vec![build])
}

/// `make test` with 14 go commands, 11 of them short.
pub fn many_commands() -> Document {
    let phases = |rows: &[(Phase, u64)]| -> Vec<PhaseShare> {
        rows.iter().map(|(phase, ms)| PhaseShare { phase: *phase, wall_share_ns: ms * MS, cpu_ns: None }).collect()
    };
    let compiled = |count: u64| -> Vec<Package> {
        (0..count)
            .map(|number| Package {
                compile_ns: Some((900 - number) * MS),
                wall_share_ns: (900 - number) * MS / 2,
                ..Package::new(format!("example.com/app/p{number}"), CacheResult::Miss)
            })
            .collect()
    };
    let mut test = build("go test ./...", 151 * S);
    test.exit_code = Some(1);
    test.result = Some(BuildResult::Failure);
    test.phases = phases(&[(Phase::Compile, 48_000), (Phase::Link, 9_700), (Phase::Run, 90_000), (Phase::Load, 3_300)]);
    test.caches.packages = compiled(90);
    test.caches.build = Some(BuildCache { hits: 700, misses: 90, directory: None, backend: None, saved_ns: None });
    let Document { builds: mut example, .. } = example();
    let mut vet = build("go vet ./...", 9_400 * MS);
    vet.phases = phases(&[(Phase::Compile, 7_600), (Phase::Vet, 1_800)]);
    vet.caches.packages = compiled(20);
    let mut builds = vec![example.remove(0), test, vet];
    for number in 0..11 {
        let line = ["go env GOROOT", "go list ./...", "go version"][number % 3];
        let mut short = build(line, (150 + 9 * u64::try_from(number).unwrap()) * MS);
        short.id = format!("short-{number:02}");
        builds.push(short);
    }
    document(Some(run("make test", 2, 250 * S)), builds)
}

/// `go generate` whose program runs go: the time of the inner ones is part of the outer one's.
pub fn nested_commands() -> Document {
    let inside = |line: &str, id: &str, parent: &str, ms: u64| {
        let mut build = build(line, ms * MS);
        build.id = id.to_owned();
        build.parent_id = Some(parent.to_owned());
        build
    };
    let mut generate = build("go generate ./...", 42 * S);
    generate.id = "generate".to_owned();
    generate.phases = vec![PhaseShare { phase: Phase::Run, wall_share_ns: 41 * S, cpu_ns: None }];
    let mut test = build("go test ./...", 20 * S);
    test.id = "test".to_owned();
    test.phases = vec![PhaseShare { phase: Phase::Run, wall_share_ns: 19 * S, cpu_ns: None }];
    let builds = vec![
        inside("go env GOROOT", "env", "build", 12),
        inside("go build -o bin/tool ./tool", "build", "run", 30_000),
        test,
        inside("go run ./internal/gen", "run", "generate", 40_000),
        generate,
        inside("go list ./...", "list", "generate", 150),
        inside("go vet ./elsewhere", "elsewhere", "of another file", 2_000),
    ];
    document(Some(run("make", 0, 65 * S)), builds)
}

/// The example with events lost.
pub fn lossy() -> Document {
    let mut document = example();
    let lost = LostEvents { total: 1204, by_reason: BTreeMap::from([("ring_full".to_owned(), 1204)]) };
    document.builds[0].lost_events = lost.clone();
    document.builds[0].complete = false;
    document.builds[0].incomplete = vec![Section::Modules, Section::Network, Section::Tools, Section::Disk];
    document.builds[0].findings = diagnose::findings(&document.builds[0]);
    document.lost_events = lost;
    document.complete = false;
    document
}

/// A module that nobody has, and a package that does not compile.
pub fn failure() -> Document {
    let mut failed = fetch(2, FetchKind::Zip, PROXY, zip_stages(1_200 * MS, 0));
    failed.state = FetchState::Failed;
    failed.bytes = None;
    failed.error_type = Some(ErrorType::Http403);
    failed.error = Some("403 Forbidden".to_owned());
    let mut row = module("example.com/private", "v1.2.3", vec![failed]);
    row.result = ModuleResult::Failed;
    row.error_type = Some(ErrorType::Http403);
    row.error = Some("reading https://proxy.corp.example/example.com/private/@v/v1.2.3.zip: 403 Forbidden".to_owned());
    let fine = fetch(1, FetchKind::Zip, PROXY, zip_stages(41 * MS, 20 * MS));
    let mut build = build("go build -o app .", 2_400 * MS);
    build.exit_code = Some(1);
    build.result = Some(BuildResult::Failure);
    build.summary.modules_downloaded = 1;
    build.summary.download_bytes = 1000;
    build.summary.failed_fetches = 1;
    build.modules = vec![row, module("example.com/public", "v1.0.0", vec![fine])];
    build.phases = vec![PhaseShare { phase: Phase::Download, wall_share_ns: 1_300 * MS, cpu_ns: None }];
    build.tools = vec![ToolRun {
        tool: "compile".to_owned(),
        import_path: Some("example.com/app/internal/broken".to_owned()),
        pid: 5001,
        duration_ns: 300 * MS,
        wall_share_ns: 200 * MS,
        exit_code: Some(1),
        ..ToolRun::default()
    }];
    document(Some(run("go build -o app .", 1, 2_400 * MS)), vec![build])
}

/// Names as long and as hostile as a server can make them.
pub fn huge_names() -> Document {
    let Document { mut builds, .. } = example();
    let build = &mut builds[0];
    build.command = words(&format!("go build -o /tmp/{} ./...", "deep/".repeat(60)));
    build.modules[0].path = format!("{PROXY}/{}/end", "very-long-name-".repeat(30));
    build.modules[0].version = Some("v0.0.0-20230101000000-abcdefabcdef+incompatible".to_owned());
    build.modules[1].path = "evil.example/\u{1b}[2J\u{1b}]0;owned\u{7}\r\nok\u{202e}gpj.exe".to_owned();
    build.hosts[0].host = format!("{}.corp.example:8443", "proxy-".repeat(20));
    build.caches.packages[0].import_path = format!("{}end", "k8s.io/api/".repeat(20));
    let command = build.command.clone();
    let mut wrapped = run("", 0, 72 * S);
    wrapped.command = command;
    document(Some(wrapped), builds)
}
