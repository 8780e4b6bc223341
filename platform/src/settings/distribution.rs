//! Random times, as written in settings.

use std::{f64::consts::TAU, fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use super::units::duration;

/// A random time: `25s`, `20s..30s` (uniform), `25s~exp`, `25s~lognormal:0.3` (with the standard
/// deviation of the logarithm). The time before the `~` is the mean.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Distribution {
    /// Always this time.
    Constant(Duration),
    /// Uniform between two times.
    Uniform {
        /// The minimum.
        from: Duration,
        /// The maximum.
        to: Duration,
    },
    /// Exponential: many short times, few long ones, memoryless.
    Exponential {
        /// The mean.
        mean: Duration,
    },
    /// Log-normal: around the median, with a long tail, like the start times of real machines.
    LogNormal {
        /// The mean.
        mean: Duration,
        /// The standard deviation of the logarithm.
        sigma: f64,
    },
}

/// Larger values have tails that no real machine has.
const LARGEST_SIGMA: f64 = 3.0;

impl Distribution {
    /// Returns a random time, computed from uniform numbers in [0, 1).
    pub fn sample(&self, mut uniform: impl FnMut() -> f64) -> Duration {
        match *self {
            Self::Constant(time) => time,
            Self::Uniform { from, to } => from + (to - from).mul_f64(uniform()),
            // By inversion of the distribution function.
            Self::Exponential { mean } => mean.mul_f64(-(1.0 - uniform()).ln()),
            Self::LogNormal { mean, sigma } => {
                // Box and Muller; the mean of exp(N(m, s)) is exp(m + s²/2).
                let normal = (-2.0 * (1.0 - uniform()).ln()).sqrt() * (TAU * uniform()).cos();
                mean.mul_f64((sigma * normal - sigma * sigma / 2.0).exp())
            }
        }
    }
}

impl Default for Distribution {
    /// Zero.
    fn default() -> Self {
        Self::Constant(Duration::ZERO)
    }
}

impl FromStr for Distribution {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some((from, to)) = text.split_once("..") {
            let (from, to) = (duration::parse(from)?, duration::parse(to)?);
            return if from <= to {
                Ok(Self::Uniform { from, to })
            } else {
                Err(format!("`{text}` is reversed; write the shorter time first"))
            };
        }
        let Some((mean, shape)) = text.split_once('~') else {
            return duration::parse(text).map(Self::Constant);
        };
        let mean = duration::parse(mean)?;
        let sigma = |text: &str| {
            let number = text.trim().parse().ok().filter(|sigma| (0.0..=LARGEST_SIGMA).contains(sigma));
            number.ok_or_else(|| {
                format!(
                    "`{text}` is not a standard deviation of a logarithm; write a number from \
                    0 to {LARGEST_SIGMA}"
                )
            })
        };
        match shape.trim().split_once(':') {
            None if shape.trim() == "exp" => Ok(Self::Exponential { mean }),
            Some(("lognormal", text)) => Ok(Self::LogNormal { mean, sigma: sigma(text)? }),
            _ => Err(format!(
                "unknown distribution `{shape}`; the known ones are `exp` and \
                `lognormal:0.3`"
            )),
        }
    }
}

impl fmt::Display for Distribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = humantime::format_duration;
        match self {
            Self::Constant(time) => write!(f, "{}", text(*time)),
            Self::Uniform { from, to } => write!(f, "{}..{}", text(*from), text(*to)),
            Self::Exponential { mean } => write!(f, "{}~exp", text(*mean)),
            Self::LogNormal { mean, sigma } => write!(f, "{}~lognormal:{sigma}", text(*mean)),
        }
    }
}

impl Serialize for Distribution {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Distribution {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Evenly spread pairs of numbers: the points of a two-dimensional Weyl sequence.
    fn samples(text: &str) -> Vec<f64> {
        let distribution: Distribution = text.parse().unwrap();
        let mut times = Vec::new();
        for point in 0..20_000 {
            let mut numbers =
                [0.754_877_666, 0.569_840_290].into_iter().map(|step| (f64::from(point) * step).fract());
            times.push(distribution.sample(|| numbers.next().unwrap()).as_secs_f64());
        }
        times.sort_by(f64::total_cmp);
        times
    }

    #[track_caller]
    fn check(text: &str, mean: f64, p05: f64, p95: f64) {
        let times = samples(text);
        let found = [times.iter().sum::<f64>() / times.len() as f64, times[1000], times[19_000]];
        for (found, expected) in found.into_iter().zip([mean, p05, p95]) {
            assert!((found - expected).abs() <= 0.01 * expected, "{text}: {found} instead of {expected}");
        }
    }

    #[test]
    fn samples_have_the_mean_and_the_quantiles_of_their_distribution() {
        check("25s", 25.0, 25.0, 25.0);
        check("20s..30s", 25.0, 20.5, 29.5);
        // -ln(0.95) and -ln(0.05).
        check("2s~exp", 2.0, 2.0 * 0.051_293, 2.0 * 2.995_732);
        // exp(-s²/2 ± 1.644854 s).
        check("25s~lognormal:0.3", 25.0, 25.0 * 0.583_690, 25.0 * 1.566_0);
    }

    #[test]
    fn a_parsed_distribution_is_displayed_as_it_was_written() {
        for text in ["0s", "25s", "20s..30s", "2s~exp", "25s~lognormal:0.3"] {
            assert_eq!(text.parse::<Distribution>().unwrap().to_string(), text);
        }
        assert_eq!("0".parse::<Distribution>().unwrap(), Distribution::default());
    }

    #[test]
    fn an_invalid_distribution_is_refused_with_a_hint() {
        for (text, hint) in [
            ("25", "is not a duration"),
            ("30s..20s", "write the shorter time first"),
            ("25s~normal:1", "the known ones are `exp` and `lognormal:0.3`"),
            ("25s~lognormal", "the known ones are `exp`"),
            ("25s~lognormal:x", "write a number from 0 to 3"),
            ("25s~lognormal:-1", "write a number from 0 to 3"),
        ] {
            let error = text.parse::<Distribution>().unwrap_err();
            assert!(error.contains(hint), "{text}: {error}");
        }
    }
}
