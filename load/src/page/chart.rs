//! A chart: axes, lines, areas and bars. Colours are class names, so that the page sets them for
//! light, dark and print.

use std::fmt::Write as _;

use crate::{
    axis::{Axis, time_ticks},
    words::{escaped, milliseconds},
};

/// Small enough that the text remains readable if a phone scales it down.
const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 210.0;
const LEFT: f64 = 46.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 24.0;
/// The distance below which two short labels would overlap.
const CLOSE: f64 = 30.0;

/// The horizontal axis.
#[derive(Debug, Clone, Copy)]
enum Place {
    /// From zero to this number of seconds.
    Time(f64),
    /// A logarithmic axis between two latencies, in milliseconds.
    Latency(f64, f64),
}

/// A chart under construction.
pub(super) struct Chart {
    body: String,
    axis: Axis,
    place: Place,
}

impl Chart {
    pub(super) fn over_time(axis: Axis, length_s: f64) -> Self {
        let mut chart = Self { body: String::new(), axis, place: Place::Time(length_s) };
        chart.grid(&time_ticks(length_s));
        chart
    }

    pub(super) fn over_latency(axis: Axis, from_ms: f64, to_ms: f64) -> Self {
        let mut chart = Self { body: String::new(), axis, place: Place::Latency(from_ms, to_ms) };
        chart.grid(&latency_ticks(from_ms, to_ms));
        chart
    }

    fn add(&mut self, element: std::fmt::Arguments<'_>) {
        let _a_string_takes_everything = writeln!(self.body, "{element}");
    }

    fn x(&self, value: f64) -> f64 {
        let share = match self.place {
            Place::Time(length_s) => value / length_s,
            Place::Latency(from, to) => (value / from).ln() / (to / from).ln(),
        };
        LEFT + share.clamp(0.0, 1.0) * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, value: f64) -> f64 {
        TOP + (HEIGHT - TOP - BOTTOM) * (1.0 - value / self.axis.top)
    }

    fn grid(&mut self, columns: &[(f64, String)]) {
        for (value, text) in self.axis.ticks() {
            let (y, right) = (self.y(value), WIDTH - RIGHT);
            let class = if value == 0.0 { "base" } else { "grid" };
            self.add(format_args!("<path class=\"{class}\" d=\"M{LEFT} {y:.1}H{right}\"/>"));
            self.add(format_args!(
                "<text x=\"{}\" y=\"{:.1}\" class=\"right\">{text}</text>",
                LEFT - 6.0,
                y + 4.0
            ));
        }
        let bottom = HEIGHT - BOTTOM;
        for (value, text) in columns {
            let x = self.x(*value);
            self.add(format_args!("<path class=\"grid\" d=\"M{x:.1} {TOP}V{bottom}\"/>"));
            let (x, class) = inside(x);
            self.add(format_args!(
                "<text x=\"{x:.1}\" y=\"{}\" class=\"{class}\">{text}</text>",
                bottom + 16.0
            ));
        }
    }

    /// Draws a line through the values, with gaps where they are missing; an isolated value is a
    /// dot.
    pub(super) fn line(&mut self, values: &[(f64, Option<f64>)], class: &str) {
        let mut path = String::new();
        let is_there = |number: usize| values.get(number).is_some_and(|(_, value)| value.is_some());
        for (number, (at, value)) in values.iter().enumerate() {
            let Some(value) = value else { continue };
            let (x, y) = (self.x(*at), self.y(*value));
            let follows = number > 0 && is_there(number - 1);
            path += &format!("{}{x:.1} {y:.1}", if follows { 'L' } else { 'M' });
            if !follows && !is_there(number + 1) {
                self.add(format_args!("<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.5\"/>"));
            }
        }
        self.add(format_args!("<path class=\"line {class}\" d=\"{path}\"/>"));
    }

    /// Draws values that hold until the next one.
    pub(super) fn steps(&mut self, values: &[(f64, Option<f64>)], class: &str) {
        let path = self.stairs(values, 'M');
        self.add(format_args!("<path class=\"line {class}\" d=\"{path}\"/>"));
    }

    /// Fills the range between two such step functions.
    pub(super) fn area(
        &mut self,
        below: Option<&[(f64, Option<f64>)]>,
        above: &[(f64, Option<f64>)],
        class: &str,
    ) {
        if above.iter().all(|(_, value)| value.is_none()) {
            return;
        }
        let zero: Vec<_> = above.iter().map(|(at, _)| (*at, Some(0.0))).collect();
        let up = self.stairs(above, 'M');
        let corners = self.corners(below.unwrap_or(&zero));
        let back: String = corners.iter().rev().map(|(x, y)| format!("L{x:.1} {y:.1}")).collect();
        self.add(format_args!("<path class=\"area {class}\" d=\"{up}{back}Z\"/>"));
    }

    fn stairs(&self, values: &[(f64, Option<f64>)], first: char) -> String {
        let corner = |(number, (x, y)): (usize, &(f64, f64))| {
            format!("{}{x:.1} {y:.1}", if number == 0 { first } else { 'L' })
        };
        self.corners(values).iter().enumerate().map(corner).collect()
    }

    /// Returns the corners of a step function; a missing value repeats the previous one.
    fn corners(&self, values: &[(f64, Option<f64>)]) -> Vec<(f64, f64)> {
        let mut corners: Vec<(f64, f64)> = Vec::new();
        for (at, value) in values {
            let Some(value) = value else { continue };
            let (x, y) = (self.x(*at), self.y(*value));
            corners.extend(corners.last().map(|(_, before)| (x, *before)));
            corners.push((x, y));
        }
        corners.extend(corners.last().map(|(_, last)| (WIDTH - RIGHT, *last)));
        corners
    }

    pub(super) fn bar(&mut self, from: f64, to: f64, value: f64, hint: &str) {
        let (left, right, y) = (self.x(from), self.x(to), self.y(value));
        let (width, height) = ((right - left - 0.6).max(0.5), HEIGHT - BOTTOM - y);
        let hint = escaped(hint);
        self.add(format_args!(
            "<rect class=\"area blue\" x=\"{left:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" \
             height=\"{height:.1}\"><title>{hint}</title></rect>"
        ));
    }

    /// Draws a limit.
    pub(super) fn level(&mut self, value: f64, text: &str) {
        let (y, right) = (self.y(value), WIDTH - RIGHT);
        let text = escaped(text);
        self.add(format_args!("<path class=\"level\" d=\"M{LEFT} {y:.1}H{right}\"/>"));
        self.add(format_args!(
            "<text x=\"{}\" y=\"{:.1}\" class=\"right goal\">{text}</text>",
            right - 4.0,
            y - 4.0
        ));
    }

    /// Draws vertical marks, in order; close ones share a label.
    pub(super) fn marks(&mut self, marks: &[(f64, &str)]) {
        let bottom = HEIGHT - BOTTOM;
        let mut names: Vec<(f64, String)> = Vec::new();
        for (value, name) in marks {
            let x = self.x(*value);
            self.add(format_args!("<path class=\"mark\" d=\"M{x:.1} {TOP}V{bottom}\"/>"));
            match names.last_mut().filter(|(before, _)| x - *before < CLOSE) {
                Some((before, names)) => (*before, *names) = (x, format!("{names} {name}")),
                None => names.push((x, (*name).to_owned())),
            }
        }
        for (x, name) in names {
            let (x, class) = inside(x);
            self.add(format_args!("<text x=\"{x:.1}\" y=\"{}\" class=\"{class}\">{name}</text>", TOP - 3.0));
        }
    }

    /// Adds a tooltip.
    pub(super) fn hint(&mut self, from: f64, length: f64, text: &str) {
        let (left, right) = (self.x(from), self.x(from + length));
        let (width, height, text) = (right - left, HEIGHT - TOP - BOTTOM, escaped(text));
        self.add(format_args!(
            "<rect class=\"hint\" x=\"{left:.1}\" y=\"{TOP}\" width=\"{width:.1}\" \
             height=\"{height}\"><title>{text}</title></rect>"
        ));
    }

    pub(super) fn svg(&self, label: &str) -> String {
        let label = escaped(label);
        format!(
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{label}\">\n{}</svg>\n",
            self.body
        )
    }
}

/// Returns the position and alignment of a label, so that it is inside the chart.
fn inside(x: f64) -> (f64, &'static str) {
    if x > WIDTH - CLOSE { (WIDTH - 1.0, "right") } else { (x, "middle") }
}

/// Returns cumulative sums of the rows, for a stacked chart. Missing values count as zero.
pub(super) fn stacked(rows: &[Vec<(f64, Option<f64>)>]) -> Vec<Vec<(f64, Option<f64>)>> {
    let mut sums: Vec<Vec<(f64, Option<f64>)>> = Vec::new();
    for row in rows {
        let below = |number: usize| sums.last().and_then(|sum| sum[number].1).unwrap_or(0.0);
        let sum = row
            .iter()
            .enumerate()
            .map(|(number, (at, value))| (*at, Some(below(number) + value.unwrap_or(0.0))));
        let sum = sum.collect();
        sums.push(sum);
    }
    sums
}

/// Returns round latencies between two others.
fn latency_ticks(from_ms: f64, to_ms: f64) -> Vec<(f64, String)> {
    let decades = (to_ms / from_ms).log10();
    let steps: &[f64] = if decades > 3.0 { &[1.0] } else { &[1.0, 2.0, 5.0] };
    let powers = (from_ms.log10().floor() as i32)..=(to_ms.log10().ceil() as i32);
    let values = powers.flat_map(|power| steps.iter().map(move |step| step * 10f64.powi(power)));
    let within = values.filter(|value| (from_ms * 0.999..=to_ms * 1.001).contains(value));
    let short = |ms: f64| match ms {
        ms if ms >= 60_000.0 => format!("{} min", (ms / 6e3).round() / 10.0),
        ms if ms >= 1000.0 => format!("{} s", ms / 1e3),
        ms if ms >= 1.0 => format!("{ms} ms"),
        ms => format!("{} µs", (ms * 1e3).round()),
    };
    let ticks: Vec<_> = within.map(|value| (value, short(value))).collect();
    // The range is smaller than a step, so its ends are labelled.
    if ticks.is_empty() { [from_ms, to_ms].map(|ms| (ms, milliseconds(ms))).into() } else { ticks }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latency_ticks_are_round_and_in_a_fitting_unit() {
        let written =
            |from, to| latency_ticks(from, to).into_iter().map(|(_, text)| text).collect::<Vec<_>>();
        assert_eq!(written(0.4, 12.0), ["500 µs", "1 ms", "2 ms", "5 ms", "10 ms"]);
        assert_eq!(written(0.5, 30_000.0), ["1 ms", "10 ms", "100 ms", "1 s", "10 s"]);
        assert_eq!(written(6.0, 7.0), ["6.00 ms", "7.00 ms"]);
    }

    #[test]
    fn stacked_rows_add_up_and_unknown_values_count_as_zero() {
        let rows = [vec![(0.0, Some(1.0)), (1.0, None)], vec![(0.0, Some(2.0)), (1.0, Some(3.0))]];
        assert_eq!(stacked(&rows)[1], [(0.0, Some(3.0)), (1.0, Some(3.0))]);
    }

    #[test]
    fn a_line_has_gaps_at_unknown_values_and_an_isolated_value_is_a_dot() {
        let mut chart = Chart::over_time(Axis::up_to(10.0), 4.0);
        chart.line(&[(0.0, Some(0.0)), (1.0, Some(10.0)), (2.0, None), (3.0, Some(5.0))], "blue");
        let svg = chart.svg("x");
        assert!(svg.contains("class=\"line blue\" d=\"M46.0 186.0L171.5 14.0M422.5 100.0\""), "{svg}");
        assert_eq!(svg.matches("<circle").count(), 1);
    }
}
