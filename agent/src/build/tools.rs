//! The processes that a go command starts: tools, version control commands, and programs that are not the build's.

use super::types::{Phase, ToolRun};
use crate::ring::event::{Exec, Program, Status, Task, Wait};

/// A direct child of a go command.
#[derive(Debug)]
pub struct Child {
    /// Process id.
    pub pid: u32,
    /// The go command's goroutine that started it.
    pub parent: Task,
    /// The go command's call to run it began, or, where that is not seen, inside its `clone`.
    pub start_ns: u64,
    /// The call returned, or the go command's wait did, or, where neither was seen, the child ended.
    pub end_ns: Option<u64>,
    /// What it turned out to be.
    pub purpose: Purpose,
    /// It runs a test binary that the go command made.
    test: bool,
    /// What it runs, also when that is only asked for its version; the go command's image until it runs another.
    role: String,
    /// Package it worked on.
    pub import_path: Option<String>,
    /// As the go command was told.
    pub usage: Option<Wait>,
    /// How it ended.
    pub status: Option<Status>,
    /// File that it makes (`-o`), or that it is.
    pub file: Option<String>,
    /// Archives that it reads and that this run made; absent when that was not seen.
    pub reads: Option<Vec<String>>,
    /// Packages that it imports; absent when that was not seen.
    pub imports: Option<Vec<String>>,
    /// Functions that it compiles at a time.
    pub concurrency: Option<u32>,
    /// Attempt of `download` that it is, if a module waits for it.
    pub attempt: Option<usize>,
}

/// What a child of the go command is to the build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// It has not run another executable.
    Unknown,
    /// A tool at work on a package.
    Tool(String),
    /// A version control command.
    Vcs(String),
    /// `-V=full`, `-flags` and the like: the go command asks a tool what it is.
    Probe,
    /// A go command that serves this one, such as the telemetry uploader.
    Helper,
    /// A program of the user: a test binary, what `go run` and `go generate` run.
    User,
    /// A build that it contains is another build.
    Build,
}

impl Child {
    /// A child that was just forked.
    pub fn new(pid: u32, parent: Task, start_ns: u64) -> Self {
        Self {
            pid,
            parent,
            start_ns,
            end_ns: None,
            purpose: Purpose::Unknown,
            test: false,
            role: "go".to_owned(),
            import_path: None,
            usage: None,
            status: None,
            file: None,
            reads: None,
            imports: None,
            concurrency: None,
            attempt: None,
        }
    }

    /// It ran an executable that user space could name.
    pub fn runs(&mut self, program: &Program, exec: &Exec) {
        self.import_path.clone_from(&exec.import_path);
        self.purpose = match program {
            Program::Tool(name) if is_probe(name, exec) => Purpose::Probe,
            Program::Tool(name) => Purpose::Tool(tool_name(name).to_owned()),
            Program::Vcs(name) => Purpose::Vcs(vcs_name(name).to_owned()),
            // -toolexec runs `program compile …`: still that tool's work. What ended before it could be read has its name.
            Program::Other | Program::Unknown if exec.import_path.is_some() => {
                let words = [Some(&exec.path), exec.arguments.get(1)].into_iter().flatten();
                let mut names = words.filter_map(|path| path.rsplit('/').next());
                Purpose::Tool(names.find(|name| GO_TOOLS.contains(name)).unwrap_or("other").to_owned())
            }
            Program::Unknown if test_binary(exec).is_none() => Purpose::Unknown,
            Program::Other | Program::Unknown => Purpose::User,
            Program::Go => Purpose::Helper,
        };
        self.role = match (&self.purpose, program) {
            (Purpose::Tool(name) | Purpose::Vcs(name), _) => name.clone(),
            (Purpose::Probe, Program::Tool(name)) => tool_name(name).to_owned(),
            (Purpose::Helper, _) => "go".to_owned(),
            (Purpose::Probe | Purpose::Unknown | Purpose::User | Purpose::Build, _) => "other".to_owned(),
        };
        self.file = match self.purpose {
            Purpose::Tool(_) => flag_value(&exec.arguments, "-o").map(str::to_owned),
            // `-exec` puts another program before it.
            Purpose::User => Some(test_binary(exec).unwrap_or(&exec.path).to_owned()),
            Purpose::Unknown | Purpose::Vcs(_) | Purpose::Probe | Purpose::Helper | Purpose::Build => None,
        };
        if self.purpose == Purpose::Tool("compile".to_owned()) {
            let given = exec.arguments.iter().find_map(|argument| argument.strip_prefix("-c="));
            self.concurrency = given.and_then(|value| value.parse().ok());
        }
        self.test = self.purpose == Purpose::User && test_binary(exec).is_some();
        if self.import_path.is_none() && matches!(self.purpose, Purpose::Tool(_)) {
            self.import_path = flag_value(&exec.arguments, "-p").map(str::to_owned);
        }
    }

    /// `go`, or the word of what it runs.
    pub fn role(&self) -> &str {
        &self.role
    }

    /// Runs a test binary that the go command made.
    pub fn is_test(&self) -> bool {
        self.test
    }

    /// Counts into the figures of the go command's build.
    pub fn is_build_work(&self) -> bool {
        matches!(self.purpose, Purpose::Tool(_) | Purpose::Vcs(_) | Purpose::Probe | Purpose::Helper | Purpose::Unknown)
    }

    /// Phase that its time belongs to; absent where it has none of its own.
    pub fn phase(&self) -> Option<Phase> {
        match &self.purpose {
            Purpose::Tool(name) => Some(match name.as_str() {
                "link" => Phase::Link,
                "vet" => Phase::Vet,
                "other" => Phase::Other,
                _ => Phase::Compile,
            }),
            Purpose::Vcs(_) if self.attempt.is_some() => Some(Phase::Download),
            Purpose::Vcs(_) => Some(Phase::Other),
            Purpose::User => Some(Phase::Run),
            Purpose::Probe | Purpose::Helper | Purpose::Unknown | Purpose::Build => None,
        }
    }

    /// Compiles Go source or links: it is given the packages that it imports.
    pub fn reads_packages(&self) -> bool {
        matches!(&self.purpose, Purpose::Tool(name) if name == "compile" || name == "link")
    }

    /// Links a program.
    pub fn links(&self) -> bool {
        self.phase() == Some(Phase::Link)
    }

    /// Compiles (or assembles, …) its package.
    pub fn compiles(&self) -> bool {
        self.phase() == Some(Phase::Compile) && self.import_path.is_some()
    }

    /// Row of the report.
    pub fn row(&self, build_start_ns: u64, end_ns: u64) -> Option<ToolRun> {
        let tool = match &self.purpose {
            Purpose::Tool(name) | Purpose::Vcs(name) => name.clone(),
            Purpose::Unknown | Purpose::Probe | Purpose::Helper | Purpose::User | Purpose::Build => return None,
        };
        let exit_code = self.status.and_then(|status| match status {
            Status::Code(code) => Some(code),
            Status::Signal(_) => None,
        });
        Some(ToolRun {
            tool,
            import_path: self.import_path.clone(),
            module: None,
            pid: self.pid,
            start_ns: self.start_ns.saturating_sub(build_start_ns),
            duration_ns: self.end_ns.unwrap_or(end_ns).saturating_sub(self.start_ns),
            wall_share_ns: 0,
            user_ns: self.usage.as_ref().map(|usage| usage.user_ns),
            system_ns: self.usage.as_ref().map(|usage| usage.system_ns),
            max_rss_bytes: self.usage.as_ref().map(|usage| usage.max_rss_bytes),
            exit_code,
            queue_ns: None,
            concurrency: self.concurrency,
        })
    }
}

const GO_TOOLS: [&str; 8] = ["compile", "asm", "link", "cgo", "vet", "cover", "preprofile", "pack"];
const VCS: [&str; 6] = ["git", "hg", "svn", "bzr", "fossil", "ssh"];

/// Word of the closed list: names of C compilers and linkers carry targets and versions without end.
fn tool_name(name: &str) -> &str {
    let own = ["buildid", "covdata", "fix", "test2json"];
    if GO_TOOLS.contains(&name) || own.contains(&name) { name } else { "cc" }
}

fn vcs_name(name: &str) -> &str {
    VCS.into_iter().find(|known| name == *known).unwrap_or("other")
}

/// The go command asks its tools for their identity (`-V=full`, cmd/go/internal/work/buildid.go), vet for its flags, and
/// C compilers for theirs and for what they support; none of that is for a package.
fn is_probe(name: &str, exec: &Exec) -> bool {
    let first = exec.arguments.get(1).map(String::as_str);
    let asks = matches!(first, Some("-V=full" | "-V" | "-flags" | "--version" | "-v" | "-dumpversion"));
    // C compilers run for a package carry TOOLEXEC_IMPORTPATH like any tool.
    asks || (!GO_TOOLS.contains(&name) && exec.import_path.is_none())
}

/// The test binary that a command runs: the go command links it into `$WORK` and gives it flags of its own.
fn test_binary(exec: &Exec) -> Option<&str> {
    let given = exec.arguments.iter().any(|word| word.starts_with("-test."));
    let binary = exec.arguments.iter().find(|word| word.ends_with(".test") && word.contains("/go-build"));
    binary.filter(|_| given).map(String::as_str)
}

fn flag_value<'a>(arguments: &'a [String], flag: &str) -> Option<&'a str> {
    let at = arguments.iter().position(|argument| argument == flag)?;
    arguments.get(at + 1).map(String::as_str)
}

#[cfg(test)]
pub(super) mod fixtures {
    use super::*;

    /// The exec of a tool that works for a package.
    pub fn exec(name: &str, import_path: &str, file: &str) -> Exec {
        Exec {
            path: format!("/go/pkg/tool/{name}"),
            arguments: [name, "-o", file].map(str::to_owned).to_vec(),
            arguments_cut: false,
            import_path: Some(import_path.to_owned()),
            in_tree: true,
            parent: 1,
            uid: 0,
            process_start_ns: 0,
        }
    }

    /// A tool that has just begun.
    pub fn tool(name: &str, import_path: &str, file: &str, start_ns: u64) -> Child {
        let mut child = Child::new(2, Task::default(), start_ns);
        child.runs(&Program::Tool(name.to_owned()), &exec(name, import_path, file));
        child
    }
}
