//! Sends alerts to the operator's webhook, one request at a time and without delaying a pass.

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use eirs_platform::{
    backoff::Backoff,
    settings::AlertWebhook,
    webhook::{Ended, Keys, Message, Poster},
};
use tokio::task::JoinHandle;

use super::{Alert, Event, Ledger};

/// First and longest time after which a failed request is repeated.
const WAITS: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(120)];

/// Sends alerts to a webhook.
#[derive(Debug)]
pub struct Sender {
    poster: Arc<Poster>,
    file: PathBuf,
    keys: Keys,
    in_flight: Option<(JoinHandle<Ended>, Vec<Event>)>,
    backoff: Backoff,
    not_before: DateTime<Utc>,
    is_failing: bool,
}

impl Sender {
    /// Makes a sender and reads its keys; `None` if the settings have no address. The error is a
    /// sentence that begins with the setting.
    pub fn open(settings: &AlertWebhook) -> Result<Option<Self>, String> {
        let (Some(url), Some(file)) = (&settings.url, &settings.key) else { return Ok(None) };
        let poster = Poster::to(url).map_err(|why| format!("controller.webhook.url: {why}"))?;
        let [first, longest] = WAITS;
        Ok(Some(Self {
            poster: Arc::new(poster),
            file: file.clone(),
            keys: read(file)?,
            in_flight: None,
            backoff: Backoff::new(first, longest),
            not_before: DateTime::UNIX_EPOCH,
            is_failing: false,
        }))
    }

    /// Evaluates the last request, if it has ended, and sends the events that the receiver does not
    /// know yet.
    pub(crate) async fn update(&mut self, ledger: &mut Ledger, alerts: Vec<Alert>, now: DateTime<Utc>) {
        if let Some((sending, events)) = self.in_flight.take_if(|(sending, _)| sending.is_finished()) {
            let ended = sending.await.unwrap_or_else(|panic| Ended::Later {
                why: format!("could not be asked: {panic}"),
                after: None,
            });
            self.note(ended, events, ledger, now);
        }
        let events = ledger.observe(alerts, now);
        // A clock that was set back must not delay a request.
        let waits = now < self.not_before && self.not_before - now <= chrono::TimeDelta::minutes(2);
        if self.in_flight.is_some() || waits || events.is_empty() {
            return;
        }
        match read(&self.file) {
            Ok(keys) => self.keys = keys,
            Err(why) => tracing::warn!("{why}; the last good keys stay in force"),
        }
        let newest = events.iter().map(|event| event.until.unwrap_or(event.alert.since)).max();
        let names = events.iter().map(|event| event.event.as_str());
        let message = Message::new("eirs.alerts", newest.unwrap_or(now), names, &events);
        let signature = self.keys.sign(&message.id, now.timestamp(), &message.body);
        let poster = self.poster.clone();
        let sending = tokio::spawn(async move { poster.post(&message, now.timestamp(), signature).await });
        self.in_flight = Some((sending, events));
    }

    #[cfg(test)]
    pub(super) fn is_sending(&self) -> bool {
        self.in_flight.as_ref().is_some_and(|(sending, _)| !sending.is_finished())
    }

    fn note(&mut self, ended: Ended, events: Vec<Event>, ledger: &mut Ledger, now: DateTime<Utc>) {
        let (why, after) = match ended {
            Ended::Taken => {
                self.backoff.reset();
                if std::mem::take(&mut self.is_failing) {
                    tracing::info!("controller.webhook: {} takes alerts again", self.poster.url());
                }
                return ledger.taken(events);
            }
            Ended::Refused(why) => (why, None),
            Ended::Later { why, after } => (why, after),
        };
        if !std::mem::replace(&mut self.is_failing, true) {
            tracing::error!("controller.webhook: {} {why}; alerts are sent again", self.poster.url());
        }
        let [first, longest] = WAITS;
        let wait = self.backoff.next_wait().max(first / 2).max(after.unwrap_or_default()).min(longest);
        self.not_before = now + wait;
    }
}

fn read(file: &PathBuf) -> Result<Keys, String> {
    let shown = file.display();
    let text = fs::read(file)
        .map_err(|error| format!("controller.webhook.key: {shown}: cannot be read: {error}"))?;
    Keys::parse(&text).map_err(|why| format!("controller.webhook.key: {shown}: {why}"))
}
