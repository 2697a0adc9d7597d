//! What the library logs, as lines on stderr.
//!
//! A line looks as the other lines that we say, without a time: journal, container runtime and CI put theirs before it.

use std::{ffi::OsStr, fmt, io};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::{
    EnvFilter,
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    registry::LookupSpan,
};

use super::say;
use crate::host::redact;

/// Says what is logged instead: directives of `tracing_subscriber::EnvFilter`, such as `debug` or `gobuild_trace=debug`.
pub const VARIABLE: &str = "GOBUILD_TRACE_LOG";

/// From here on what is logged is said: what is ours from `level` on, unless the value of [`VARIABLE`] has it otherwise.
pub fn start(level: Level, directives: Option<&OsStr>) {
    let ours = || EnvFilter::new(format!("gobuild_trace={level}"));
    let filter = match directives.map(|text| text.to_str().map(|text| EnvFilter::builder().parse(text))) {
        None => ours(),
        Some(Some(Ok(filter))) => filter,
        Some(Some(Err(_)) | None) => {
            say::line(format_args!("gobuild-trace: {VARIABLE}: not a log filter; write warn, debug or off"));
            ours()
        }
    };
    // Only a second call could fail.
    let _ = tracing::subscriber::set_global_default(subscriber(filter, io::stderr));
}

fn subscriber<W>(filter: EnvFilter, writer: W) -> impl Subscriber + Send + Sync
where
    W: for<'a> tracing_subscriber::fmt::MakeWriter<'a> + Send + Sync + 'static,
{
    // It writes an event at once. That stderr is gone would be said by `eprintln!`, which panics then.
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .log_internal_errors(false)
        .event_format(Line)
        .with_writer(writer)
        .finish()
}

struct Line;

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut text = String::new();
        context.format_fields(Writer::new(&mut text), event)?;
        // What a server answered may be in it.
        let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let metadata = event.metadata();
        match *metadata.level() {
            Level::ERROR | Level::WARN | Level::INFO => write!(writer, "gobuild-trace: ")?,
            level => write!(writer, "gobuild-trace: {} {}: ", level.as_str().to_ascii_lowercase(), metadata.target())?,
        }
        writeln!(writer, "{}", redact::text(&text))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Said(Arc<Mutex<Vec<Vec<u8>>>>);

    impl io::Write for Said {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().push(bytes.to_vec());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn said(directives: &str, log: impl Fn()) -> Vec<String> {
        let said = Said::default();
        let writer = said.clone();
        tracing::subscriber::with_default(subscriber(EnvFilter::new(directives), move || writer.clone()), log);
        let writes = said.0.lock().unwrap();
        writes.iter().map(|bytes| String::from_utf8(bytes.clone()).unwrap()).collect()
    }

    #[test]
    fn an_event_is_one_write_of_one_line_without_a_secret() {
        let lines = said("warn", || {
            tracing::warn!(answer = "a\nb", "no export to {}", "https://ann:canary@h.example/x?token=canary\nnext");
            tracing::info!("not asked for");
        });
        let [line] = lines.as_slice() else { panic!("{lines:?}") };
        assert!(line.starts_with("gobuild-trace: no export to https://h.example/x?token=REDACTED next"), "{line}");
        assert!(!line.contains("canary"), "{line}");
        assert_eq!((line.matches('\n').count(), line.ends_with('\n')), (1, true), "{line}");
    }

    #[test]
    fn what_is_for_developers_says_where_it_comes_from() {
        let lines = said("gobuild_trace=debug", || tracing::debug!("x"));
        assert_eq!(lines, [format!("gobuild-trace: debug {}: x\n", module_path!())]);
    }
}
