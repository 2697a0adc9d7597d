//! One go command of the load.

/// What a go command does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A build of a program whose packages are all in the build cache.
    Warm,
    /// The same with an empty module cache, over HTTP/2.
    ColdHttp2,
    /// The same over HTTP/1 without TLS.
    ColdPlain,
    /// A build with a changed file.
    Changed,
    /// A cold download whose packages are compiled, for the compiler is told something else than before.
    Compiled,
    /// All packages below a program.
    List,
    /// A check of a package and its tests.
    Vet,
    /// Runs tests.
    Test,
    /// Runs tests with the race detector.
    Race,
    /// Asks for the modules of a program without sums.
    Tidy,
    /// Downloads modules and builds nothing.
    Download,
    /// A build of a file that does not compile.
    Broken,
    /// A build that needs a module which the proxy does not have.
    NotFound,
    /// As [`Self::Compiled`], from a proxy that lets each request wait.
    Held,
}

impl Kind {
    /// Each of them, but for the one that waits.
    pub const ALL: [Self; 13] = [
        Self::Warm,
        Self::ColdHttp2,
        Self::Changed,
        Self::List,
        Self::Tidy,
        Self::Test,
        Self::ColdPlain,
        Self::Vet,
        Self::Broken,
        Self::Download,
        Self::Race,
        Self::NotFound,
        Self::Compiled,
    ];

    /// What it exits with.
    pub fn code(self) -> i32 {
        match self {
            Self::Broken | Self::NotFound => 1,
            _ => 0,
        }
    }

    /// Whether it looks actions up in the build cache.
    pub fn builds(self) -> bool {
        !matches!(self, Self::List | Self::Tidy | Self::Download | Self::NotFound)
    }

    /// Whether it asks a module proxy.
    pub fn downloads(self) -> bool {
        matches!(
            self,
            Self::ColdHttp2
                | Self::ColdPlain
                | Self::Compiled
                | Self::Held
                | Self::Tidy
                | Self::Download
                | Self::NotFound
        )
    }
}

/// What makes a go command move and stop its goroutines more often, and what makes it leave them alone.
pub const SETTINGS: [&str; 6] = [
    "",
    "GOGC=1",
    "GODEBUG=asyncpreemptoff=1",
    "GOGC=1 GODEBUG=gcstoptheworld=1",
    "",
    "GOGC=1 GODEBUG=adaptivestackstart=0,gcshrinkstackoff=0",
];

/// A go command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job {
    /// Which release, by its place in the list.
    pub toolchain: usize,
    /// What it does.
    pub kind: Kind,
    /// GOMAXPROCS.
    pub processors: usize,
    /// Variables, as a shell takes them.
    pub setting: &'static str,
}
