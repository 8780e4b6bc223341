//! `eirs backup`: a copy of the queue's database, while the service runs.

use std::{path::PathBuf, time::Instant};

use bytesize::ByteSize;
use eirs_platform::{database::backup, settings::BackendKind};
use serde_json::json;

use crate::{Exit, Global, Stop, show::Voice, state};

/// Copy the queue into a file, while the service runs
///
/// The copy is consistent, whatever is uploaded meanwhile. It does not contain images: copy their
/// folder afterwards, and a restore has everything that was answered before the backup began. See
/// docs/OPERATIONS.md.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  eirs backup /backup/queue.db && rsync -a .eirs/images /backup/")]
pub(crate) struct Backup {
    /// The file to write; an existing file is not overwritten
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    voice: Voice,
}

impl Backup {
    pub(crate) async fn run(self, global: &Global) -> Result<Exit, Stop> {
        let settings = global.settings()?;
        if settings.backend == BackendKind::Aws {
            return Err(Stop::Failed(anyhow::anyhow!(
                "with backend = \"aws\" there is nothing to copy: the queue is in SQS, images and \
                results are in S3"
            )));
        }
        state::expect_ours(&settings)?;
        let (folder, file, began) = (settings.local.state.clone(), self.file.clone(), Instant::now());
        let copied = tokio::task::spawn_blocking(move || backup::to_file(&folder, &file))
            .await
            .map_err(anyhow::Error::from)??;
        let seconds = began.elapsed().as_secs_f64();
        let made = json!({
            "file": self.file, "bytes": copied.bytes, "messages": copied.messages, "seconds": seconds,
        });
        self.voice.show(&made, || {
            let (size, file) = (ByteSize(copied.bytes), self.file.display());
            format!("{file}: {size}, {} messages, in {seconds:.1} s", copied.messages)
        });
        Ok(Exit::Ok)
    }
}
