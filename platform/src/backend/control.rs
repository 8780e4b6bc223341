//! One controller for an installation: two would start and drain against each other. On one machine a lock of the state folder
//! sees to that. In a cloud a controller says on the queue of the reports that it is there, and one on another machine
//! that finds this said lately does not start. Of two that start in the same second the one stays whose word is the last, and one
//! that was silent for too long, as a machine that slept, leaves when it finds another in its place.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::{Backend, Queues};
use crate::{clock::Clock, error::Result};

/// What a controller said, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Control {
    /// The machine that it runs on.
    pub host: String,
    /// When it said so last.
    pub at: DateTime<Utc>,
}

impl Control {
    /// How often [`Backend::renew_control`] is to be called.
    pub const RENEW: Duration = Duration::from_secs(60);
    /// One that has said nothing for so long is gone: it missed two renewals.
    pub const GONE: Duration = Duration::from_secs(150);

    /// How long two that start together may take to read and to write.
    #[cfg(feature = "aws")]
    const SETTLE: Duration = Duration::from_secs(3);

    /// For how much longer it counts as there.
    pub fn lasts(&self, now: DateTime<Utc>) -> Option<Duration> {
        let silent = (now - self.at).to_std().unwrap_or_default();
        Self::GONE.checked_sub(silent).filter(|left| !left.is_zero())
    }

    #[cfg(feature = "aws")]
    fn written(&self) -> String {
        format!("{} {}", self.host, self.at.to_rfc3339())
    }

    #[cfg(feature = "aws")]
    fn read(text: &str) -> Option<Self> {
        let (host, at) = text.split_once(' ')?;
        let at = DateTime::parse_from_rfc3339(at).ok()?.to_utc();
        Some(Self { host: host.to_owned(), at })
    }
}

#[cfg_attr(not(feature = "aws"), expect(unused_variables, reason = "only a cloud is shared by machines"))]
impl Backend {
    /// The controller of this installation on another machine than `own`, where one was heard lately.
    pub async fn controller_elsewhere(&self, own: &str, now: DateTime<Utc>) -> Result<Option<Control>> {
        Ok(self.controller(now).await?.filter(|control| control.host != own))
    }

    /// The controller of this installation, on whatever machine, where one was heard lately. On one machine nobody says so.
    pub async fn controller(&self, now: DateTime<Utc>) -> Result<Option<Control>> {
        match &self.queues {
            Queues::Memory(_) | Queues::Sqlite(_) => Ok(None),
            #[cfg(feature = "aws")]
            Queues::Sqs(queues) => {
                let tags = queues.tags(super::EVENTS).await?;
                let said = tags.get(crate::aws::tag::CONTROLLER).and_then(|text| Control::read(text));
                Ok(said.filter(|said| said.lasts(now).is_some()))
            }
        }
    }

    /// Takes control for this machine, or answers with who has it.
    pub async fn take_control(&self, own: &str, clock: &dyn Clock) -> Result<Option<Control>> {
        match &self.queues {
            Queues::Memory(_) | Queues::Sqlite(_) => Ok(None),
            #[cfg(feature = "aws")]
            Queues::Sqs(_) => {
                if let Some(other) = self.renew_control(own, clock.now()).await? {
                    return Ok(Some(other));
                }
                tokio::time::sleep(Control::SETTLE).await;
                self.controller_elsewhere(own, clock.now()).await
            }
        }
    }

    /// Says again that the controller runs on this machine, unless another one has come in its place: then it answers with that one.
    pub async fn renew_control(&self, own: &str, now: DateTime<Utc>) -> Result<Option<Control>> {
        match &self.queues {
            Queues::Memory(_) | Queues::Sqlite(_) => Ok(None),
            #[cfg(feature = "aws")]
            Queues::Sqs(queues) => {
                let other = self.controller_elsewhere(own, now).await?;
                if other.is_none() {
                    let control = Control { host: own.to_owned(), at: now };
                    queues.tag(super::EVENTS, crate::aws::tag::CONTROLLER, &control.written()).await?;
                }
                Ok(other)
            }
        }
    }

    /// Says that none runs here any more, unless another one has come in its place.
    pub async fn leave_control(&self, own: &str, now: DateTime<Utc>) -> Result<()> {
        match &self.queues {
            Queues::Memory(_) | Queues::Sqlite(_) => Ok(()),
            #[cfg(feature = "aws")]
            Queues::Sqs(queues) => match self.controller_elsewhere(own, now).await? {
                Some(_its_own_affair) => Ok(()),
                None => queues.tag(super::EVENTS, crate::aws::tag::CONTROLLER, "none").await,
            },
        }
    }
}

#[cfg(all(test, feature = "aws"))]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    #[test]
    fn what_was_said_is_read_and_is_forgotten_after_two_missed_renewals() {
        let control = Control { host: "web-1".into(), at: DateTime::UNIX_EPOCH };
        assert_eq!(Control::read(&control.written()), Some(control.clone()));
        assert_eq!(Control::read("none"), None);
        let after = |seconds| control.lasts(control.at + TimeDelta::seconds(seconds));
        assert_eq!(after(30), Some(Duration::from_secs(120)));
        assert!(after(2 * Control::RENEW.as_secs() as i64).is_some());
        assert_eq!(after(150), None);
    }
}
