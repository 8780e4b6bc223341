//! The inputs of a simulation besides policy and trace: workers, prices, SLO, faults and random
//! numbers.

use std::{fmt, str::FromStr, time::Duration};

use eirs_platform::settings::units;
use serde::{Serialize, Serializer};

use super::Faults;
use crate::policy::Price;

/// Virtual time: microseconds since the beginning of the trace.
pub type Micros = u64;

/// The workers, prices and faults of a simulation.
#[derive(Debug, Clone, PartialEq)]
pub struct Setup {
    /// Time from the receipt of a job to its result.
    pub service_time: Distribution,
    /// Number of jobs that one instance processes at the same time, without slowing each other
    /// down.
    pub concurrency: u32,
    /// Time from the start order to the first job.
    pub start_delay: Distribution,
    /// Time from the start order until the machine runs and is billed; at most the whole start
    /// delay.
    pub pending: Duration,
    /// Maximum latency of a request, from arrival to result.
    pub slo: Duration,
    /// Seed of all random numbers: the same seed gives the same run.
    pub seed: u64,
    /// Longest time between two passes of the controller.
    pub tick: Duration,
    /// Visibility timeout of the job queue.
    pub visibility: Duration,
    /// Interval at which a worker extends the leases of its jobs.
    pub heartbeat: Duration,
    /// Time from a drain order until the worker receives it. Until then it still takes jobs.
    pub order_delay: Duration,
    /// Time after which a draining worker returns its jobs to the queue.
    pub worker_drain_deadline: Duration,
    /// Time from a stop order until the instance can be started again. It is not billed.
    pub stop_delay: Duration,
    /// The actual prices, whatever the policy says.
    pub price: Price,
    /// Price of an hour of a launched instance, if it differs.
    pub launched_usd_per_hour: Option<f64>,
    /// Whether every plan is checked against the rules of any plan, which takes a third of the
    /// time.
    pub checks: bool,
    /// The faults that occur.
    pub faults: Faults,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            service_time: Distribution { mean: Duration::from_secs(2), shape: Shape::LogNormal(0.5) },
            concurrency: 1,
            start_delay: Distribution { mean: Duration::from_secs(25), shape: Shape::LogNormal(0.2) },
            pending: Duration::from_secs(5),
            slo: Duration::from_secs(30),
            seed: 1,
            tick: Duration::from_secs(10),
            visibility: Duration::from_secs(30),
            heartbeat: Duration::from_secs(10),
            order_delay: Duration::from_millis(500),
            worker_drain_deadline: Duration::from_secs(60),
            stop_delay: Duration::from_secs(10),
            price: Price::default(),
            launched_usd_per_hour: None,
            checks: cfg!(debug_assertions),
            faults: Faults::default(),
        }
    }
}

/// A random duration. The mean does not depend on the shape.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Distribution {
    /// The mean.
    pub mean: Duration,
    /// The shape.
    pub shape: Shape,
}

/// The shape of a [`Distribution`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Shape {
    /// Always the mean.
    Constant,
    /// Exponential, with a squared coefficient of variation of 1.
    Exponential,
    /// Log-normal. The number is the standard deviation of the logarithm.
    LogNormal(f64),
    /// Uniform. The number is the largest deviation from the mean, as a share of it.
    Uniform(f64),
}

impl Distribution {
    /// A constant duration.
    pub const fn constant(mean: Duration) -> Self {
        Self { mean, shape: Shape::Constant }
    }

    /// Draws a duration.
    pub fn draw(&self, chance: &mut Chance) -> Duration {
        let mean = self.mean.as_secs_f64();
        let seconds = match self.shape {
            Shape::Constant => return self.mean,
            // The argument of the logarithm is in (0, 1].
            Shape::Exponential => -mean * (1.0 - chance.unit()).ln(),
            Shape::LogNormal(sigma) => mean * sigma.mul_add(chance.normal(), -sigma * sigma / 2.0).exp(),
            Shape::Uniform(spread) => mean * (1.0 + spread * (2.0 * chance.unit() - 1.0)),
        };
        Duration::try_from_secs_f64(seconds).unwrap_or(LONGEST).min(LONGEST)
    }

    /// A value that nearly all draws are below: the mean plus three standard deviations, or the
    /// upper end.
    pub fn nearly_most(&self) -> Duration {
        let spread = match self.shape {
            Shape::Constant => 0.0,
            Shape::Exponential => 3.0,
            Shape::LogNormal(sigma) => 3.0 * (sigma.powi(2).exp() - 1.0).sqrt(),
            Shape::Uniform(spread) => spread,
        };
        self.mean.mul_f64(1.0 + spread).min(LONGEST)
    }
}

/// Upper bound of all simulated durations, so that extreme draws cannot overflow.
const LONGEST: Duration = Duration::from_secs(3600);

impl FromStr for Distribution {
    type Err = String;

    /// Parses `2s`, `2s~exp`, `2s~lognormal:0.5` or `2s~uniform:0.2`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (mean, shape) = text.split_once('~').map_or((text, "constant"), |(mean, shape)| (mean, shape));
        let mean = units::duration::parse(mean)?;
        if mean > LONGEST {
            return Err(format!("`{text}` is too long; at most 1h can be simulated"));
        }
        let (name, number) =
            shape.split_once(':').map_or((shape, None), |(name, number)| (name, Some(number)));
        let number = |least: f64, most: f64, default: f64| match number.map(str::parse::<f64>) {
            None => Ok(default),
            Some(Ok(number)) if (least..=most).contains(&number) => Ok(number),
            Some(_) => Err(format!(
                "`{text}`: the number after `{name}:` must be from {least} to \
                {most}"
            )),
        };
        let shape = match name.trim() {
            "constant" => Shape::Constant,
            "exp" => Shape::Exponential,
            "lognormal" => Shape::LogNormal(number(0.0, 3.0, 0.5)?),
            "uniform" => Shape::Uniform(number(0.0, 1.0, 0.2)?),
            _ => {
                return Err(format!(
                    "`{text}` has an unknown shape; write 2s, 2s~exp, 2s~lognormal:0.5 or \
                    2s~uniform:0.2"
                ));
            }
        };
        Ok(Self { mean, shape })
    }
}

impl fmt::Display for Distribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", humantime::format_duration(self.mean))?;
        match self.shape {
            Shape::Constant => Ok(()),
            Shape::Exponential => f.write_str("~exp"),
            Shape::LogNormal(sigma) => write!(f, "~lognormal:{sigma}"),
            Shape::Uniform(spread) => write!(f, "~uniform:{spread}"),
        }
    }
}

impl Serialize for Distribution {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A seeded random number generator: SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom
/// Number Generators, OOPSLA 2014).
///
/// It is implemented here because a seed from a failed run must give the same run in later
/// versions, and generators of crates may change with their versions.
#[derive(Debug, Clone)]
pub struct Chance(u64);

/// The uses of random numbers. Each has its own stream, so that for example a lost report does not
/// change the next service time.
#[derive(Debug, Clone, Copy)]
pub(super) enum Stream {
    Arrivals = 1,
    Service,
    Starts,
    Dispatch,
    Faults,
    Victims,
    Clocks,
}

impl Chance {
    /// Makes a generator from a seed.
    pub fn new(seed: u64) -> Self {
        let mut chance = Self(seed);
        // Mix the bits, as seeds are small numbers and their streams must be independent.
        Self(chance.bits())
    }

    pub(super) fn of(seed: u64, stream: Stream) -> Self {
        Self::new(seed ^ (stream as u64).wrapping_mul(0xd605_bbb5_8c8a_bbf9))
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A uniformly distributed number in [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A uniformly distributed integer below `most`, or 0. The deviation from uniform is below
    /// 2^-32 for the numbers used here.
    pub fn below(&mut self, most: usize) -> usize {
        ((u128::from(self.bits()) * most as u128) >> 64) as usize
    }

    /// True with probability `share`. Draws nothing if it is 0.
    pub fn happens(&mut self, share: f64) -> bool {
        share > 0.0 && self.unit() < share
    }

    /// A normally distributed number with mean 0 and standard deviation 1 (Box and Muller).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }
}

/// Converts a duration to virtual time.
pub(super) fn micros(duration: Duration) -> Micros {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distributions_are_parsed_and_formatted_and_mistakes_are_reported() {
        for text in ["2s", "250ms~exp", "2s~lognormal:0.5", "1m~uniform:0.2"] {
            assert_eq!(text.parse::<Distribution>().unwrap().to_string(), text);
        }
        let said = |text: &str| text.parse::<Distribution>().unwrap_err();
        assert!(said("2").contains("not a duration"), "{}", said("2"));
        assert!(said("2s~gamma").contains("has an unknown shape"));
        assert!(said("2s~uniform:7").contains("from 0 to 1"));
        assert!(said("2days").contains("at most 1h"));
    }

    #[test]
    fn every_shape_keeps_the_mean() {
        for text in ["2s", "2s~exp", "2s~lognormal:0.5", "2s~uniform:0.9"] {
            let distribution: Distribution = text.parse().unwrap();
            let mut chance = Chance::new(7);
            let draws = 200_000;
            let sum: f64 = (0..draws).map(|_| distribution.draw(&mut chance).as_secs_f64()).sum();
            let mean = sum / f64::from(draws);
            assert!((mean - 2.0).abs() < 0.02, "{text}: {mean}");
        }
    }

    #[test]
    fn random_numbers_equal_the_published_generator() {
        // The first numbers of the reference implementation of SplitMix64 for the state 1234567.
        let mut chance = Chance(1_234_567);
        let first = [chance.bits(), chance.bits(), chance.bits()];
        assert_eq!(first, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }
}
