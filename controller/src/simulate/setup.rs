//! What a simulation needs besides a policy and a trace: the workers, the price, the SLO, the bad
//! luck, and chance itself.

use std::{fmt, str::FromStr, time::Duration};

use eirs_platform::settings::units;
use serde::{Serialize, Serializer};

use super::Faults;
use crate::policy::Price;

/// Virtual time: microseconds since the beginning of the trace.
pub type Micros = u64;

/// The workers, the price and the luck of a simulation.
#[derive(Debug, Clone, PartialEq)]
pub struct Setup {
    /// From the receipt of a job to its result.
    pub service_time: Distribution,
    /// Jobs that one instance does at the same time. More of them do not slow each other down.
    pub concurrency: u32,
    /// From the start order to the first job.
    pub start_delay: Distribution,
    /// From the start order until the machine runs and is billed; never longer than the start
    /// itself.
    pub pending: Duration,
    /// The latency, from arrival to result, that a request shall not exceed.
    pub slo: Duration,
    /// The seed: the same one gives the same run.
    pub seed: u64,
    /// The longest time between two passes of the controller.
    pub tick: Duration,
    /// The visibility time-out of the request queue.
    pub visibility: Duration,
    /// How often a worker renews the lease of what it holds.
    pub heartbeat: Duration,
    /// From the order to drain until the worker knows of it. Meanwhile it still takes jobs.
    pub order_delay: Duration,
    /// A draining worker gives back what it holds after this.
    pub worker_drain_deadline: Duration,
    /// From the order to stop until the instance can be started again. It is not billed.
    pub stop_delay: Duration,
    /// What instances cost in truth, whatever the policy believes.
    pub price: Price,
    /// What an hour of one that is launched costs, if it is another price.
    pub launched_usd_per_hour: Option<f64>,
    /// Holds every plan to the rules that any plan must keep. It takes a third of the time.
    pub checks: bool,
    /// What goes wrong.
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

/// How long something takes, with chance in it. The mean is kept whatever the shape.
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
    /// Exponential: no memory, the squared coefficient of variation is one.
    Exponential,
    /// Log-normal; the number is the standard deviation of the logarithm.
    LogNormal(f64),
    /// Uniform, up to this share of the mean below and above it.
    Uniform(f64),
}

impl Distribution {
    /// Always the same.
    pub const fn constant(mean: Duration) -> Self {
        Self { mean, shape: Shape::Constant }
    }

    /// One draw.
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

    /// Nearly all draws are below this: the mean and three standard deviations, or the upper end.
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

/// Nothing that is simulated takes longer; it keeps absurd draws within what can be counted.
const LONGEST: Duration = Duration::from_secs(3600);

impl FromStr for Distribution {
    type Err = String;

    /// `2s`, `2s~exp`, `2s~lognormal:0.5`, `2s~uniform:0.2`.
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

/// Chance from a seed: SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number
/// Generators, OOPSLA 2014).
///
/// Our own few lines rather than a crate, because a seed that a failure printed must replay for
/// ever: the generators of crates may change with their versions.
#[derive(Debug, Clone)]
pub struct Chance(u64);

/// What chance decides about. Each has its own stream, so that, for one, a dropped report does not
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
    /// Chance of this seed.
    pub fn new(seed: u64) -> Self {
        let mut chance = Self(seed);
        // Seeds are small numbers; their streams shall have nothing in common.
        Self(chance.bits())
    }

    pub(super) fn of(seed: u64, stream: Stream) -> Self {
        Self::new(seed ^ (stream as u64).wrapping_mul(0xd605_bbb5_8c8a_bbf9))
    }

    /// Sixty-four bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A whole number below this one, or zero. Off from uniform by less than one in 2^32 for what
    /// is counted here.
    pub fn below(&mut self, most: usize) -> usize {
        ((u128::from(self.bits()) * most as u128) >> 64) as usize
    }

    /// True in this share of cases. Where the share is zero nothing is drawn.
    pub fn happens(&mut self, share: f64) -> bool {
        share > 0.0 && self.unit() < share
    }

    /// Normal with mean zero and deviation one (Box and Muller).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }
}

/// The time as virtual time counts it.
pub(super) fn micros(duration: Duration) -> Micros {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distributions_are_read_as_they_are_written_and_mistakes_are_named() {
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
    fn chance_is_the_published_generator() {
        // The first numbers of SplitMix64 from the state 1234567, as its reference implementation
        // prints them.
        let mut chance = Chance(1_234_567);
        let first = [chance.bits(), chance.bits(), chance.bits()];
        assert_eq!(first, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }
}
