//! Where the go commands run, and what each of them leaves.

use std::{
    collections::{BTreeSet, HashMap},
    ffi::OsString,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use sha2::{Digest as _, Sha256};
use testkit::{
    authority::Authority,
    goenv::GoEnv,
    module::{ModuleSet, Shape},
    proxy::{Proxy, Rule, Transport},
};

use crate::{
    job::{Job, Kind},
    toolchain::Toolchain,
};

/// What a command left. Equal for equal commands, traced or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    code: i32,
    stdout: String,
    /// Lines in alphabetical order: downloads end in any.
    stderr: Vec<String>,
    /// Files that it wrote, or what the program says that it built.
    made: String,
}

/// Folders, servers and caches.
pub struct Workshop {
    toolchains: Vec<Toolchain>,
    environment: GoEnv,
    modules: Arc<ModuleSet>,
    _plain: Proxy,
    http2: Proxy,
    holding: Proxy,
    references: HashMap<(usize, Kind), Outcome>,
    next: usize,
}

/// Commands in a script, each with a folder of its own.
pub struct Prepared {
    script: PathBuf,
    commands: Vec<(Kind, PathBuf)>,
}

const MAIN: &str = "package main\n\nfunc main() {}\n";
const LIBRARY: &str = "package library\n\nimport \"sync\"\n\n// Sum adds up.\nfunc Sum(n int) int {\n\tvar lock sync.Mutex\n\
    \tvar group sync.WaitGroup\n\tsum := 0\n\tfor i := 0; i < n; i++ {\n\t\tgroup.Add(1)\n\t\tgo func(i int) {\n\
    \t\t\tdefer group.Done()\n\t\t\tlock.Lock()\n\t\t\tdefer lock.Unlock()\n\t\t\tsum += i\n\t\t}(i)\n\t}\n\
    \tgroup.Wait()\n\treturn sum\n}\n";
const LIBRARY_TEST: &str = "package library\n\nimport \"testing\"\n\nfunc TestSum(t *testing.T) {\n\
    \tif sum := Sum(100); sum != 4950 {\n\t\tt.Fatal(sum)\n\t}\n}\n";
const DOES_NOT_COMPILE: &str = "package main\n\nfunc main() { missing() }\n";

impl Workshop {
    pub fn new(toolchains: Vec<Toolchain>) -> Self {
        let authority = Authority::new().unwrap();
        let shape = Shape { modules: 12, packages: 3, functions: 12, ..Shape::default() };
        let modules = Arc::new(ModuleSet::generate(&shape).unwrap());
        let plain = Proxy::builder("plain").source(modules.clone()).start().unwrap();
        let transport = Transport::Http2(&authority);
        let http2 = Proxy::builder("http2").transport(transport).source(modules.clone()).start().unwrap();
        let held = |pattern: &str, milliseconds| Rule::on(pattern).first_byte(Duration::from_millis(milliseconds));
        let holding = Proxy::builder("holding")
            .transport(transport)
            .source(modules.clone())
            .rule(held("*.mod", 60))
            .rule(held("*.zip", 200))
            .start()
            .unwrap();
        // Kept between runs: every release compiles its own standard library into it.
        let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("safety-build-cache");
        fs::create_dir_all(&cache).unwrap();
        let environment =
            GoEnv::builder().proxy(plain.url()).authority(&authority).variable("GOCACHE", cache).build().unwrap();
        let workshop = Self {
            toolchains,
            environment,
            modules,
            _plain: plain,
            http2,
            holding,
            references: HashMap::new(),
            next: 0,
        };
        workshop.modules.write_program(workshop.environment.work_dir()).unwrap();
        let downloaded = workshop.environment.command(["mod", "download"]).output().unwrap();
        assert!(downloaded.status.success(), "{downloaded:?}");
        workshop
    }

    /// The releases.
    pub fn toolchains(&self) -> &[Toolchain] {
        &self.toolchains
    }

    /// PATH with the go commands of these releases, which a wrapper prepares for.
    pub fn path(&self, toolchains: impl IntoIterator<Item = usize>) -> OsString {
        let folders: BTreeSet<usize> = toolchains.into_iter().collect();
        let folders = folders.into_iter().map(|toolchain| self.toolchains[toolchain].folder.clone());
        let path = std::env::var_os("PATH").unwrap();
        std::env::join_paths(folders.chain(std::env::split_paths(&path))).unwrap()
    }

    /// Go's environment.
    pub fn environment(&self) -> &GoEnv {
        &self.environment
    }

    /// Whether a release can do this here.
    pub fn can(&self, toolchain: usize, kind: Kind) -> bool {
        kind != Kind::Race || self.toolchains[toolchain].race
    }

    /// Runs those of these commands untraced that have not been.
    pub fn refer_to(&mut self, jobs: &[Job]) {
        let mut missing: Vec<Job> = Vec::new();
        for &job in jobs {
            let job = Job { processors: 2, setting: "", ..job };
            if !self.references.contains_key(&(job.toolchain, job.kind)) && !missing.contains(&job) {
                missing.push(job);
            }
        }
        self.refer(&missing);
    }

    fn refer(&mut self, jobs: &[Job]) {
        let prepared = self.prepare(jobs);
        assert!(self.shell(&prepared).status().unwrap().success());
        for (job, outcome) in jobs.iter().zip(prepared.outcomes()) {
            assert_eq!(outcome.code, job.kind.code(), "untraced: {job:?}: {outcome:#?}");
            self.references.insert((job.toolchain, job.kind), outcome);
        }
    }

    /// What a command leaves untraced.
    pub fn reference(&self, job: Job) -> &Outcome {
        &self.references[&(job.toolchain, job.kind)]
    }

    /// How long a command takes untraced that left its reference before.
    pub fn timed(&mut self, job: Job) -> Duration {
        let prepared = self.prepare(&[job]);
        let started = Instant::now();
        assert!(self.shell(&prepared).status().unwrap().success());
        let duration = started.elapsed();
        assert_eq!(prepared.outcomes(), std::slice::from_ref(self.reference(job)), "untraced twice: {job:?}");
        duration
    }

    /// Writes a script of these commands.
    pub fn prepare(&mut self, jobs: &[Job]) -> Prepared {
        let mut text = String::new();
        let commands: Vec<(Kind, PathBuf)> = jobs
            .iter()
            .map(|&job| {
                self.next += 1;
                let folder = self.environment.root().join(format!("job{}", self.next));
                self.write_sources(job.kind, &folder);
                self.write_command(job, &folder, &mut text);
                (job.kind, folder)
            })
            .collect();
        let script = self.environment.root().join(format!("script{}", self.next));
        fs::write(&script, text).unwrap();
        Prepared { script, commands }
    }

    fn write_sources(&self, kind: Kind, folder: &Path) {
        let work = folder.join("work");
        fs::create_dir_all(&work).unwrap();
        fs::create_dir(folder.join("made")).unwrap();
        let write = |name: &str, text: &str| fs::write(work.join(name), text).unwrap();
        match kind {
            Kind::Warm
            | Kind::ColdHttp2
            | Kind::ColdPlain
            | Kind::Compiled
            | Kind::Held
            | Kind::List
            | Kind::Download => {
                self.modules.write_program(&work).unwrap();
            }
            Kind::Tidy => self.modules.write_program_without_sums(&work).unwrap(),
            Kind::Changed => {
                self.modules.write_program(&work).unwrap();
                // Nobody has compiled this before.
                let name = folder.display();
                write("init.go", &format!("package main\n\nfunc init() {{ println(`{name}`) }}\n"));
            }
            Kind::Vet | Kind::Test | Kind::Race => {
                write("go.mod", "module example.test/library\n\ngo 1.21\n");
                write("library.go", LIBRARY);
                write("library_test.go", LIBRARY_TEST);
            }
            Kind::Broken => {
                write("go.mod", "module example.test/broken\n\ngo 1.21\n");
                write("main.go", DOES_NOT_COMPILE);
            }
            Kind::NotFound => {
                write("go.mod", "module example.test/incomplete\n\ngo 1.21\n");
                write("main.go", MAIN);
            }
        }
    }

    fn write_command(&self, job: Job, folder: &Path, script: &mut String) {
        let quoted = |path: &Path| format!("'{}'", path.display());
        let program = folder.join("made/program");
        let arguments = match job.kind {
            Kind::Warm | Kind::ColdHttp2 | Kind::ColdPlain | Kind::Changed => {
                format!("build -trimpath -o {} .", quoted(&program))
            }
            // A folder that nobody named before: what is in the build cache was compiled with other arguments. Only of the
            // modules, for the standard library takes a minute for each release.
            Kind::Compiled | Kind::Held => {
                let flag = quoted(&folder.join("import"));
                format!("build -trimpath -gcflags=example.test/...=-I={flag} -o {} .", quoted(&program))
            }
            Kind::List => "list -deps ./...".to_owned(),
            Kind::Vet => "vet -trimpath ./...".to_owned(),
            Kind::Test => "test -trimpath -count=1 ./...".to_owned(),
            Kind::Race => "test -trimpath -count=1 -race ./...".to_owned(),
            Kind::Tidy => "mod tidy".to_owned(),
            Kind::Download => "mod download".to_owned(),
            Kind::Broken => "build -trimpath .".to_owned(),
            Kind::NotFound => "mod download example.test/absent@v1.0.0".to_owned(),
        };
        let mut variables = format!("GOMAXPROCS={} {}", job.processors, job.setting);
        if job.kind.downloads() {
            write!(variables, " GOMODCACHE={}", quoted(&folder.join("modules"))).unwrap();
        }
        if matches!(job.kind, Kind::ColdHttp2 | Kind::Tidy | Kind::Compiled) {
            write!(variables, " GOPROXY='{}'", self.http2.url()).unwrap();
        }
        if job.kind == Kind::Held {
            write!(variables, " GOPROXY='{}'", self.holding.url()).unwrap();
        }
        let go = quoted(&self.toolchains[job.toolchain].go());
        let folder = quoted(folder);
        writeln!(script, "cd {folder}/work").unwrap();
        writeln!(script, "env {variables} {go} {arguments} >{folder}/stdout 2>{folder}/stderr").unwrap();
        writeln!(script, "echo $? >{folder}/code").unwrap();
    }

    /// The commands, untraced.
    pub fn shell(&self, prepared: &Prepared) -> Command {
        let mut command = self.environment.program("sh");
        command.arg(&prepared.script).stdin(Stdio::null());
        command
    }
}

impl Prepared {
    /// For `sh`.
    pub fn script(&self) -> &Path {
        &self.script
    }

    /// What each command left. Its folder is removed.
    pub fn outcomes(&self) -> Vec<Outcome> {
        self.commands.iter().map(|(kind, folder)| outcome(*kind, folder)).collect()
    }
}

fn outcome(kind: Kind, folder: &Path) -> Outcome {
    let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    let stdout = read("stdout");
    let stdout = match kind {
        // How long it took is in the last column.
        Kind::Test | Kind::Race => stdout.rsplit_once('\t').map_or_else(|| stdout.clone(), |(row, _)| row.to_owned()),
        _ => stdout,
    };
    let mut stderr: Vec<String> = read("stderr").lines().map(str::to_owned).collect();
    stderr.sort_unstable();
    let program = folder.join("made/program");
    let made = match kind {
        Kind::Warm | Kind::ColdHttp2 | Kind::ColdPlain => fs::read(&program).map_or_else(|e| e.to_string(), hash),
        Kind::Changed | Kind::Compiled | Kind::Held => match Command::new(&program).output() {
            Ok(ran) => String::from_utf8(ran.stderr).unwrap().replace(&folder.display().to_string(), "its folder"),
            Err(error) => error.to_string(),
        },
        Kind::Tidy => fs::read_to_string(folder.join("work/go.sum")).unwrap_or_default(),
        Kind::Download => files(&folder.join("modules")).join("\n"),
        Kind::List | Kind::Vet | Kind::Test | Kind::Race | Kind::Broken | Kind::NotFound => String::new(),
    };
    let outcome = Outcome { code: read("code").trim().parse().unwrap(), stdout, stderr, made };
    fs::remove_dir_all(folder).unwrap();
    outcome
}

fn hash(content: impl AsRef<[u8]>) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Every file below a folder, with its content's hash.
fn files(root: &Path) -> Vec<String> {
    let mut files = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(root).unwrap().display();
                files.push(format!("{name} {}", hash(fs::read(&path).unwrap())));
            }
        }
    }
    files.sort_unstable();
    files
}
