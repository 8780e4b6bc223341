//! What will probably arrive: Holt-Winters smoothing with a damped trend and an additive season.
//!
//! C. C. Holt (1957) and P. R. Winters (1960), as in R. Hyndman and G. Athanasopoulos, Forecasting: Principles and Practice,
//! 3rd edition, sections 8.2, 8.3 and 8.6 (<https://otexts.com/fpp3/>). The band is made of the errors that the same smoothing made
//! on the past, so that nothing is assumed about their distribution.

/// How fast the level follows the last count.
const ALPHA: f64 = 0.3;
/// How fast the trend follows the level.
const BETA: f64 = 0.05;
/// How fast the season follows the last one.
const GAMMA: f64 = 0.3;
/// What is left of the trend one step further on.
const DAMPING: f64 = 0.9;
/// Fewer errors than these make no band.
const FEWEST_ERRORS: usize = 8;

/// The count that is not exceeded with the probability `quantile`, `ahead` steps after the last of `counts` (1 is the next
/// one), where the counts repeat themselves after `season` steps. `None` while too little is known.
///
/// Less than one whole season is smoothed without a season. A count that is missing teaches nothing: what was foreseen stands
/// for it.
pub(crate) fn forecast(counts: &[Option<f64>], season: usize, ahead: usize, quantile: f64) -> Option<f64> {
    let begin = counts.iter().position(Option::is_some)?;
    let counts = &counts[begin..];
    let seasonal = season > 1 && counts.len() > season + FEWEST_ERRORS;
    let mut smoothing =
        if seasonal { Smoothing::with_season(&counts[..season]) } else { Smoothing::new(counts[0]?) };
    let rest = if seasonal { &counts[season..] } else { &counts[1..] };
    let mut errors: Vec<f64> = rest.iter().filter_map(|count| smoothing.step_or_skip(*count)).collect();
    if errors.len() < FEWEST_ERRORS {
        return None;
    }
    // Older errors were made by a smoothing that knew less.
    let recent = errors.len().saturating_sub(season.max(60));
    let errors = &mut errors[recent..];
    errors.sort_by(f64::total_cmp);
    let rank = (quantile * errors.len() as f64).ceil() as usize;
    let error = errors[rank.clamp(1, errors.len()) - 1];
    // The variance grows with each step ahead by what the level may have moved (section 8.7, class A).
    let growth = (1.0 + (ahead.saturating_sub(1)) as f64 * ALPHA * ALPHA).sqrt();
    Some((smoothing.ahead(ahead) + error * growth).max(0.0))
}

struct Smoothing {
    level: f64,
    trend: f64,
    /// What each step of the season adds; the next step's is at `next`.
    season: Vec<f64>,
    next: usize,
}

impl Smoothing {
    fn new(first: f64) -> Self {
        Self { level: first, trend: 0.0, season: vec![0.0], next: 0 }
    }

    fn with_season(first: &[Option<f64>]) -> Self {
        let known = first.iter().flatten().count().max(1);
        let level = first.iter().flatten().sum::<f64>() / known as f64;
        let season = first.iter().map(|count| count.unwrap_or(level) - level).collect();
        Self { level, trend: 0.0, season, next: 0 }
    }

    /// Learns a count, if it is known, or goes on without it.
    fn step_or_skip(&mut self, count: Option<f64>) -> Option<f64> {
        if count.is_none() {
            self.trend *= DAMPING;
            self.level += self.trend;
            self.next = (self.next + 1) % self.season.len();
        }
        count.map(|count| self.step(count))
    }

    /// Learns a count; answers how much more it was than foreseen.
    fn step(&mut self, count: f64) -> f64 {
        let damped = DAMPING * self.trend;
        let season = self.season[self.next];
        let error = count - (self.level + damped + season);
        let level = self.level + damped + ALPHA * error;
        self.trend = damped + BETA * error;
        self.level = level;
        if self.season.len() > 1 {
            self.season[self.next] = season + GAMMA * (1.0 - ALPHA) * error;
            self.next = (self.next + 1) % self.season.len();
        }
        error
    }

    fn ahead(&self, steps: usize) -> f64 {
        let trend: f64 = (1..=steps).map(|step| self.trend * DAMPING.powi(step as i32)).sum();
        self.level + trend + self.season[(self.next + steps.saturating_sub(1)) % self.season.len()]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn forecast(counts: &[f64], season: usize, ahead: usize, quantile: f64) -> Option<f64> {
        super::forecast(&counts.iter().copied().map(Some).collect::<Vec<_>>(), season, ahead, quantile)
    }

    #[test]
    fn what_repeats_itself_is_foreseen() {
        let day: Vec<f64> = (0..24)
            .map(|hour| 100.0 + 80.0 * (f64::from(hour) / 24.0 * std::f64::consts::TAU).sin())
            .collect();
        let counts: Vec<f64> = day.iter().cycle().take(24 * 4 + 6).copied().collect();
        for ahead in 1..20 {
            let foreseen = forecast(&counts, 24, ahead, 0.5).unwrap();
            assert!((foreseen - day[(6 + ahead - 1) % 24]).abs() < 1e-6, "{ahead}: {foreseen}");
        }
    }

    #[test]
    fn a_trend_is_followed_and_damped() {
        let counts: Vec<f64> = (0..200).map(f64::from).collect();
        let next = forecast(&counts, 1, 1, 0.5).unwrap();
        assert!((next - 200.0).abs() < 1.0, "{next}");
        let far = forecast(&counts, 1, 100, 0.5).unwrap();
        assert!(far > 203.0 && far < 300.0, "{far}");
    }

    #[test]
    fn a_higher_quantile_covers_more_of_what_comes() {
        // A fixed pseudo-random walk around a constant; the share of counts below the forecast is about the quantile.
        let mut seed = 7_u64;
        let mut noise = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as f64 / f64::from(u32::MAX >> 1)
        };
        let counts: Vec<f64> = (0..600).map(|_| 50.0 + 20.0 * noise()).collect();
        let covered = |quantile| {
            let below = (200..599).filter(|now| {
                forecast(&counts[..*now], 1, 1, quantile).is_some_and(|foreseen| counts[*now] <= foreseen)
            });
            below.count() as f64 / 399.0
        };
        let (half, most) = (covered(0.5), covered(0.9));
        assert!((0.4..0.6).contains(&half) && (0.82..0.97).contains(&most), "{half} {most}");
    }

    #[test]
    fn the_steps_of_the_smoothing_are_those_of_the_textbook() {
        // l = 10, b = 0, s = [2, -2]; a count of 13 comes, 12 was foreseen.
        let mut smoothing = Smoothing::with_season(&[Some(12.0), Some(8.0)]);
        assert!((smoothing.step(13.0) - 1.0).abs() < 1e-12);
        assert!((smoothing.level - 10.3).abs() < 1e-12);
        assert!((smoothing.trend - 0.05).abs() < 1e-12);
        assert!((smoothing.season[0] - 2.21).abs() < 1e-12);
        assert!((smoothing.ahead(1) - (10.3 + 0.045 - 2.0)).abs() < 1e-12);
    }

    #[test]
    fn hours_of_which_nobody_knows_do_not_teach_that_nothing_came() {
        let day: Vec<f64> = (0..24).map(|hour| if (8..18).contains(&hour) { 100.0 } else { 0.0 }).collect();
        let mut counts: Vec<_> = day.iter().cycle().take(24 * 6 + 7).copied().map(Some).collect();
        counts[24 * 3 + 6..24 * 5 + 12].fill(None);
        for ahead in 1..20 {
            let foreseen = super::forecast(&counts, 24, ahead, 0.5).unwrap();
            assert!((foreseen - day[(7 + ahead - 1) % 24]).abs() < 1.0, "{ahead}: {foreseen}");
        }
    }

    #[test]
    fn a_forecast_of_a_whole_season_ahead_is_that_of_the_last_season() {
        // Holt-Winters as it is often coded takes a stale season for every m-th step.
        let counts: Vec<f64> = (0..12 * 6).map(|step| if step % 12 == 11 { 100.0 } else { 10.0 }).collect();
        assert!((forecast(&counts, 12, 12, 0.5).unwrap() - 100.0).abs() < 1.0);
        assert!((forecast(&counts, 12, 24, 0.5).unwrap() - 100.0).abs() < 1.0);
    }

    #[test]
    fn too_little_is_no_forecast() {
        assert_eq!(forecast(&[], 24, 1, 0.9), None);
        assert_eq!(forecast(&[5.0; 8], 24, 1, 0.9), None);
        assert_eq!(forecast(&[5.0; 9], 24, 1, 0.9), Some(5.0));
    }

    proptest! {
        #[test]
        fn a_forecast_is_a_count(
            counts in prop::collection::vec(0.0..1e6, 0..300), season in 1usize..50, ahead in 1usize..50, quantile in 0.01..0.999,
        ) {
            if let Some(foreseen) = forecast(&counts, season, ahead, quantile) {
                prop_assert!(foreseen.is_finite() && foreseen >= 0.0);
            }
        }
    }
}
