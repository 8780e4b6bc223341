//! The time that a server takes for one job, from the most recent jobs.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

/// Number of recent jobs that are averaged.
const SAMPLES: usize = 64;
/// Older samples are dropped if the last [`CHANGE`] jobs, over at least [`CHANGE_TIME`], all took
/// [`MUCH`] times longer or shorter than the mean of those before: the model or the machine has
/// changed.
const CHANGE: usize = 8;
const CHANGE_TIME: Duration = Duration::from_secs(10);
const MUCH: f64 = 1.5;
/// A job that takes longer than all samples is repeatedly assumed to need this fraction of their
/// mean more.
const OVERDUE: f64 = 0.1;
/// Minimum estimate for a job in flight, as a fraction of the mean.
const SOONEST: f64 = 0.02;

/// The most recent jobs, newest last.
#[derive(Debug, Default)]
pub(super) struct Service {
    samples: VecDeque<(Instant, f64)>,
}

impl Service {
    /// Records that a server was busy with a job for `seconds`.
    pub(super) fn note(&mut self, now: Instant, seconds: f64) {
        if self.samples.len() == SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back((now, seconds.max(1e-4)));
        let Some(before) = self.samples.len().checked_sub(CHANGE).filter(|before| *before > 0) else {
            return;
        };
        let mean_s = mean(self.samples.range(..before).map(|(_, seconds)| *seconds));
        let mut late = self.samples.range(before..).map(|(_, seconds)| *seconds / mean_s);
        let is_other = late.clone().all(|part| part > MUCH) || late.all(|part| part < 1.0 / MUCH);
        if is_other && now.saturating_duration_since(self.samples[before].0) >= CHANGE_TIME {
            self.samples.drain(..before);
        }
    }

    /// Returns the mean in seconds, or `None` before the first job.
    pub(super) fn mean_s(&self) -> Option<f64> {
        (!self.samples.is_empty()).then(|| mean(self.samples.iter().map(|(_, seconds)| *seconds)))
    }

    /// Returns the longest of the recent jobs, in seconds.
    pub(super) fn longest_s(&self) -> Option<f64> {
        self.samples.iter().map(|(_, seconds)| *seconds).max_by(f64::total_cmp)
    }

    /// Returns the expected seconds until the end of a job that has already taken `age_s`, if the
    /// mean is `each_s`: from the mean of the jobs that took longer than `age_s`.
    pub(super) fn left_s(&self, age_s: f64, each_s: f64) -> f64 {
        if age_s <= 0.0 {
            return each_s;
        }
        let longer = || self.samples.iter().map(|(_, seconds)| *seconds).filter(|seconds| *seconds > age_s);
        let left_s = if self.samples.is_empty() { each_s - age_s } else { mean(longer()) - age_s };
        // NaN, and so not greater, if none took longer.
        if left_s > 0.0 { left_s.max(SOONEST * each_s) } else { OVERDUE * each_s }
    }
}

fn mean(seconds: impl Iterator<Item = f64> + Clone) -> f64 {
    seconds.clone().sum::<f64>() / seconds.count() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(seconds: &[f64]) -> Service {
        let (mut service, mut now) = (Service::default(), Instant::now());
        for seconds in seconds {
            now += Duration::from_secs_f64(*seconds);
            service.note(now, *seconds);
        }
        service
    }

    #[test]
    fn the_rest_of_a_job_follows_from_jobs_that_took_at_least_as_long() {
        let mixed = service(&[1.0, 3.0, 1.0, 5.0]);
        assert_eq!(mixed.mean_s(), Some(2.5));
        assert_eq!(mixed.left_s(0.0, 2.5), 2.5);
        assert_eq!(mixed.left_s(2.0, 2.5), 2.0, "it is one of the long ones");
        assert_eq!(mixed.left_s(4.0, 2.5), 1.0);
        assert_eq!(mixed.left_s(60.0, 2.5), 0.25, "never zero");
        assert_eq!(Service::default().left_s(3.0, 10.0), 7.0, "the mean of the controller");
    }

    #[test]
    fn a_few_slow_jobs_are_outweighed_and_a_new_model_is_not() {
        let slow_start = [vec![0.05; 60], vec![0.15; 9]].concat();
        assert!(service(&slow_start).mean_s().unwrap() < 0.07, "all clients upload at once");
        let new = [vec![60.0; 64], vec![5.0; 8]].concat();
        assert_eq!(service(&new).mean_s(), Some(5.0), "older samples are dropped");
        let uneven: Vec<_> = (0..64).map(|n| if n % 8 == 0 { 30.0 } else { 2.0 }).collect();
        assert_eq!(service(&uneven).mean_s(), Some(5.5), "occasional long jobs are no change");
    }
}
