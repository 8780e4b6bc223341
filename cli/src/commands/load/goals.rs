//! The arguments that set goals.

use std::time::Duration;

use eirs_load::{Share, Slo};
use eirs_platform::settings::units;

/// The goals of a run.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Goals: the exit code is 1 if one is missed")]
pub(super) struct Goals {
    /// Fail if more than half of the images take longer than this
    #[arg(long, value_name = "TIME", alias = "slo_p50", value_parser = units::duration::parse)]
    slo_p50: Option<Duration>,
    /// Fail if more than 5 of 100 images take longer than this
    #[arg(long, value_name = "TIME", alias = "slo_p95", value_parser = units::duration::parse)]
    slo_p95: Option<Duration>,
    /// Fail if more than 1 of 100 images takes longer than this
    #[arg(long, value_name = "TIME", alias = "slo_p99", value_parser = units::duration::parse)]
    slo_p99: Option<Duration>,
    /// Fail if a larger share of the images fails than this [default: 0%]
    #[arg(long, value_name = "SHARE", alias = "slo_errors")]
    slo_errors: Option<Share>,
}

impl From<Goals> for Slo {
    fn from(goals: Goals) -> Self {
        Self { p50: goals.slo_p50, p95: goals.slo_p95, p99: goals.slo_p99, errors: goals.slo_errors }
    }
}
