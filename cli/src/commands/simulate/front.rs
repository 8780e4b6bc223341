//! A chart of cost against latency: the policy, the clairvoyant schedule, and each reference with
//! several values of its main parameter. No point should be both left of the policy and below it.

use std::fmt::Write as _;

use eirs_controller::simulate::{Figures, Report};

use crate::show::escaped;

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 540.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 190.0;
const TOP: f64 = 50.0;
const BOTTOM: f64 = 60.0;
const TEXT: &str = "#7d838c";
const COLOURS: [&str; 5] = ["#3f86e8", "#22a06b", "#e0992a", "#9a6be0", "#7d838c"];

/// A logarithmic axis: equal ratios have equal distances.
struct Scale {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Scale {
    fn of(values: impl Iterator<Item = f64>, from: f64, to: f64) -> Self {
        let (mut low, mut high) = (f64::INFINITY, 0.0f64);
        for value in values.filter(|value| *value > 0.0) {
            (low, high) = (low.min(value), high.max(value));
        }
        if !low.is_finite() {
            (low, high) = (1.0, 10.0);
        }
        Self { low: low / 1.2, high: high * 1.2, from, to }
    }

    fn place(&self, value: f64) -> f64 {
        let share = (value.max(self.low) / self.low).ln() / (self.high / self.low).ln();
        self.from + share * (self.to - self.from)
    }

    /// Returns 1, 2 and 5 times the powers of ten.
    fn ticks(&self) -> impl Iterator<Item = f64> + '_ {
        let first = self.low.log10().floor() as i32;
        (first..first + 9)
            .flat_map(|power| [1.0, 2.0, 5.0].map(|times| times * 10f64.powi(power)))
            .filter(|tick| (self.low..=self.high).contains(tick))
    }
}

/// Draws the chart as an SVG document.
pub(super) fn svg(report: &Report) -> String {
    let swept = || report.fronts.values().flatten().map(|swept| &swept.figures);
    let all = || report.rows().map(|(_, figures)| figures).chain(swept());
    let x = Scale::of(all().map(|figures| figures.cost_usd), LEFT, WIDTH - RIGHT);
    let y = Scale::of(all().map(|figures| figures.p95_s), HEIGHT - BOTTOM, TOP);
    let at = |figures: &Figures| (x.place(figures.cost_usd), y.place(figures.p95_s));
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"12\" fill=\"{TEXT}\">\n\
         <text x=\"{LEFT}\" y=\"24\" font-size=\"16\">{}: cost and 95th percentile</text>\n",
        escaped(&report.trace.name)
    );
    for tick in x.ticks() {
        let place = x.place(tick);
        let _ = writeln!(
            text,
            "<path d=\"M{place:.1} {TOP}V{:.1}\" stroke=\"{TEXT}\" stroke-opacity=\".2\"/><text \
             x=\"{place:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{tick} USD</text>",
            HEIGHT - BOTTOM,
            HEIGHT - BOTTOM + 20.0
        );
    }
    for tick in y.ticks() {
        let place = y.place(tick);
        let _ = writeln!(
            text,
            "<path d=\"M{LEFT} {place:.1}H{:.1}\" stroke=\"{TEXT}\" stroke-opacity=\".2\"/><text x=\"{:.1}\" \
             y=\"{:.1}\" text-anchor=\"end\">{tick} s</text>",
            WIDTH - RIGHT,
            LEFT - 6.0,
            place + 4.0
        );
    }
    for ((name, points), colour) in report.fronts.iter().zip(COLOURS) {
        let mut front: Vec<_> =
            points.iter().filter(|swept| swept.on_front).map(|swept| at(&swept.figures)).collect();
        front.sort_by(|a, b| a.0.total_cmp(&b.0));
        let line: Vec<_> = front.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let _ = writeln!(text, "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\"/>", line.join(" "));
        for swept in points {
            let (x, y) = at(&swept.figures);
            let opacity = if swept.on_front { 1.0 } else { 0.4 };
            let _ = writeln!(
                text,
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{colour}\" \
                 fill-opacity=\"{opacity}\"><title>{name} {}</title></circle>",
                swept.value
            );
        }
        if let Some((x, y)) = front.last() {
            let _ = writeln!(
                text,
                "<text x=\"{:.1}\" y=\"{:.1}\" fill=\"{colour}\">{name}</text>",
                x + 7.0,
                y + 4.0
            );
        }
    }
    let ours =
        [("policy", &report.policy), ("as fast", &report.as_fast), ("clairvoyant", &report.clairvoyant)];
    for (name, figures) in ours {
        let (x, y) = at(figures);
        let _ = writeln!(
            text,
            "<path d=\"M{x:.1} {:.1}l6 10h-12z\" fill=\"#dd5046\"/><text x=\"{:.1}\" y=\"{:.1}\" \
             fill=\"#dd5046\">{name}</text>",
            y - 6.0,
            x + 8.0,
            y - 6.0
        );
    }
    text + "</svg>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_has_ticks_within_it_and_places_in_order() {
        let scale = Scale::of([0.03, 4.0].into_iter(), 0.0, 100.0);
        let ticks: Vec<_> = scale.ticks().collect();
        assert_eq!(ticks.first(), Some(&0.05));
        assert!(ticks.windows(2).all(|pair| scale.place(pair[0]) < scale.place(pair[1])));
        assert!(ticks.iter().all(|tick| (0.0..=100.0).contains(&scale.place(*tick))));
    }
}
