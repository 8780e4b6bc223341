//! Logging: text on stderr, or the journal's protocol, where each field of an event and of its
//! spans becomes a field of the entry. And traces, if a collector is set: `telemetry/otlp.rs`.

mod otlp;

use std::{io::IsTerminal, os::fd::AsFd};

use tracing::Level;
use tracing_subscriber::{
    EnvFilter, Layer,
    filter::filter_fn,
    layer::SubscriberExt,
    util::{SubscriberInitExt, TryInitError},
};

pub use self::otlp::{Traces, trusted_certificates};
use crate::{
    settings::{LogFormat, Telemetry},
    trace,
};

/// Starts logging and the export of spans. `program` is the name in the journal and in traces.
/// Errors are sentences about the settings. Keep the returned value until the process ends, so that
/// the last spans are sent.
pub fn init(settings: &Telemetry, program: &'static str) -> Result<Traces, String> {
    let filter = EnvFilter::try_new(&settings.filter)
        .map_err(|error| format!("telemetry.filter: `{}` is not a filter: {error}", settings.filter))?;
    let spans_are_no_log = format!("{}=off", trace::TARGET).parse().expect("a target and a level");
    let filter = filter.add_directive(spans_are_no_log);
    let to_journal = match settings.format {
        LogFormat::Journal => true,
        LogFormat::Text => false,
        LogFormat::Auto => stderr_is_the_journal(),
    };
    let layer = if to_journal {
        let journal = tracing_journald::layer().map_err(|error| {
            format!("telemetry.format: the journal cannot be reached ({error}); `text` needs no journal")
        })?;
        journal.with_syslog_identifier(program.to_owned()).with_field_prefix(Some("EIRS".into())).boxed()
    } else {
        tracing_subscriber::fmt::layer()
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal() && !no_color())
            .boxed()
    };
    let traces = Traces::of(settings, program)?;
    // Events at INFO and above also become part of their span.
    let collected = filter_fn(|metadata| {
        let (is_ours, is_logged) = (metadata.target().starts_with("eirs"), *metadata.level() <= Level::INFO);
        if metadata.is_span() { metadata.target() == trace::TARGET } else { is_ours && is_logged }
    });
    let spans = traces.tracer().map(|tracer| {
        tracing_opentelemetry::layer()
            .with_tracer(tracer)
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            .with_filter(collected)
    });
    tracing_subscriber::registry()
        .with(layer.with_filter(filter))
        .with(spans)
        .try_init()
        .map_err(|error: TryInitError| error.to_string())?;
    Ok(traces)
}

/// Returns whether colours are disabled (no-color.org): the variable is set and not empty.
fn no_color() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

/// Returns whether stderr is the journal: systemd sets `$JOURNAL_STREAM` to the device and inode of
/// its socket, and stderr differs if it was redirected (systemd.exec(5)).
fn stderr_is_the_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    let stderr = rustix::fs::fstat(std::io::stderr().as_fd());
    stderr.is_ok_and(|stat| stream == format!("{}:{}", stat.st_dev, stat.st_ino))
}
