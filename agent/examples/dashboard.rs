//! Prints the Grafana dashboard; `cargo xtask dashboards` commits it.

fn main() {
    print!("{}", gobuild_trace::telemetry::dashboard::json());
}
