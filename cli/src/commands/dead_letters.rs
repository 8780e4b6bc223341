//! `eirs dead-letters`: lists, requeues or deletes jobs that were given up.
//!
//! A queue can only be inspected by receiving its messages. So letters are held while they are
//! inspected, and then given back (`held.rs`). `desk.rs` finds the letters, `letter.rs` describes
//! one, and `redrive.rs` requeues its job.

mod desk;
mod held;
mod letter;
mod redrive;
mod select;
mod text;

use clap::Subcommand;
use eirs_platform::settings::BackendKind;
use futures::{StreamExt, stream};
use serde::Serialize;
use serde_json::json;

use self::{
    desk::{All, Desk},
    letter::Shown,
    redrive::{Tally, redrive_all, redrive_some},
};
use crate::{
    Exit, Global, Stop,
    show::{self, Voice},
    state,
};

/// List, requeue or delete the jobs that were given up
#[derive(Debug, Subcommand)]
pub(crate) enum DeadLettersCommand {
    List(List),
    Redrive(Redrive),
    Purge(Purge),
}

/// List the jobs that were given up, and why
///
/// Letters are held for a moment and given back. If the command is killed, they return when their
/// lease expires (`queue.visibility`).
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  eirs dead-letters list --json | jq -r '.letters[].name'")]
pub(crate) struct List {
    /// Only the letters of this model
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    /// Show at most this many
    #[arg(
        short = 'n', long, value_name = "N", default_value_t = 100,
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    limit: u32,
    #[command(flatten)]
    voice: Voice,
}

/// Requeue dead letters once the cause is fixed
///
/// Deletes the stored result ("given up") first. A letter that cannot be read, or whose image is no
/// longer stored, stays.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  eirs dead-letters redrive 7d865e95\n  eirs dead-letters redrive --all --yes"
)]
pub(crate) struct Redrive {
    #[command(flatten)]
    chosen: Chosen,
}

/// Delete dead letters for good
///
/// Images and results stay stored. A new upload of such an image tries again.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  eirs dead-letters purge 7d865e95\n  \
        eirs dead-letters purge --model default --all --yes")]
pub(crate) struct Purge {
    #[command(flatten)]
    chosen: Chosen,
}

/// Which letters.
#[derive(Debug, clap::Args)]
struct Chosen {
    /// Ids, as `eirs dead-letters list` shows them; a unique beginning is enough
    #[arg(value_name = "ID", required_unless_present = "all", conflicts_with = "all")]
    ids: Vec<String>,
    /// All of them
    #[arg(long)]
    all: bool,
    /// Only the letters of this model
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    /// Do not ask for confirmation
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    voice: Voice,
}

/// Number of concurrent calls to stores and queues.
const AT_ONCE: usize = 16;
/// The message if all letters are selected, but none exist.
const NONE: &str = "There are no dead letters.";
/// Number of letters that are received and processed at a time.
const ROUND: usize = 100;

impl DeadLettersCommand {
    pub(crate) async fn run(self, global: &Global) -> Result<Exit, Stop> {
        let settings = global.settings()?;
        if settings.backend == BackendKind::Local {
            state::expect_ours(&settings)?;
        }
        let desk = Desk::open(settings, self.voice()).await?;
        match self {
            Self::List(list) => list.run(&desk).await,
            Self::Redrive(redrive) => redrive.run(&desk).await,
            Self::Purge(purge) => purge.run(&desk).await,
        }
    }

    fn voice(&self) -> Voice {
        match self {
            Self::List(list) => list.voice,
            Self::Redrive(Redrive { chosen }) | Self::Purge(Purge { chosen }) => chosen.voice,
        }
    }
}

/// The output of `list --json`.
#[derive(Debug, Serialize)]
struct Listing {
    /// The letters, oldest upload first.
    letters: Vec<Shown>,
    /// Approximate number of further letters.
    more: u64,
    /// Approximate number of letters that other processes hold, which were not seen.
    held: u64,
    /// Letters of models that are not in the settings.
    others: Vec<Other>,
}

#[derive(Debug, Serialize)]
struct Other {
    model: String,
    messages: u64,
}

impl List {
    async fn run(self, desk: &Desk) -> Result<Exit, Stop> {
        let others = if self.model.is_none() { desk.others().await? } else { Vec::new() };
        let mut listing = Listing { letters: Vec::new(), more: 0, held: 0, others };
        for pile in desk.piles(self.model.as_deref()).await? {
            let before = pile.queue.depth().await?;
            listing.held += before.in_flight;
            let room = (self.limit as usize).saturating_sub(listing.letters.len());
            let (held, letters) =
                if room == 0 { (desk.hold(&pile), Vec::new()) } else { desk.collect(&pile, room).await? };
            // Everything needed has been received.
            let received: usize = letters.iter().map(|letter| letter.receipts.len()).sum();
            held.give_back().await;
            listing.more += before.visible.saturating_sub(received as u64);
            desk.expect_no_signal()?;
            let shown = stream::iter(letters).map(|letter| Shown::of(letter, desk)).buffered(AT_ONCE);
            listing.letters.extend(shown.collect::<Vec<_>>().await);
        }
        // A page that is not full means that the queue is empty, whatever its counts say.
        if listing.letters.len() < self.limit as usize {
            listing.more = 0;
        }
        self.voice.show(&listing, || text::listing(&listing, desk, show::width()).trim_end().to_owned());
        Ok(Exit::Ok)
    }
}

impl Redrive {
    async fn run(self, desk: &Desk) -> Result<Exit, Stop> {
        let Chosen { ids, all, model, yes, voice } = self.chosen;
        let piles = desk.piles(model.as_deref()).await?;
        for pile in &piles {
            // Without the model in the settings, no worker would take the job.
            desk.model(&pile.model)?;
        }
        let mut tally = Tally::default();
        if all {
            let there = All::of(&piles).await?;
            if there.letters == 0 {
                voice.show(&tally, || NONE);
                return Ok(Exit::Ok);
            }
            if !desk.is_agreed(yes, &there.sentence("Redrive")).await? {
                voice.end(&tally);
                return Ok(Exit::Failed);
            }
            for pile in &piles {
                redrive_all(desk, pile, &mut tally).await?;
            }
        } else {
            let chosen = select::by_ids(desk, &piles, &ids).await?;
            let agreed = desk.is_agreed(yes, &format!("Redrive {}.", chosen.names())).await;
            if !matches!(agreed, Ok(true)) {
                chosen.give_back().await;
                return agreed.map(|_no| {
                    voice.end(&tally);
                    Exit::Failed
                });
            }
            for (pile, held, letters) in chosen.piles() {
                let done = redrive_some(desk, pile, held, letters, &mut tally).await;
                held.give_back().await;
                done?;
            }
        }
        voice.show(&tally, || format!("{}.", tally.sentence()));
        desk.expect_no_signal()?;
        Ok(if tally.left == 0 { Exit::Ok } else { Exit::Failed })
    }
}

impl Purge {
    async fn run(self, desk: &Desk) -> Result<Exit, Stop> {
        let Chosen { ids, all, model, yes, voice } = self.chosen;
        let piles = desk.piles(model.as_deref()).await?;
        let none = json!({ "deleted": 0 });
        let deleted = |letters: u64| {
            voice.show(&json!({ "deleted": letters }), || if letters == 0 { NONE } else { "Deleted." });
            Ok(Exit::Ok)
        };
        if all {
            let there = All::of(&piles).await?;
            if there.letters == 0 {
                return deleted(0);
            }
            if !desk.is_agreed(yes, &there.sentence("Delete")).await? {
                voice.end(&none);
                return Ok(Exit::Failed);
            }
            for pile in &piles {
                pile.queue.purge().await?;
            }
            return deleted(there.letters);
        }
        let chosen = select::by_ids(desk, &piles, &ids).await?;
        let agreed = desk.is_agreed(yes, &format!("Delete {}.", chosen.names())).await;
        if !matches!(agreed, Ok(true)) {
            chosen.give_back().await;
            return agreed.map(|_no| {
                voice.end(&none);
                Exit::Failed
            });
        }
        let mut gone = 0;
        for (_, held, letters) in chosen.piles() {
            for letter in letters {
                held.ack(&letter.receipts).await?;
                gone += 1;
            }
        }
        deleted(gone)
    }
}

#[cfg(test)]
mod tests;
