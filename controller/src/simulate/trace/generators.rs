//! Generators: `KIND[:RATE][,KEY=VALUE...][@LENGTH]`. Everything after the kind has a default.

use std::time::Duration;

use eirs_platform::settings::units;

use super::{LONGEST, MOST_ARRIVALS, Trace, default_start};
use crate::simulate::setup::{Chance, Micros, Stream, micros};

/// The names of the kinds.
pub(super) const NAMES: [&str; 5] = ["constant", "poisson", "diurnal", "burst", "onoff"];

/// A parsed generator.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Spec {
    /// Lowest rate, in requests per second.
    low: f64,
    /// Highest rate, in requests per second.
    high: f64,
    /// Number of requests of a burst; `every` is the time between bursts.
    amount: f64,
    every: Option<Duration>,
    length: Duration,
    on: Duration,
    off: Duration,
    period: Duration,
}

/// Generates the trace of a text; `None` if its first word is not a generator.
///
/// - `constant:5/s@1h`: evenly spaced
/// - `poisson:5/s@1h`: at random, without memory
/// - `diurnal:0..5/s,period=24h@24h`: at random, with a rate that rises from the low to the high
///   and back like a cosine
/// - `burst:300/10m@1h`: that many at once, in the middle of each period; `burst:300@10m` is one
///   burst
/// - `onoff:4/s,on=5m,off=15m@2h`: at random while on, nothing while off
///
/// A rate is `5/s`, `300/m`, `1000/h`, or any number per any time, like `7/90s`.
pub fn generate(text: &str, seed: u64) -> Option<Result<Trace, String>> {
    let kind = text.split([':', '@', ',']).next().unwrap_or_default().trim();
    let kind = NAMES.into_iter().find(|name| *name == kind)?;
    let spec = match parse(kind, text) {
        Ok(spec) => spec,
        Err(problem) => return Some(Err(format!("{text}: {problem}"))),
    };
    let mut chance = Chance::of(seed, Stream::Arrivals);
    let length = spec.length.as_secs_f64();
    let mut times: Vec<f64> = match kind {
        "constant" => {
            let count = (spec.high * length).round() as u64;
            (0..count).map(|number| (number as f64 + 0.5) / spec.high).collect()
        }
        "burst" => {
            let every = spec.every.map_or(f64::INFINITY, |every| every.as_secs_f64());
            let bursts = if every.is_finite() { (length / every).floor().max(1.0) as u64 } else { 1 };
            let first = every.min(length) / 2.0;
            let burst = |number: u64| {
                let at = if number == 0 { first } else { first + number as f64 * every };
                std::iter::repeat_n(at, spec.amount as usize)
            };
            (0..bursts).flat_map(burst).collect()
        }
        "diurnal" => {
            let period = spec.period.as_secs_f64();
            let middle = f64::midpoint(spec.low, spec.high);
            let swing = (spec.high - spec.low) / 2.0;
            at_random(spec.high, length, &mut chance, |at| {
                middle - swing * (std::f64::consts::TAU * at / period).cos()
            })
        }
        "onoff" => {
            let (on, off) = (spec.on.as_secs_f64(), spec.off.as_secs_f64());
            at_random(spec.high, length, &mut chance, |at| {
                if at.rem_euclid(on + off) < on { spec.high } else { spec.low }
            })
        }
        _poisson => at_random(spec.high, length, &mut chance, |_| spec.high),
    };
    times.retain(|at| *at <= length);
    let arrivals = times.into_iter().map(|at| (at * 1e6) as Micros).collect();
    Some(Trace::new(text.to_owned(), arrivals, micros(spec.length), default_start()))
}

/// A Poisson process with a varying rate: arrivals at the highest rate, thinned (Lewis and Shedler,
/// 1979).
fn at_random(most: f64, length: f64, chance: &mut Chance, rate: impl Fn(f64) -> f64) -> Vec<f64> {
    let (mut times, mut now) = (Vec::new(), 0.0);
    loop {
        now -= (1.0 - chance.unit()).ln() / most;
        if now >= length {
            return times;
        }
        if chance.unit() * most < rate(now) {
            times.push(now);
        }
    }
}

fn parse(kind: &str, text: &str) -> Result<Spec, String> {
    let seconds = Duration::from_secs;
    let mut spec = Spec {
        low: 0.0,
        high: 1.0,
        amount: 300.0,
        every: Some(seconds(600)),
        length: seconds(3600),
        on: seconds(300),
        off: seconds(900),
        period: seconds(24 * 3600),
    };
    match kind {
        "diurnal" => (spec.high, spec.length) = (5.0, spec.period),
        "onoff" => (spec.high, spec.length) = (4.0, seconds(7200)),
        _ => {}
    }
    let (front, length) = text.rsplit_once('@').map_or((text, None), |(front, at)| (front, Some(at)));
    if let Some(length) = length {
        spec.length = positive(length, "after the @")?;
    }
    let mut parts = front.split(',');
    let rate = parts.next().unwrap_or_default().split_once(':').map(|(_, rate)| rate);
    if let Some(rate) = rate {
        read_rate(kind, rate, &mut spec)?;
    }
    for part in parts {
        let (key, value) =
            part.split_once('=').ok_or_else(|| format!("`{part}` is not written KEY=VALUE"))?;
        let place = match (kind, key.trim()) {
            ("diurnal", "period") => &mut spec.period,
            ("onoff", "on") => &mut spec.on,
            ("onoff", "off") => &mut spec.off,
            _ => {
                return Err(format!(
                    "{kind} has no key `{key}`; diurnal has period, onoff has on \
                and off"
                ));
            }
        };
        *place = positive(value, key)?;
    }
    let bursts = spec.every.map_or(1.0, |every| (spec.length.as_secs_f64() / every.as_secs_f64()).max(1.0));
    let most = if kind == "burst" { spec.amount * bursts } else { spec.high * spec.length.as_secs_f64() };
    if most > MOST_ARRIVALS as f64 {
        return Err(format!("more than {MOST_ARRIVALS} arrivals"));
    }
    Ok(spec)
}

fn read_rate(kind: &str, text: &str, spec: &mut Spec) -> Result<(), String> {
    let (amount, every) = text.split_once('/').map_or((text, None), |(amount, per)| (amount, Some(per)));
    let per = match every.map(str::trim) {
        None if kind == "burst" => None,
        None => {
            return Err(format!(
                "`{text}` is not a rate; write requests per time, like 5/s or \
            300/m"
            ));
        }
        Some(unit) if unit.starts_with(|first: char| first.is_ascii_digit()) => {
            Some(positive(unit, "after the /")?)
        }
        Some(unit) => Some(positive(&format!("1{unit}"), "after the /")?),
    };
    let (low, high) = match amount.split_once("..") {
        Some((low, high)) if matches!(kind, "diurnal" | "onoff") => (number(low)?, number(high)?),
        Some(_) => return Err(format!("{kind} has one rate, not a range")),
        None => (0.0, number(amount)?),
    };
    if high <= 0.0 || low > high {
        return Err(format!("`{text}`: the rate must be above zero, and the higher one last"));
    }
    spec.amount = high;
    spec.every = per;
    if let Some(per) = per {
        (spec.low, spec.high) = (low / per.as_secs_f64(), high / per.as_secs_f64());
    }
    Ok(())
}

fn number(text: &str) -> Result<f64, String> {
    let number = text.trim().parse::<f64>().ok().filter(|number| number.is_finite() && *number >= 0.0);
    number.ok_or_else(|| format!("`{text}` must be a number"))
}

fn positive(text: &str, place: &str) -> Result<Duration, String> {
    let duration = units::duration::parse(text)?;
    if duration.is_zero() || duration > LONGEST {
        return Err(format!("the time {place} must be above zero and at most a year"));
    }
    Ok(duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(text: &str) -> Trace {
        generate(text, 1).expect("a generator").unwrap()
    }

    #[track_caller]
    fn check_about(text: &str, arrivals: f64, seconds: f64) {
        let trace = trace(text);
        let off = (trace.arrivals.len() as f64 - arrivals).abs();
        assert!(off <= 5.0 * arrivals.sqrt(), "{text}: {} arrivals", trace.arrivals.len());
        assert_eq!(trace.seconds(), seconds, "{text}");
        assert!(trace.arrivals.is_sorted());
    }

    #[test]
    fn each_kind_makes_about_as_many_arrivals_as_its_rate() {
        check_about("constant", 3600.0, 3600.0);
        check_about("constant:300/m@10m", 3000.0, 600.0);
        check_about("poisson:7/90s@15h", 4200.0, 54_000.0);
        check_about("diurnal", 216_000.0, 86_400.0);
        check_about("diurnal:1..3/s,period=1h@2h", 14_400.0, 7200.0);
        check_about("burst", 1800.0, 3600.0);
        check_about("burst:500@10m", 500.0, 600.0);
        check_about("onoff", 4.0 * 7200.0 / 4.0, 7200.0);
    }

    #[test]
    fn a_burst_arrives_at_once_and_a_constant_rate_evenly() {
        assert_eq!(
            trace("burst:3/10m@20m").arrivals,
            [300, 300, 300, 900, 900, 900].map(|at| at * 1_000_000)
        );
        assert_eq!(trace("constant:1/m@3m").arrivals, [30, 90, 150].map(|at| at * 1_000_000));
    }

    #[test]
    fn the_same_seed_gives_the_same_trace_and_another_seed_another() {
        assert_eq!(trace("poisson"), trace("poisson"));
        assert_ne!(trace("poisson").arrivals, generate("poisson", 2).unwrap().unwrap().arrivals);
    }

    #[test]
    fn mistakes_are_reported() {
        let said = |text: &str| generate(text, 1).expect("a generator").unwrap_err();
        assert!(said("constant:5").contains("is not a rate"), "{}", said("constant:5"));
        assert!(said("constant:5/parsec").contains("not a duration"));
        assert!(said("poisson:0/s").contains("above zero"));
        assert!(said("poisson:5/s@0s").contains("above zero"));
        assert!(said("poisson:5/s,on=3m").contains("has no key `on`"));
        assert!(said("poisson:1..5/s").contains("one rate"));
        assert!(said("constant:1000000/s@300d").contains("more than"));
        assert!(generate("nothing", 1).is_none());
    }
}
