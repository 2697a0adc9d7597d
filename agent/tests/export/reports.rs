//! Builds as the agent's reports describe them.

use gobuild_trace::build::types::Build;
use serde_json::{Value, json};

/// Two builds: one with all that can be reported, one that was killed while it hung.
pub fn builds() -> Vec<Build> {
    [complete(), killed()].map(|report| serde_json::from_value(report).unwrap()).into()
}

fn complete() -> Value {
    let buckets = |n: u64| {
        let mut counts = vec![0; 16];
        counts[1] = n - 1;
        counts[15] = 1;
        counts
    };
    let direction = |operations: u64, bytes: u64, sum: u64| json!({"operations": operations, "bytes": bytes, "latency_ns": {"sum": sum}, "latency_buckets": buckets(operations)});
    json!({
        "id": "4711-123456789",
        "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
        "command": ["go", "build", "./..."],
        "subcommand": "build",
        "directory": "/src",
        "main_module": "example.com/main",
        "go_version": "go1.26.8",
        "exit_code": 1,
        "result": "failure",
        "pid": 4711,
        "started_at": "2026-01-02T03:04:05.123456789Z",
        "duration_ns": 12_345_678_901_u64,
        "complete": true,
        "lost_events": {"total": 0, "by_reason": {}},
        "summary": {"modules_downloaded": 2, "download_bytes": 9_007_199, "cores": 2, "failed_fetches": 0, "build_cache_hits": 412, "build_cache_misses": 2},
        "phases": [
            {"phase": "download", "wall_share_ns": 5_000_000_001_u64},
            {"phase": "compile", "wall_share_ns": 7_000_000_003_u64},
            {"phase": "other", "wall_share_ns": 345_678_897},
        ],
        "hosts": [],
        "modules": [
            {
                "path": "example.com/a\"b\\c", "version": "v1.2.3", "result": "downloaded", "source": "proxy",
                "bytes": 9_007_199, "duration_ns": 3_000_000_000_u64, "wall_share_ns": 1,
                "fetches": [
                    {"id": 1, "kind": "info", "state": "done", "source": "proxy", "host": "proxy.example:8443", "bytes": 199,
                     "start_ns": 1000, "duration_ns": 41_234_567, "wall_share_ns": 1, "connection": 1, "queue_ns": 3, "ttfb_ns": 41_000_000},
                    {"id": 2, "kind": "zip", "state": "done", "source": "proxy", "host": "proxy.example:8443", "bytes": 9_007_000,
                     "start_ns": 50_000_000, "duration_ns": 2_900_000_001_u64, "wall_share_ns": 1, "connection": 1, "url": "https://proxy.example:8443/a.zip"},
                    {"id": 3, "kind": "mod", "state": "failed", "source": "proxy", "host": "proxy.example:8443", "status": 404,
                     "start_ns": 0, "duration_ns": 90_000_000, "wall_share_ns": 1, "error_type": "http_404", "error": "404 Not Found"},
                ],
            },
            {
                "path": "git.example/team/auth", "version": "v0.4.0", "result": "downloaded", "source": "direct",
                "bytes": 0, "duration_ns": 2_000_000_000_u64, "wall_share_ns": 1,
                "fetches": [
                    {"id": 4, "kind": "vcs", "state": "done", "source": "direct", "host": "git.example",
                     "start_ns": 100, "duration_ns": 2_000_000_000_u64, "wall_share_ns": 1},
                ],
            },
        ],
        "sumdb": {"host": "sum.example", "fetches": [
            {"id": 5, "kind": "lookup", "for": "example.com/a", "state": "done", "source": "proxy", "host": "proxy.example:8443",
             "bytes": 1234, "start_ns": 3_000_000_000_u64, "duration_ns": 12_000_000, "wall_share_ns": 1, "connection": 1},
        ]},
        "connections": [
            {"id": 1, "host": "proxy.example:8443", "address": "192.0.2.7", "port": 8443, "family": "ipv4", "start_ns": 2000,
             "dns_ns": 900, "connect_ns": 12_000_001, "tls_ns": 25_000_003, "tls_version": "1.3", "bytes_received": 9_000_000},
            {"id": 2, "host": "proxy.example:8443", "address": "2001:db8::7", "port": 8443, "family": "ipv6", "start_ns": 2500,
             "connect_ns": 1_000_000, "error_type": "network_unreachable", "error": "network is unreachable"},
        ],
        "dns": [
            {"name": "proxy.example", "type": "A", "server": "192.0.2.53", "rcode": "NOERROR", "answers": ["192.0.2.7"],
             "duration_ns": 900, "attempts": 1, "start_ns": 1100},
            {"name": "git.example", "type": "AAAA", "server": "192.0.2.53", "rcode": "NXDOMAIN",
             "duration_ns": 5_000_000_000_u64, "attempts": 2, "error_type": "host_not_found", "start_ns": 1100},
        ],
        "caches": {
            "build": {"hits": 412, "misses": 2, "backend": "local"},
            "actions": {"hits": 400, "misses": 3},
            "module": {"hits": 12, "misses": 2},
            "module_files": {"hits": 30, "misses": 3},
            "test": {"hits": 1, "misses": 2},
            "packages": [],
        },
        "tools": [
            {"tool": "compile", "import_path": "example.com/main", "pid": 4712, "start_ns": 5_000_000_000_u64, "duration_ns": 6_800_000_001_u64,
             "wall_share_ns": 1, "user_ns": 5, "system_ns": 6, "max_rss_bytes": 100_000_000, "exit_code": 0},
            {"tool": "compile", "import_path": "example.com/main/x", "pid": 4713, "start_ns": 5_000_000_000_u64, "duration_ns": 100_000_000,
             "wall_share_ns": 1, "exit_code": 1},
            {"tool": "git", "pid": 4714, "start_ns": 100, "duration_ns": 2_000_000_000_u64, "wall_share_ns": 1, "exit_code": 0},
        ],
        "threads": {
            "running_ns": 8_800_000_011_u64, "runnable_ns": 2_100_000_003_u64, "blocked_ns": 400_000_007_u64,
            "samples": [],
        },
        "disk": {
            "io_wait_ns": 3_400_000_007_u64,
            "read": direction(3, 12_288, 700_000),
            "write": direction(70, 1_200_000_001, 9_100_000_003),
            "by_device": [{"device": "vda", "read": direction(3, 12_288, 700_000), "write": direction(70, 1_200_000_001, 9_100_000_003)}],
            "by_area": [],
        },
        "findings": [],
    })
}

fn killed() -> Value {
    json!({
        "id": "4800-223456789",
        "trace_id": "0af7651916cd43dd8448eb211c80319c",
        "command": ["go", "mod", "download"],
        "subcommand": "mod download",
        "signal": "SIGTERM",
        "result": "cancellation",
        "pid": 4800,
        "started_at": "2026-01-02T03:05:00Z",
        "duration_ns": 600_000_000_000_u64,
        "complete": false,
        "lost_events": {"total": 3, "by_reason": {"ring_full": 3}},
        "summary": {"modules_downloaded": 0, "download_bytes": 0, "cores": 2, "failed_fetches": 1},
        "phases": [{"phase": "download", "wall_share_ns": 600_000_000_000_u64}],
        "hosts": [],
        "modules": [{
            "path": "k8s.io/api", "version": "v0.31.2", "result": "in_flight", "source": "proxy", "bytes": 0,
            "duration_ns": 588_000_000_000_u64, "wall_share_ns": 1,
            "fetches": [{"id": 1, "kind": "zip", "state": "in_flight", "source": "proxy", "host": "proxy.corp.example",
                "start_ns": 12_000_000_000_u64, "duration_ns": 588_000_000_000_u64, "wall_share_ns": 1}],
        }],
        "connections": [],
        "dns": [],
        "caches": {"module": {"hits": 0, "misses": 1}},
        "tools": [],
        "findings": [],
    })
}
