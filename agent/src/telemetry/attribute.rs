//! Attributes of metrics and the values they may take: closed lists, or the first so many.

/// An attribute of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Attribute {
    /// The go command's subcommand.
    Command,
    /// How a build ended.
    Result,
    /// What a build spends time on.
    Phase,
    /// What a fetch is for.
    FetchKind,
    /// Where a fetch goes to.
    FetchSource,
    /// Host name in the URL, without the port.
    ServerAddress,
    /// Port in the URL; absent where the URL has none.
    ServerPort,
    /// Name in a DNS query.
    DnsQuestionName,
    /// `ipv4` or `ipv6`.
    NetworkType,
    /// TLS version.
    TlsProtocolVersion,
    /// Which cache.
    CacheKind,
    /// What the cache did.
    CacheResult,
    /// What serves the cache.
    CacheBackend,
    /// Tool that the go command runs.
    Tool,
    /// What a thread does.
    ThreadState,
    /// Direction of disk I/O.
    DiskIoDirection,
    /// Block device.
    Device,
    /// Why something failed.
    ErrorType,
    /// Why an event was lost.
    LossReason,
    /// BPF program.
    Probe,
    /// OTLP signal.
    Signal,
    /// Name of a metric.
    MetricName,
    /// Version of the agent.
    Version,
}

/// Which values an attribute can take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Values {
    /// These; any other becomes [`OTHER`].
    Closed(&'static [&'static str]),
    /// The first so many distinct ones; later ones become [`OTHER`].
    Open {
        /// How many.
        limit: usize,
    },
}

/// Stands for values outside an attribute's set.
pub const OTHER: &str = "_OTHER";

/// Longest attribute value, in bytes.
pub const MAX_VALUE_BYTES: usize = 256;

impl Attribute {
    /// All attributes.
    pub const ALL: [Self; 23] = [
        Self::Command,
        Self::Result,
        Self::Phase,
        Self::FetchKind,
        Self::FetchSource,
        Self::ServerAddress,
        Self::ServerPort,
        Self::DnsQuestionName,
        Self::NetworkType,
        Self::TlsProtocolVersion,
        Self::CacheKind,
        Self::CacheResult,
        Self::CacheBackend,
        Self::Tool,
        Self::ThreadState,
        Self::DiskIoDirection,
        Self::Device,
        Self::ErrorType,
        Self::LossReason,
        Self::Probe,
        Self::Signal,
        Self::MetricName,
        Self::Version,
    ];

    /// OpenTelemetry name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Command => "gobuild.command",
            Self::Result => "gobuild.result",
            Self::Phase => "gobuild.phase",
            Self::FetchKind => "gobuild.module.fetch.kind",
            Self::FetchSource => "gobuild.module.fetch.source",
            Self::ServerAddress => "server.address",
            Self::ServerPort => "server.port",
            Self::DnsQuestionName => "dns.question.name",
            Self::NetworkType => "network.type",
            Self::TlsProtocolVersion => "tls.protocol.version",
            Self::CacheKind => "gobuild.cache.kind",
            Self::CacheResult => "gobuild.cache.result",
            Self::CacheBackend => "gobuild.cache.backend",
            Self::Tool => "gobuild.tool",
            Self::ThreadState => "gobuild.thread.state",
            Self::DiskIoDirection => "disk.io.direction",
            Self::Device => "system.device",
            Self::ErrorType => "error.type",
            Self::LossReason => "gobuild.agent.loss.reason",
            Self::Probe => "gobuild.agent.probe",
            Self::Signal => "gobuild.agent.signal",
            Self::MetricName => "gobuild.agent.metric",
            Self::Version => "gobuild.agent.version",
        }
    }

    /// Label name in Prometheus.
    pub fn label(self) -> String {
        self.name().replace('.', "_")
    }

    /// Which values it can take.
    pub const fn values(self) -> Values {
        match self {
            Self::Command => Values::Closed(COMMANDS),
            Self::Result => Values::Closed(&["success", "failure", "error", "cancellation"]),
            Self::Phase => Values::Closed(&["download", "load", "compile", "link", "vet", "run", "wait", "other"]),
            Self::FetchKind => Values::Closed(&[
                "list",
                "latest",
                "info",
                "mod",
                "zip",
                "go-get",
                "vcs",
                "supported",
                "lookup",
                "tile",
            ]),
            Self::FetchSource => Values::Closed(&["proxy", "direct", "file"]),
            Self::NetworkType => Values::Closed(&["ipv4", "ipv6"]),
            Self::TlsProtocolVersion => Values::Closed(&["1.0", "1.1", "1.2", "1.3"]),
            Self::CacheKind => Values::Closed(&["build", "actions", "module_files", "test"]),
            Self::CacheResult => Values::Closed(&["hit", "miss", "bypass"]),
            Self::CacheBackend => Values::Closed(&["local", "cacheprog"]),
            Self::ThreadState => Values::Closed(&["running", "runnable", "blocked"]),
            Self::DiskIoDirection => Values::Closed(&["read", "write"]),
            Self::ErrorType => Values::Closed(ERROR_TYPES),
            Self::Signal => Values::Closed(&["traces", "metrics"]),
            // A pair of address and port counts once, by the address.
            Self::ServerAddress | Self::DnsQuestionName | Self::Tool | Self::Device | Self::LossReason => {
                Values::Open { limit: 50 }
            }
            Self::ServerPort => Values::Open { limit: usize::MAX },
            Self::Probe | Self::MetricName => Values::Open { limit: 100 },
            Self::Version => Values::Open { limit: 1 },
        }
    }
}

/// Subcommands as they are typed.
pub const COMMANDS: &[&str] = &[
    "build",
    "test",
    "install",
    "run",
    "vet",
    "list",
    "generate",
    "get",
    "mod download",
    "mod tidy",
    "mod vendor",
    "mod verify",
    "mod graph",
    "mod why",
    "tool",
    "work sync",
    "other",
];

/// Words of `build::types::ErrorType`, and `failure` for a tool that exited with another status than 0.
pub const ERROR_TYPES: &[&str] = &[
    "host_not_found",
    "try_again",
    "timed_out",
    "connection_refused",
    "network_unreachable",
    "host_unreachable",
    "reset",
    "tls_handshake",
    "certificate",
    "http_401",
    "http_403",
    "http_404",
    "http_410",
    "http_429",
    "http_4xx",
    "http_500",
    "http_502",
    "http_503",
    "http_504",
    "http_5xx",
    "checksum",
    "vcs",
    "file_system",
    "cancelled",
    "failure",
    OTHER,
];
