//! Logs: text on stderr, or the journal's own protocol, where every field of an event becomes a field of the entry.

use std::{io::IsTerminal, os::fd::AsFd};

use tracing_subscriber::{EnvFilter, Layer, layer::SubscriberExt, util::SubscriberInitExt};

use crate::settings::{LogFormat, Telemetry};

/// Starts logging. `program` names this one in the journal. Errors are sentences about the settings.
pub fn init(settings: &Telemetry, program: &str) -> Result<(), String> {
    let filter = EnvFilter::try_new(&settings.filter)
        .map_err(|error| format!("telemetry.filter: `{}` is not a filter: {error}", settings.filter))?;
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
            .with_ansi(std::io::stderr().is_terminal())
            .boxed()
    };
    tracing_subscriber::registry().with(filter).with(layer).try_init().map_err(|error| error.to_string())
}

/// systemd tells in `$JOURNAL_STREAM` which device and inode the journal's socket has; if stderr is that one, nobody
/// redirected it (systemd.exec(5)).
fn stderr_is_the_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    let stderr = rustix::fs::fstat(std::io::stderr().as_fd());
    stderr.is_ok_and(|stat| stream == format!("{}:{}", stat.st_dev, stat.st_ino))
}
