//! The faults of a simulation, as flags.

use std::time::Duration;

use eirs_controller::simulate::Faults;

use super::duration;

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Simulated faults")]
pub(super) struct Luck {
    /// Share of started instances that never become ready, from 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share, hide_default_value = true)]
    boot_failure: f64,
    /// Share of starts that are refused for lack of capacity, from 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share, hide_default_value = true)]
    capacity_errors: f64,
    /// Share of the reports of workers and web hosts that are lost, from 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share, hide_default_value = true)]
    lost_reports: f64,
    /// Age of the queue depth that the controller sees
    #[arg(
        long, value_name = "TIME", default_value = "0s", value_parser = duration,
        hide_default_value = true
    )]
    depth_lag: Duration,
    /// Mean time until a running instance disappears with its jobs [default: never]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    vanish_after: Option<Duration>,
    /// Interval at which the controller is killed [default: never]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    restart_every: Option<Duration>,
    /// Time from such a kill to the restart; reports wait meanwhile
    #[arg(
        long, value_name = "TIME", default_value = "0s", value_parser = duration,
        hide_default_value = true
    )]
    downtime: Duration,
    /// Largest difference between the controller's clock and those of queue, web hosts and machines
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
