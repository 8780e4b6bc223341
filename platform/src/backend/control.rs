//! The controller of an installation says that it is there, on the queue of the reports: a worker
//! that hears of none for long leaves (`worker/src/abandoned.rs`), and `eirs check` shows it. Which
//! of several controllers acts is another matter: `claim.rs`.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::{Backend, Claim, Own, Queues};
use crate::{clock::SharedClock, error::Result, settings::Settings};

/// What a controller said, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Control {
    /// The machine that it runs on.
    pub host: String,
    /// When it said so last.
    pub at: DateTime<Utc>,
}

impl Control {
    /// How often [`Backend::tell_control`] is to be called.
    pub const RENEW: Duration = Duration::from_secs(60);
    /// One that has said nothing for so long is gone: it missed two renewals.
    pub const GONE: Duration = Duration::from_secs(150);

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
    /// The controller of this installation, on whatever machine, where one was heard lately. On one
    /// machine nobody says so.
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

    /// Says that the controller runs on this machine; `None` that it runs here no more.
    pub async fn tell_control(&self, own: Option<&str>, now: DateTime<Utc>) -> Result<()> {
        match &self.queues {
            Queues::Memory(_) | Queues::Sqlite(_) => Ok(()),
            #[cfg(feature = "aws")]
            Queues::Sqs(queues) => {
                let said = own.map(|host| Control { host: host.to_owned(), at: now }.written());
                let said = said.as_deref().unwrap_or("none");
                queues.tag(super::EVENTS, crate::aws::tag::CONTROLLER, said).await
            }
        }
    }

    /// This controller's side of the claim by which one of several acts; on one machine a lock sees
    /// to that.
    pub fn claim(&self, settings: &Settings, clock: SharedClock) -> Option<Claim> {
        let slot = self.claim.clone()?;
        Some(Claim::new(slot, Own::of(settings, &*clock), clock))
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
