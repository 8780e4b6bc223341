//! The simulated faults.

use std::time::Duration;

/// The faults and how often they occur. Shares are from 0 to 1; by default nothing fails.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Faults {
    /// Share of starts that never become ready.
    pub boot_failure: f64,
    /// Share of starts in which the instance crashes before it is ready.
    pub boot_crash: f64,
    /// Share of start calls that are refused as a whole for lack of capacity.
    pub capacity_errors: f64,
    /// Share of start calls in which each instance is refused with a probability of one half.
    pub half_failed: f64,
    /// Share of drain and stop calls that fail.
    pub call_errors: f64,
    /// Share of calls that are carried out but return an error.
    pub lost_answers: f64,
    /// Share of observations in which the fleet cannot be listed.
    pub list_errors: f64,
    /// Share of observations in which the queue depth cannot be read.
    pub depth_errors: f64,
    /// Age of the queue depth that is read.
    pub depth_lag: Duration,
    /// Largest relative error of the queue depth that is read, in both directions.
    pub depth_noise: f64,
    /// Share of observations in which the queue depth reads zero.
    pub depth_zero: f64,
    /// Share of observations in which the queue depth reads an arbitrary number up to a million.
    pub depth_wild: f64,
    /// Share of reports of workers and web hosts that are lost.
    pub lost_reports: f64,
    /// Share of stops that take five minutes.
    pub slow_stop: f64,
    /// Mean time until a running instance vanishes with its jobs.
    pub vanish_after: Option<Duration>,
    /// Interval at which the controller is killed and restarted.
    pub restart_every: Option<Duration>,
    /// Time until a killed controller is started again. Reports wait for it meanwhile.
    pub downtime: Duration,
    /// Share of plans during which the controller is killed and restarted.
    pub restart_in_plan: f64,
    /// Share of restarts at which the controller's memory is lost.
    pub lost_learnt: f64,
    /// Changes of the policy file: the time and the new text, valid or not.
    pub edits: Vec<(Duration, String)>,
    /// Interval at which the clock is changed.
    pub clock_jump_every: Option<Duration>,
    /// Largest change of the clock, in both directions.
    pub clock_jump: Duration,
    /// Largest difference between the controller's clock and each of those of queue, web host and
    /// machines.
    pub clock_skew: Duration,
    /// Time after which no new faults occur.
    pub until: Option<Duration>,
}
