//! The faults of a simulation, as flags.

use std::time::Duration;

use eirs_controller::simulate::Faults;

use super::duration;

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Bad luck")]
pub(super) struct Luck {
    /// The share of starts that never become ready, from 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share, hide_default_value = true)]
    boot_failure: f64,
    /// The share of start calls that are refused for lack of capacity
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share, hide_default_value = true)]
    capacity_errors: f64,
    /// The share of reports, of workers and of web, that never arrive
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share, hide_default_value = true)]
    lost_reports: f64,
    /// The queue's depth is read this late
    #[arg(
        long, value_name = "TIME", default_value = "0s", value_parser = duration,
        hide_default_value = true
    )]
    depth_lag: Duration,
    /// The mean time until a running instance vanishes with its jobs
    #[arg(long, value_name = "TIME", value_parser = duration)]
    vanish_after: Option<Duration>,
    /// The controller is killed and restarted this often
    #[arg(long, value_name = "TIME", value_parser = duration)]
    restart_every: Option<Duration>,
    /// It is started again only after this; reports wait for it meanwhile
    #[arg(
        long, value_name = "TIME", default_value = "0s", value_parser = duration,
        hide_default_value = true
    )]
    downtime: Duration,
    /// The clocks of queue, web and machines differ from the controller's by up to this
    #[arg(
        long, value_name = "TIME", default_value = "0s", value_parser = duration,
        hide_default_value = true
    )]
    clock_skew: Duration,
}

impl Luck {
    pub(super) fn faults(&self) -> Faults {
        // A fault at every moment would be an endless loop.
        let often = |every: Option<Duration>| every.filter(|every| !every.is_zero());
        Faults {
            boot_failure: self.boot_failure,
            capacity_errors: self.capacity_errors,
            lost_reports: self.lost_reports,
            depth_lag: self.depth_lag,
            vanish_after: often(self.vanish_after),
            restart_every: often(self.restart_every),
            downtime: self.downtime,
            clock_skew: self.clock_skew,
            ..Faults::default()
        }
    }
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse::<f64>().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "must be a share from 0 to 1, like 0.05".to_owned())
}
