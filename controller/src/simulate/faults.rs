//! Bad luck.

use std::time::Duration;

/// What goes wrong, and how often. Shares are from 0 to 1; nothing goes wrong by default.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Faults {
    /// The share of starts that never become ready.
    pub boot_failure: f64,
    /// The share of starts after which the instance dies by itself before it is ready.
    pub boot_crash: f64,
    /// The share of start calls that are refused as a whole for want of capacity.
    pub capacity_errors: f64,
    /// The share of start calls in which each instance is refused with a chance of one half.
    pub half_failed: f64,
    /// The share of drains and stops that fail.
    pub call_errors: f64,
    /// The share of calls that do what they were told and yet answer with an error.
    pub lost_answers: f64,
    /// The share of looks that cannot list the fleet.
    pub list_errors: f64,
    /// The share of looks that cannot read the queue's depth.
    pub depth_errors: f64,
    /// The depth that is read is this old.
    pub depth_lag: Duration,
    /// The depth that is read is off by up to this share of itself, either way.
    pub depth_noise: f64,
    /// The share of looks at which the depth reads zero, whatever it is.
    pub depth_zero: f64,
    /// The share of looks at which the depth reads anything up to a million, whatever it is.
    pub depth_wild: f64,
    /// The share of reports, of workers and of web, that never arrive.
    pub lost_reports: f64,
    /// The share of stops that take five minutes.
    pub slow_stop: f64,
    /// The mean time until a running instance vanishes with its jobs.
    pub vanish_after: Option<Duration>,
    /// The controller is killed and restarted this often.
    pub restart_every: Option<Duration>,
    /// A controller that was killed is started again after this; what is reported meanwhile waits
    /// for it.
    pub downtime: Duration,
    /// The share of plans in the middle of which the controller is killed and started again.
    pub restart_in_plan: f64,
    /// The share of restarts at which what the controller had learnt is lost.
    pub lost_learnt: f64,
    /// The policy's file gets this text at this time, good or bad.
    pub edits: Vec<(Duration, String)>,
    /// The clock is set this often, ...
    pub clock_jump_every: Option<Duration>,
    /// ... by up to this, forwards or backwards.
    pub clock_jump: Duration,
    /// The clocks of queue, web and machines differ from the controller's by up to this, each by
    /// its own.
    pub clock_skew: Duration,
    /// From this time on nothing goes wrong any more; what has gone wrong has.
    pub until: Option<Duration>,
}
