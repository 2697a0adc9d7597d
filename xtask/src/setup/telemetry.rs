//! The real receivers of what the agent exports: Prometheus as Debian ships it, and an OpenTelemetry collector with
//! an OTLP receiver and the debug exporter, built from upstream's modules.

use anyhow::{Context, Result};

use super::{debian, go, say};
use crate::process::{command, run};
use crate::workspace::Workspace;

/// Upstream's collector version; its stable modules carry a number of their own.
const COLLECTOR: &str = "v0.155.0";
const COLLECTOR_STABLE: &str = "v1.61.0";

/// `prometheus` and `promtool`, unpacked and not installed: the package would start a service.
pub fn ensure_prometheus(workspace: &Workspace) -> Result<()> {
    if workspace.find_program("prometheus").is_none() || workspace.find_program("promtool").is_none() {
        let directory = workspace.tools().join("prometheus");
        debian::unpack(workspace, "prometheus", &directory)?;
        std::fs::create_dir_all(workspace.tools_bin())?;
        for name in ["prometheus", "promtool"] {
            let link = workspace.tools_bin().join(name);
            if link.symlink_metadata().is_err() {
                std::os::unix::fs::symlink(directory.join("usr/bin").join(name), &link)?;
            }
        }
    }
    run(command(workspace, "promtool")?.arg("--version").stdout(std::process::Stdio::null()))
        .context("promtool does not run")?;
    say("prometheus", "prometheus and promtool are there");
    Ok(())
}

/// `otelcol`, built once by upstream's own builder.
pub fn ensure_collector(workspace: &Workspace) -> Result<()> {
    let built_from = std::fs::read_to_string(workspace.tools().join("otelcol/builder.yaml")).unwrap_or_default();
    if workspace.find_program("otelcol").is_none() || built_from != builder_configuration() {
        go::ensure(workspace)?;
        say("collector", format!("building the OpenTelemetry collector {COLLECTOR} (1 to 3 minutes)"));
        let directory = workspace.tools().join("otelcol");
        std::fs::create_dir_all(&directory)?;
        run(command(workspace, "go")?
            .args(["install", &format!("go.opentelemetry.io/collector/cmd/builder@{COLLECTOR}")])
            .current_dir(&directory)
            .env("GOBIN", &directory))
        .context("build the OpenTelemetry collector's builder")?;
        std::fs::write(directory.join("builder.new.yaml"), builder_configuration())?;
        let builder = directory.join("builder");
        run(command(workspace, &builder.to_string_lossy())?
            .args(["--config", "builder.new.yaml"])
            .current_dir(&directory)
            .stdout(std::process::Stdio::null())
            .stderr(std::fs::File::create(directory.join("build.log"))?))
        .with_context(|| format!("build the OpenTelemetry collector; see {}", directory.join("build.log").display()))?;
        // Under its final name it says what the binary was built from.
        std::fs::rename(directory.join("builder.new.yaml"), directory.join("builder.yaml"))?;
        std::fs::create_dir_all(workspace.tools_bin())?;
        let link = workspace.tools_bin().join("otelcol");
        if link.symlink_metadata().is_err() {
            std::os::unix::fs::symlink(directory.join("dist/otelcol"), &link)?;
        }
    }
    run(command(workspace, "otelcol")?.arg("components").stdout(std::process::Stdio::null()))
        .context("otelcol does not run")?;
    say("collector", "otelcol is there");
    Ok(())
}

fn builder_configuration() -> String {
    format!(
        "dist:\n  name: otelcol\n  description: OTLP receiver for tests\n  output_path: ./dist\n\
         receivers:\n  - gomod: go.opentelemetry.io/collector/receiver/otlpreceiver {COLLECTOR}\n\
         exporters:\n  - gomod: go.opentelemetry.io/collector/exporter/debugexporter {COLLECTOR}\n\
         providers:\n  - gomod: go.opentelemetry.io/collector/confmap/provider/fileprovider {COLLECTOR_STABLE}\n\
         conf_resolver:\n  default_uri_scheme: file\n"
    )
}
