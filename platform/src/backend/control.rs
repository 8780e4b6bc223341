//! The presence of a controller, announced on the queue of the reports: a worker that sees none for
//! long ends (`worker/src/abandoned.rs`), and `eirs check` shows it. Which of several controllers
//! acts is decided in `claim.rs`.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::{Backend, Claim, Own, Queues};
use crate::{clock::SharedClock, error::Result, settings::Settings};

/// A controller and when it was last seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Control {
    /// The machine that it runs on.
    pub host: String,
    /// When it last announced itself.
    pub at: DateTime<Utc>,
}

impl Control {
    /// Interval for calls of [`Backend::announce_control`].
    pub const RENEW: Duration = Duration::from_secs(60);
    /// A controller that was silent for this time is gone: it missed two renewals.
    pub const GONE: Duration = Duration::from_secs(150);

    /// Returns how much longer it counts as present; `None` if it is gone.
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
    /// Returns the controller of this installation, on whatever machine, if it is present. Always
    /// `None` on a single machine.
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

    /// Announces that the controller runs on the machine `own`, or with `None` that it has ended.
    pub async fn announce_control(&self, own: Option<&str>, now: DateTime<Utc>) -> Result<()> {
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

    /// Returns this controller's view of the claim; `None` on a single machine, where a lock is
    /// used instead.
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
    fn an_announcement_is_read_and_expires_after_two_missed_renewals() {
        let control = Control { host: "web-1".into(), at: DateTime::UNIX_EPOCH };
        assert_eq!(Control::read(&control.written()), Some(control.clone()));
        assert_eq!(Control::read("none"), None);
        let after = |seconds| control.lasts(control.at + TimeDelta::seconds(seconds));
        assert_eq!(after(30), Some(Duration::from_secs(120)));
        assert!(after(2 * Control::RENEW.as_secs() as i64).is_some());
        assert_eq!(after(150), None);
    }
}
