//! A plan as text.

use std::fmt;

use eirs_platform::queue::Depth;

use super::{Action, Because, Cause, Hold, Plan, PoolPlan};

impl PoolPlan {
    /// The whole decision as one sentence.
    pub fn reason(&self) -> String {
        let mut sentence = match &self.depth {
            None => "the backlog is unknown".to_owned(),
            Some(Depth { visible: 0, in_flight: 0 }) => "no jobs".to_owned(),
            Some(depth) => {
                let jobs = if depth.backlog() == 1 { "job" } else { "jobs" };
                format!(
                    "{} {jobs} ({} waiting, {} in flight)",
                    depth.backlog(),
                    depth.visible,
                    depth.in_flight
                )
            }
        };
        if let Some(wish) =
            self.wishes.iter().max_by_key(|wish| wish.instances).filter(|wish| wish.instances > 0)
        {
            sentence += &format!(": {} wants {} ({})", wish.rule, wish.instances, wish.because);
        }
        if self.clamped != self.wished {
            sentence += &format!("; with spare, min and max {}", self.clamped);
        }
        let granted = self.granted();
        if granted != self.clamped {
            sentence += &format!("; {granted} within the budget");
        }
        if self.share != granted {
            sentence += &format!("; {} within the instance limit", self.share);
        }
        sentence += &format!("; {} ready, {} starting, {} leaving", self.ready, self.starting, self.leaving);
        if self.late > 0 {
            sentence += &format!("; {} late to become ready", self.late);
        }
        if self.launches > 0 {
            sentence += &format!("; {} launched, for no parked instance can be started", self.launches);
        }
        if let Some(canary) = &self.canary {
            sentence += &format!("; {canary} is started as a canary");
        }
        for hold in &self.holds {
            sentence += &format!("; {hold}");
        }
        sentence
    }
}

impl fmt::Display for Because {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PerInstance(jobs) => write!(f, "{jobs} for each instance"),
            Self::Latency { arrivals_per_s, service_s, busy, in_time, clearing, waiting } => write!(
                f,
                "{arrivals_per_s:.2} arrive each second and take {}: {busy:.1} busy, {in_time:.1} to \
                 answer in time, {clearing:.1} to clear {waiting:.0} that wait",
                span(*service_s)
            ),
            Self::Words(words) => f.write_str(words),
        }
    }
}

/// A service time, with at least two digits.
fn span(seconds: f64) -> String {
    if seconds < 0.1 { format!("{:.1} ms", seconds * 1e3) } else { format!("{seconds:.2} s") }
}

impl fmt::Display for Plan {
    /// Writes a few lines for each pool.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, pool) in &self.pools {
            writeln!(f, "{name}: {} desired, {} running", pool.desired, pool.running())?;
            writeln!(f, "  {}", pool.reason())?;
            for action in &pool.actions {
                writeln!(f, "  -> {action}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start { id } => write!(f, "start {id}"),
            Self::Drain { id, cause, .. } => write!(f, "drain {id}: {cause}"),
            Self::Stop { id } => write!(f, "stop {id}"),
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Idle => "idle and not needed",
            Self::NotNeeded => "not needed; it finishes its jobs first",
            Self::StartNotNeeded => "no longer needed before it was ready",
            Self::OverMax => "above max",
            Self::OverBudget => "above the day's budget",
            Self::OverShare => "above the pool's share of the instance limit",
            Self::NeverReady => "not ready after ten start delays",
            Self::Silent => "no report for two minutes",
            Self::Hung => "it completed no job for minutes while jobs waited",
            Self::OtherModel => "the pool now serves another model",
            Self::OtherVersion => "it loaded an earlier version of the model",
            Self::Updated => "replaced by an update",
            Self::NoPolicy => "the pool's policy was deleted",
            Self::Cordoned => "cordoned with --drain",
        })
    }
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Incomplete => f.write_str("held: the observation is incomplete"),
            Self::NoGoodPolicy => f.write_str("held: no good version of the policy file"),
            Self::TooEarly => f.write_str("held: the controller has not observed a whole window yet"),
            Self::WasHigher { instances } => {
                write!(f, "held: the demand within the window was {instances}")
            }
            Self::WorthKeeping { instances } => {
                write!(f, "held: keeping {instances} is cheaper than starting them again")
            }
            Self::SuddenDrop => f.write_str("held: arrivals dropped suddenly, which may be an outage"),
            Self::Deaf { instances } => {
                write!(
                    f,
                    "held: {instances} instances stopped reporting or working together; replacing one at a \
                     time"
                )
            }
            Self::Unheard { instances } => write!(
                f,
                "held: no instance reports, but jobs are done; counting {instances} as ready; check that \
                 workers may send to the events queue"
            ),
            Self::PaidFor => f.write_str("held: new instances are paid for until their billing minimum"),
            Self::NotIdle => f.write_str("held: too few instances have been idle long enough"),
            Self::MaxStep => f.write_str("held: scale_in.max_step instances are draining already"),
            Self::NoPlace => f.write_str("waiting for draining instances: they count against max"),
            Self::MaxStarting => f.write_str("waiting: scale_out.max_step instances are starting already"),
            Self::Budget => f.write_str("waiting: the day's budget allows no more"),
            Self::Limit => f.write_str("waiting: the instance limit of all pools is reached"),
            Self::NoneStopped => f.write_str("waiting: no stopped instance is left"),
            Self::BackOff { until } => {
                write!(f, "waiting until {}: the other instances failed recently", until.format("%H:%M:%S"))
            }
            Self::NoCapacity { until } => {
                write!(f, "waiting: no capacity; trying one instance at {}", until.format("%H:%M:%S"))
            }
            Self::Cordoned { instances: 1 } => f.write_str("waiting: the only stopped instance is cordoned"),
            Self::Cordoned { instances } => {
                write!(f, "waiting: all {instances} stopped instances are cordoned")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_service_time_is_written_in_milliseconds() {
        let said = [0.0012, 0.05, 0.2, 2.0].map(span);
        assert_eq!(said, ["1.2 ms", "50.0 ms", "0.20 s", "2.00 s"]);
    }
}
