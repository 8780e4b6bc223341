//! Axes of charts: the positions of lines and their labels.

use std::time::Duration;

/// A linear axis that starts at zero.
#[derive(Debug, Clone, Copy)]
pub struct Axis {
    /// The value at the upper end.
    pub top: f64,
    step: f64,
}

impl Axis {
    /// Creates an axis up to a round value of at least `highest`.
    pub fn up_to(highest: f64) -> Self {
        let highest = if highest > 0.0 { highest } else { 1.0 };
        let least = highest / 4.0;
        let power = 10f64.powf(least.log10().floor());
        let steps = [1.0, 2.0, 2.5, 5.0, 10.0].map(|times| times * power);
        let mut step = steps.into_iter().find(|step| *step >= least * 0.999_999).unwrap_or(least);
        if highest >= 2.0 {
            // Counts have no fractions.
            step = step.max(1.0);
        }
        let top = (highest / step - 1e-9).ceil().max(1.0) * step;
        Self { top, step }
    }

    /// Returns the value and label of each line.
    pub fn ticks(&self) -> Vec<(f64, String)> {
        let count = (self.top / self.step).round() as u32;
        let tick = |number: u32| {
            let value = f64::from(number) * self.step;
            let text = match value {
                value if value >= 10_000.0 => format!("{}k", rounded(value / 1000.0)),
                value => rounded(value),
            };
            (value, text)
        };
        (0..=count).map(tick).collect()
    }
}

/// Rounds away floating-point noise.
fn rounded(value: f64) -> String {
    format!("{}", (value * 1e6).round() / 1e6)
}

/// Steps of a time axis in seconds, with their unit and its length in seconds.
const TIMES: [(f64, &str, f64); 18] = [
    (1.0, "s", 1.0),
    (5.0, "s", 1.0),
    (10.0, "s", 1.0),
    (30.0, "s", 1.0),
    (60.0, "min", 60.0),
    (120.0, "min", 60.0),
    (300.0, "min", 60.0),
    (600.0, "min", 60.0),
    (1200.0, "min", 60.0),
    (1800.0, "h", 3600.0),
    (3600.0, "h", 3600.0),
    (7200.0, "h", 3600.0),
    (3.0 * 3600.0, "h", 3600.0),
    (6.0 * 3600.0, "h", 3600.0),
    (12.0 * 3600.0, "h", 3600.0),
    (86400.0, "days", 86400.0),
    (7.0 * 86400.0, "days", 86400.0),
    (30.0 * 86400.0, "days", 86400.0),
];

/// Returns the second and label of each line, for a run of this length.
pub fn time_ticks(length_s: f64) -> Vec<(f64, String)> {
    let fits = |(step, _, _): &(f64, &str, f64)| length_s / step <= 12.0;
    let (step, unit, seconds) = TIMES.into_iter().find(fits).unwrap_or(TIMES[TIMES.len() - 1]);
    let count = (length_s / step + 1e-9) as u32;
    let tick = |number: u32| {
        let second = f64::from(number) * step;
        (second, if number == 0 { "0".to_owned() } else { format!("{} {unit}", rounded(second / seconds)) })
    };
    (0..=count).map(tick).collect()
}

/// Formats a duration.
pub fn span(seconds: f64) -> String {
    humantime::format_duration(Duration::from_millis((seconds * 1e3).round() as u64)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(highest: f64, expected: &[&str]) {
        let ticks: Vec<_> = Axis::up_to(highest).ticks().into_iter().map(|(_, text)| text).collect();
        assert_eq!(ticks, expected, "{highest}");
    }

    #[test]
    fn lines_are_at_round_values_up_to_at_least_the_highest() {
        check(10.0, &["0", "2.5", "5", "7.5", "10"]);
        check(3.0, &["0", "1", "2", "3"]);
        check(31.0, &["0", "10", "20", "30", "40"]);
        check(0.0, &["0", "0.25", "0.5", "0.75", "1"]);
        check(50_000.0, &["0", "20k", "40k", "60k"]);
    }

    #[test]
    fn the_unit_of_times_fits_the_length() {
        let written = |length_s: f64| {
            let ticks = time_ticks(length_s);
            (ticks.len(), ticks.last().unwrap().1.clone())
        };
        assert_eq!(written(45.0), (10, "45 s".to_owned()));
        assert_eq!(written(1800.0), (7, "30 min".to_owned()));
        assert_eq!(written(7200.0), (13, "120 min".to_owned()));
        assert_eq!(written(86400.0), (13, "24 h".to_owned()));
        assert_eq!(written(7.0 * 86400.0), (8, "7 days".to_owned()));
    }
}
