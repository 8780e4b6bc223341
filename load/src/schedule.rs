//! The schedule of uploads: a rate, a sequence of rates, or given times. It does not read a clock,
//! and all randomness comes from a seed.

use std::{str::FromStr, time::Duration};

/// Maximum rate per second; a higher one is a typo.
const HIGHEST_RATE: f64 = 1e6;
/// The length of a rate without an end: longer than any run, but short enough for the arithmetic.
const NO_END: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// A schedule of uploads.
///
/// It is parsed from text: `50` and `300/m` are constant rates, `0..200@60s` changes over a minute,
/// and `50@30s,200@10s,0..100@1m` is a sequence of rates, of which only the last may have no end. A
/// trace is created with [`Schedule::from_moments`].
///
/// ```
/// use std::time::Duration;
///
/// use eirs_load::{Arrivals, Schedule};
///
/// let rise: Schedule = "0..10@10s,10@5s".parse()?;
/// assert_eq!(rise.end(), Some(Duration::from_secs(15)));
/// assert_eq!(rise.sends(Arrivals::Even, 1).count(), 100);
/// assert!("fast".parse::<Schedule>().is_err());
/// # Ok::<(), String>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule(Shape);

#[derive(Debug, Clone, PartialEq)]
enum Shape {
    /// A sequence of rates.
    Rates(Vec<Stretch>),
    /// The time of each upload, in order.
    Moments(Vec<Duration>),
}

/// A rate per second that is constant, or changes linearly, over this length.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Stretch {
    from: f64,
    to: f64,
    length: Duration,
}

/// The distribution of the uploads of a rate over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Arrivals {
    /// At constant distances.
    #[default]
    Even,
    /// At random, as a Poisson process, like those of many independent clients.
    Poisson,
}

impl FromStr for Schedule {
    type Err = String;

    /// Parses rates. The error is a sentence that quotes the invalid part.
    fn from_str(words: &str) -> Result<Self, String> {
        Ok(Self(Shape::Rates(rates(words)?)))
    }
}

impl Schedule {
    /// Creates a schedule with one upload at each of these times, counted from the start of the
    /// run.
    pub fn from_moments(moments: impl IntoIterator<Item = Duration>) -> Self {
        let mut moments: Vec<_> = moments.into_iter().collect();
        moments.sort_unstable();
        Self(Shape::Moments(moments))
    }

    /// Returns whether this is a list of times, to which [`Arrivals`] do not apply.
    pub fn is_trace(&self) -> bool {
        matches!(self.0, Shape::Moments(_))
    }

    /// Returns the end of the schedule, if it has one.
    pub fn end(&self) -> Option<Duration> {
        match &self.0 {
            Shape::Rates(stretches) => {
                let ends = stretches.iter().all(|stretch| stretch.length < NO_END);
                ends.then(|| stretches.iter().map(|stretch| stretch.length).sum())
            }
            Shape::Moments(moments) => Some(moments.last().copied().unwrap_or_default()),
        }
    }

    /// Returns the times of uploads, counted from the start. With [`Arrivals::Even`], each time is
    /// in the middle of the upload's share of the rate's integral. So their number equals the
    /// integral, and no upload is at the very start of a ramp from zero.
    pub fn sends(&self, arrivals: Arrivals, seed: u64) -> impl Iterator<Item = Duration> + use<'_> {
        match &self.0 {
            Shape::Moments(moments) => Sends::Moments(moments.iter()),
            Shape::Rates(stretches) => Sends::Rates {
                stretches,
                before: Duration::ZERO,
                uploads_before: 0.0,
                due: 0.0,
                sent: 0,
                chance: (arrivals == Arrivals::Poisson).then(|| fastrand::Rng::with_seed(seed)),
            },
        }
    }
}

/// The times of a schedule, in order.
enum Sends<'a> {
    Moments(std::slice::Iter<'a, Duration>),
    Rates {
        /// The remaining rates.
        stretches: &'a [Stretch],
        /// The total length of the finished rates.
        before: Duration,
        /// The number of uploads due in the finished rates.
        uploads_before: f64,
        /// The integral of the rate at the last upload.
        due: f64,
        /// The number of uploads so far.
        sent: u64,
        /// For random times.
        chance: Option<fastrand::Rng>,
    },
}

impl Iterator for Sends<'_> {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let (stretches, before, uploads_before, due, sent, chance) = match self {
            Self::Moments(moments) => return moments.next().copied(),
            Self::Rates { stretches, before, uploads_before, due, sent, chance } => {
                (stretches, before, uploads_before, due, sent, chance)
            }
        };
        // In a Poisson process, arrivals have a mean distance of 1 in the integral of the rate,
        // whatever its shape.
        *due = match chance {
            Some(chance) => *due - (1.0 - chance.f64()).ln(),
            None => *sent as f64 + 0.5,
        };
        *sent += 1;
        loop {
            let (stretch, rest) = stretches.split_first()?;
            let uploads = stretch.uploads();
            if *due <= *uploads_before + uploads {
                return Some(*before + stretch.moment(*due - *uploads_before));
            }
            *uploads_before += uploads;
            *before += stretch.length;
            *stretches = rest;
        }
    }
}

impl Stretch {
    /// Returns the number of uploads: the integral of the rate.
    fn uploads(&self) -> f64 {
        f64::midpoint(self.from, self.to) * self.length.as_secs_f64()
    }

    /// Returns when the n-th upload is due: the inverse of `from t + (to - from) t² / 2 length`, in
    /// a form that is numerically stable and also works for a constant rate.
    fn moment(&self, uploads: f64) -> Duration {
        let slope = (self.to - self.from) / self.length.as_secs_f64();
        let root = (self.from * self.from + 2.0 * slope * uploads).max(0.0).sqrt();
        let seconds = if uploads > 0.0 { 2.0 * uploads / (self.from + root) } else { 0.0 };
        Duration::try_from_secs_f64(seconds).unwrap_or(self.length).min(self.length)
    }
}

fn rates(words: &str) -> Result<Vec<Stretch>, String> {
    let parts: Vec<_> = words.split(',').collect();
    let mut stretches = Vec::new();
    for (number, part) in parts.iter().enumerate() {
        let is_last = number + 1 == parts.len();
        stretches.push(stretch(part.trim(), is_last).map_err(|problem| {
            let hint = "a rate is 50, 300/m, 0..200@60s or several of these in a row, like \
                50@30s,200@10s";
            format!("`{words}`: {problem} ({hint})")
        })?);
    }
    if stretches.iter().all(|stretch| stretch.uploads() <= 0.0) {
        return Err(format!("`{words}`: nothing would be sent"));
    }
    Ok(stretches)
}

fn stretch(text: &str, is_last: bool) -> Result<Stretch, String> {
    let (rate, length) = text.split_once('@').map_or((text, None), |(rate, length)| (rate, Some(length)));
    let (amount, per) = match rate.split_once('/') {
        None => (rate, 1.0),
        Some((amount, unit)) => {
            let time =
                if unit.starts_with(|c: char| c.is_ascii_digit()) { unit.into() } else { format!("1{unit}") };
            let per = duration(&time).ok().filter(|per| !per.is_zero());
            (amount, per.ok_or_else(|| format!("`{rate}` is not a rate"))?.as_secs_f64())
        }
    };
    let number = |text: &str| {
        let rate = text.trim().parse::<f64>().ok().map(|amount| amount / per);
        let rate = rate.filter(|rate| rate.is_finite() && *rate >= 0.0);
        let rate = rate.ok_or_else(|| format!("`{text}` is not a rate"))?;
        if rate > HIGHEST_RATE {
            return Err(format!("`{text}` is more than {HIGHEST_RATE} per second"));
        }
        Ok(rate)
    };
    let (from, to) = match amount.split_once("..") {
        Some((from, to)) => (number(from)?, number(to)?),
        None => (number(amount)?, number(amount)?),
    };
    let length = match length {
        Some(length) => {
            let length = duration(length)?;
            if length.is_zero() || length >= NO_END {
                return Err(format!("`{text}` must be longer than zero and finite"));
            }
            length
        }
        None if from != to => return Err(format!("`{text}` does not say how long the change takes")),
        None if !is_last => {
            return Err(format!("`{text}` does not say how long; only the last rate needs no end"));
        }
        None => NO_END,
    };
    Ok(Stretch { from, to, length })
}

fn duration(text: &str) -> Result<Duration, String> {
    if text.trim() == "0" {
        return Ok(Duration::ZERO);
    }
    let read = humantime::parse_duration(text.trim());
    read.map_err(|_| format!("`{text}` is not a duration; write a number and a unit, like 90s, 250ms or 2h"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn schedule(words: &str) -> Schedule {
        words.parse().unwrap()
    }

    fn seconds(words: &str, arrivals: Arrivals, most: usize) -> Vec<f64> {
        schedule(words).sends(arrivals, 1).take(most).map(|at| at.as_secs_f64()).collect()
    }

    #[track_caller]
    fn check(words: &str, expected: &[f64]) {
        let sends = seconds(words, Arrivals::Even, expected.len());
        assert!(
            sends.iter().zip(expected).all(|(at, expected)| (at - expected).abs() < 1e-6),
            "{words}: {sends:?}"
        );
    }

    #[test]
    fn constant_rates_ramps_and_sequences_give_the_right_times() {
        check("2", &[0.25, 0.75, 1.25, 1.75]);
        check("120/m", &[0.25, 0.75, 1.25]);
        check("4/2s", &[0.25, 0.75]);
        // The integral is t² / 2.
        check("0..10@10s", &[1.0, 3f64.sqrt(), 5f64.sqrt()]);
        check("1@2s,0@3s,10@1s", &[0.5, 1.5, 5.05, 5.15]);
        check("10..0@1s", &[0.051_316_7, 0.163_339_9]);
    }

    #[test]
    fn a_schedule_ends_if_the_last_rate_has_an_end() {
        assert_eq!(schedule("1@2s,3@4s").end(), Some(Duration::from_secs(6)));
        assert_eq!(schedule("1@2s,3").end(), None);
        assert_eq!(seconds("1@2s,3@4s", Arrivals::Even, 1000).len(), 14);
    }

    #[test]
    fn invalid_rates_are_refused_in_a_sentence() {
        for (words, expected) in [
            ("fast", "`fast` is not a rate"),
            ("-1", "is not a rate"),
            ("5/parsec", "`5/parsec` is not a rate"),
            ("0..200", "does not say how long the change takes"),
            ("5,6@1s", "only the last rate needs no end"),
            ("5@0s", "longer than zero"),
            ("5@soon", "not a duration"),
            ("0@5s,0", "nothing would be sent"),
            ("1e9", "more than 1000000 per second"),
            ("constant:5@1h", "is not a rate"),
        ] {
            let said = words.parse::<Schedule>().unwrap_err();
            assert!(said.contains(expected), "{words}: {said}");
        }
    }

    #[test]
    fn traces_ignore_the_distribution_of_arrivals() {
        let schedule = Schedule::from_moments([2, 0, 2].map(Duration::from_secs));
        let sends: Vec<_> = schedule.sends(Arrivals::Poisson, 1).map(|at| at.as_secs()).collect();
        assert_eq!(sends, [0, 2, 2]);
        assert!(schedule.is_trace());
        assert_eq!(schedule.end(), Some(Duration::from_secs(2)));
    }

    #[test]
    fn random_arrivals_depend_on_the_seed_and_are_poisson() {
        let schedule = schedule("100@200s");
        let sends =
            |seed| schedule.sends(Arrivals::Poisson, seed).map(|at| at.as_secs_f64()).collect::<Vec<_>>();
        assert_eq!(sends(7), sends(7));
        assert_ne!(sends(7), sends(8));
        let gaps: Vec<_> = sends(7).windows(2).map(|pair| pair[1] - pair[0]).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        // Exponential distances have a squared coefficient of variation of 1; 20,000 of them show
        // it to a few per cent.
        assert!((variance / mean / mean - 1.0).abs() < 0.1, "{}", variance / mean / mean);
    }

    /// Rates with an end, and the integral of the rate up to a time, computed independently in
    /// small steps.
    fn stretches() -> impl Strategy<Value = Vec<Stretch>> {
        let stretch = (0.0..300.0, 0.0..300.0, 10u64..5000, any::<bool>());
        let stretch = stretch.prop_map(|(from, to, ms, stays): (f64, f64, u64, bool)| Stretch {
            from,
            to: if stays { from } else { to },
            length: Duration::from_millis(ms),
        });
        prop::collection::vec(stretch, 1..5)
    }

    fn integral(stretches: &[Stretch], until: f64) -> f64 {
        const STEPS: u32 = 2000;
        let (mut start, mut sum) = (0.0, 0.0);
        for stretch in stretches {
            let length = stretch.length.as_secs_f64();
            let part = (until - start).clamp(0.0, length);
            let width = part / f64::from(STEPS);
            for step in 0..STEPS {
                let middle = (f64::from(step) + 0.5) * width;
                sum += width * (stretch.from + (stretch.to - stretch.from) * middle / length);
            }
            start += length;
        }
        sum
    }

    proptest! {
        #[test]
        fn uploads_are_in_order_and_their_number_is_the_integral_of_the_rate(
            stretches in stretches(),
            share in 0.0..1.0,
            seed in any::<u64>(),
        ) {
            let length: f64 = stretches.iter().map(|stretch| stretch.length.as_secs_f64()).sum();
            let until = length * share;
            let schedule = Schedule(Shape::Rates(stretches.clone()));
            for arrivals in [Arrivals::Even, Arrivals::Poisson] {
                let sends: Vec<_> = schedule.sends(arrivals, seed).map(|at| at.as_secs_f64()).collect();
                prop_assert!(sends.is_sorted());
                prop_assert!(sends.last().is_none_or(|last| *last <= length + 1e-6));
                for until in [until, length + 1.0] {
                    let expected = integral(&stretches, until);
                    let count = sends.iter().filter(|at| **at <= until).count() as f64;
                    let off = match arrivals {
                        Arrivals::Even => 0.501,
                        // Six standard deviations: once in five hundred million.
                        Arrivals::Poisson => 6.0 * expected.sqrt() + 6.0,
                    };
                    prop_assert!((count - expected).abs() <= off, "{arrivals:?}: {count}, not {expected}");
                }
            }
        }
    }
}
