//! The shared state of the commands: the existing queues of dead letters, and ways to receive and
//! to ask.

use std::time::Duration;

use eirs_platform::{
    backend::{self, Backend},
    queue::SharedQueue,
    settings::{BackendKind, Settings},
};
use indicatif::ProgressBar;
use tokio_util::sync::CancellationToken;

use super::{
    Other, ROUND,
    held::Held,
    letter::{self, Letter},
};
use crate::{
    Stop,
    show::{self, Voice, count},
    state,
};

/// The shared state of the commands.
pub(super) struct Desk {
    pub(super) settings: Settings,
    pub(super) backend: Backend,
    /// Cancelled by a signal, after which held letters are given back.
    pub(super) stop: CancellationToken,
    pub(super) voice: Voice,
}

/// The dead letters of one model.
pub(super) struct Pile {
    pub(super) model: String,
    pub(super) queue: SharedQueue,
}

impl Desk {
    pub(super) async fn open(settings: Settings, voice: Voice) -> anyhow::Result<Self> {
        let stop = CancellationToken::new();
        show::stop_on_signal(stop.clone());
        Ok(Self { backend: state::open(&settings).await?, settings, stop, voice })
    }

    /// Returns the existing piles: of one model, or of all in the settings. A queue that does not
    /// exist counts as empty, and is not created.
    pub(super) async fn piles(&self, model: Option<&str>) -> Result<Vec<Pile>, Stop> {
        let there: Vec<_> = self.backend.queue_names().await?;
        let is_there = |model: &str| there.contains(&backend::dead_letters_name(model));
        let models: Vec<_> = match model {
            Some(model) if is_there(model) => vec![model],
            Some(model) => {
                // The model may have no letters, but must exist.
                self.model(model)?;
                Vec::new()
            }
            None => self.settings.models.keys().map(String::as_str).filter(|model| is_there(model)).collect(),
        };
        let mut piles = Vec::new();
        for model in models {
            piles.push(Pile { model: model.to_owned(), queue: self.backend.dead_letters(model).await? });
        }
        Ok(piles)
    }

    /// Returns the dead letters of models that are no longer in the settings.
    pub(super) async fn others(&self) -> Result<Vec<Other>, Stop> {
        let mut others = Vec::new();
        for queue in self.backend.queue_names().await? {
            let Some(model) = queue.strip_prefix(&backend::dead_letters_name("")) else { continue };
            if !self.settings.models.contains_key(model) {
                let messages = self.backend.any_queue(&queue).await?.depth().await?.backlog();
                others.push(Other { model: model.to_owned(), messages });
            }
        }
        others.retain(|other| other.messages > 0);
        Ok(others)
    }

    pub(super) fn model(&self, name: &str) -> Result<(), Stop> {
        if self.settings.models.contains_key(name) {
            return Ok(());
        }
        let known = self.settings.models.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        Err(Stop::Usage(format!("unknown model `{name}`; the settings have {known}")))
    }

    pub(super) fn hold(&self, pile: &Pile) -> Held {
        // Without waiting for a second, SQS only queries a subset of its servers.
        let patience = match self.settings.backend {
            BackendKind::Local => Duration::ZERO,
            BackendKind::Aws => Duration::from_secs(1),
        };
        Held::new(pile.queue.clone(), self.settings.queue.visibility, patience)
    }

    /// Receives and holds up to `most` letters of a pile.
    pub(super) async fn collect(&self, pile: &Pile, most: usize) -> anyhow::Result<(Held, Vec<Letter>)> {
        let held = self.hold(pile);
        let mut letters = letter::Sorter::new(&pile.model);
        let spinner = ProgressBar::new_spinner();
        while letters.len() < most && !self.stop.is_cancelled() {
            let received = held.receive(ROUND.min(most - letters.len())).await;
            let received = match received {
                Ok(received) => received,
                Err(error) => {
                    held.give_back().await;
                    return Err(error.into());
                }
            };
            if received.is_empty() {
                break;
            }
            letters.take(received);
            spinner.set_message(format!("looking: {}", count(letters.len() as u64, "letter")));
            spinner.tick();
        }
        spinner.finish_and_clear();
        Ok((held, letters.sorted()))
    }

    /// Fails after a signal; what was not done remains unchanged.
    pub(super) fn expect_no_signal(&self) -> anyhow::Result<()> {
        anyhow::ensure!(!self.stop.is_cancelled(), "interrupted; the rest is unchanged");
        Ok(())
    }

    /// Asks whether to continue.
    pub(super) async fn is_agreed(&self, yes: bool, sentence: &str) -> Result<bool, Stop> {
        self.voice.say(sentence);
        Ok(yes || self.voice.agreed(show::ask("Do it?", &self.stop).await)?)
    }
}

/// All letters of some piles.
pub(super) struct All {
    pub(super) letters: u64,
    models: Vec<String>,
}

impl All {
    pub(super) async fn of(piles: &[Pile]) -> Result<Self, Stop> {
        let mut all = Self { letters: 0, models: Vec::new() };
        for pile in piles {
            let letters = pile.queue.depth().await?.backlog();
            if letters > 0 {
                all.letters += letters;
                all.models.push(format!("{} of the model {}", count(letters, "dead letter"), pile.model));
            }
        }
        Ok(all)
    }

    pub(super) fn sentence(&self, verb: &str) -> String {
        format!("{verb} {}.", self.models.join(", "))
    }
}
