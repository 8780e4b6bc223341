//! Draws a run as a chart: arrivals, backlog, instances and latency, one above the other on a
//! common time axis.
//!
//! It has no background, and all colours have medium brightness, so that it is readable on white
//! and on black.

use std::fmt::Write as _;

use eirs_controller::simulate::{Outcome, Trace};
use eirs_load::axis::{Axis, span, time_ticks};

use crate::show::escaped;

/// The size of the image, and the position of the panels.
const WIDTH: f64 = 1000.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 30.0;
const TOP: f64 = 104.0;
const PANEL: f64 = 132.0;
const GAP: f64 = 46.0;
/// Number of time intervals.
const BINS: usize = 430;
/// Number of samples of the state: more than intervals, which show the highest values.
pub(super) const SAMPLES: u32 = 8600;

const TEXT: &str = "#7d838c";
const BLUE: &str = "#3f86e8";
const GREEN: &str = "#22a06b";
const AMBER: &str = "#e0992a";
const VIOLET: &str = "#9a6be0";
const RED: &str = "#dd5046";

/// The texts of the chart.
pub(super) struct Words {
    pub(super) title: String,
    pub(super) trace: String,
    pub(super) figures: String,
    pub(super) slo_s: f64,
    pub(super) max: u32,
}

/// One time interval.
#[derive(Default, Clone)]
struct Bin {
    arrived: f64,
    waiting: f64,
    worked_on: f64,
    ready: f64,
    starting: f64,
    leaving: f64,
    latencies_s: Vec<f32>,
}

/// Draws the chart as an SVG document.
pub(super) fn svg(words: &Words, trace: &Trace, outcome: &Outcome) -> String {
    let length_s = (outcome.end as f64 / 1e6).max(trace.seconds()).max(1.0);
    let bins = bins(trace, outcome, length_s);
    let bin_s = length_s / BINS as f64;
    let mut picture = Picture { text: String::new(), length_s, row: 0 };
    picture.head(words);
    arrivals(&mut picture, &bins, bin_s);
    backlog(&mut picture, &bins);
    instances(&mut picture, &bins, words.max);
    latency(&mut picture, &bins, words.slo_s);
    picture.finish()
}

fn bins(trace: &Trace, outcome: &Outcome, length_s: f64) -> Vec<Bin> {
    let mut bins = vec![Bin::default(); BINS];
    let place = |at: u64| ((at as f64 / 1e6 / length_s * BINS as f64) as usize).min(BINS - 1);
    for (at, latency) in trace.arrivals.iter().zip(&outcome.latencies_s) {
        let bin = &mut bins[place(*at)];
        bin.arrived += 1.0;
        bin.latencies_s.extend(Some(*latency).filter(|latency| !latency.is_nan()));
    }
    for sample in &outcome.samples {
        let bin = &mut bins[place(sample.at)];
        // Values of the same moment, the one with the largest sum.
        let (waiting, worked_on) = (sample.visible as f64, sample.in_flight as f64);
        if waiting + worked_on >= bin.waiting + bin.worked_on {
            (bin.waiting, bin.worked_on) = (waiting, worked_on);
        }
        let [ready, starting, leaving] = [sample.ready, sample.starting, sample.leaving].map(f64::from);
        if ready + starting + leaving >= bin.ready + bin.starting + bin.leaving {
            (bin.ready, bin.starting, bin.leaving) = (ready, starting, leaving);
        }
    }
    bins.iter_mut().for_each(|bin| bin.latencies_s.sort_unstable_by(f32::total_cmp));
    bins
}

fn arrivals(picture: &mut Picture, bins: &[Bin], bin_s: f64) {
    let peak = bins.iter().map(|bin| bin.arrived).fold(0.0, f64::max) / bin_s;
    let units = [("second", 1.0), ("minute", 60.0), ("hour", 3600.0)];
    let (unit, seconds) = units.into_iter().find(|(_, s)| peak * s >= 1.0).unwrap_or(units[2]);
    let rates: Vec<_> = bins.iter().map(|bin| bin.arrived / bin_s * seconds).collect();
    let axis = Axis::up_to(rates.iter().copied().fold(0.0, f64::max));
    picture.panel("Requests arriving", &format!("per {unit}"), &axis, &[("requests", BLUE)]);
    picture.area(&axis, &vec![0.0; bins.len()], &rates, BLUE);
}

fn backlog(picture: &mut Picture, bins: &[Bin]) {
    let of = |value: fn(&Bin) -> f64| bins.iter().map(value).collect::<Vec<_>>();
    let (below, above) = (of(|bin| bin.worked_on), of(|bin| bin.worked_on + bin.waiting));
    let axis = Axis::up_to(above.iter().copied().fold(0.0, f64::max));
    picture.panel("Backlog", "jobs", &axis, &[("in flight", GREEN), ("waiting", AMBER)]);
    picture.area(&axis, &vec![0.0; bins.len()], &below, GREEN);
    picture.area(&axis, &below, &above, AMBER);
}

fn instances(picture: &mut Picture, bins: &[Bin], max: u32) {
    let of = |value: fn(&Bin) -> f64| bins.iter().map(value).collect::<Vec<_>>();
    let ready = of(|bin| bin.ready);
    let started = of(|bin| bin.ready + bin.starting);
    let all = of(|bin| bin.ready + bin.starting + bin.leaving);
    // A little higher, to leave room for the text above the highest line.
    let axis = Axis::up_to(all.iter().copied().fold(1.15 * f64::from(max), f64::max));
    picture.panel("Instances", "", &axis, &[("ready", GREEN), ("starting", VIOLET), ("leaving", RED)]);
    picture.area(&axis, &vec![0.0; bins.len()], &ready, GREEN);
    picture.area(&axis, &ready, &started, VIOLET);
    picture.area(&axis, &started, &all, RED);
    picture.level(&axis, f64::from(max), &format!("max {max}"), TEXT);
}

fn latency(picture: &mut Picture, bins: &[Bin], slo_s: f64) {
    let percentile = |percent: usize| {
        let of = |bin: &Bin| {
            let rank = (bin.latencies_s.len() * percent).div_ceil(100);
            rank.checked_sub(1).map(|place| f64::from(bin.latencies_s[place]))
        };
        bins.iter().map(of).collect::<Vec<_>>()
    };
    let (half, most) = (percentile(50), percentile(95));
    let highest = most.iter().flatten().copied().fold(1.15 * slo_s, f64::max);
    let axis = Axis::up_to(highest);
    picture.panel(
        "Latency by time of arrival",
        "seconds",
        &axis,
        &[("half of them within", BLUE), ("95 of 100 within", AMBER)],
    );
    picture.line(&axis, &most, AMBER);
    picture.line(&axis, &half, BLUE);
    picture.level(&axis, slo_s, &format!("SLO {}", span(slo_s)), RED);
}

/// The chart under construction, from top to bottom.
struct Picture {
    text: String,
    length_s: f64,
    row: usize,
}

impl Picture {
    fn add(&mut self, element: std::fmt::Arguments<'_>) {
        let _a_string_takes_everything = writeln!(self.text, "{element}");
    }

    fn label(&mut self, x: f64, y: f64, style: &str, text: &str) {
        let text = escaped(text);
        self.add(format_args!("<text x=\"{x:.1}\" y=\"{y:.1}\" {style}>{text}</text>"));
    }

    fn head(&mut self, words: &Words) {
        self.label(LEFT, 28.0, "font-size=\"19\" font-weight=\"600\"", &words.title);
        self.label(LEFT, 50.0, "font-size=\"14\"", &words.figures);
        self.label(LEFT, 69.0, "font-size=\"13\"", &words.trace);
    }

    /// Starts the next panel: name, unit, legend and both grids.
    fn panel(&mut self, name: &str, unit: &str, axis: &Axis, legend: &[(&str, &str)]) {
        self.row += 1;
        let (top, bottom) = (self.top(), self.top() + PANEL);
        let (y, right) = (top - 9.0, WIDTH - RIGHT);
        self.add(format_args!(
            "<text x=\"{LEFT}\" y=\"{y:.1}\" font-size=\"14\"><tspan font-weight=\"600\">{name}</tspan> \
             {unit}</text>"
        ));
        let entry = |(text, colour): &(&str, &str)| {
            format!("<tspan dx=\"14\" style=\"fill:{colour}\">\u{25a0}</tspan> {text}")
        };
        let legend: String = legend.iter().map(entry).collect();
        self.add(format_args!(
            "<text x=\"{right}\" y=\"{y:.1}\" font-size=\"13\" text-anchor=\"end\">{legend}</text>"
        ));
        for (value, text) in axis.ticks() {
            let y = self.y(axis, value);
            self.rule([LEFT, y, WIDTH - RIGHT, y], if value == 0.0 { 0.7 } else { 0.25 });
            self.label(LEFT - 8.0, y + 4.0, "font-size=\"12\" text-anchor=\"end\"", &text);
        }
        for (second, text) in time_ticks(self.length_s) {
            let x = self.x(second);
            self.rule([x, top, x, bottom], 0.25);
            self.label(x, bottom + 16.0, "font-size=\"12\" text-anchor=\"middle\"", &text);
        }
    }

    fn rule(&mut self, [x1, y1, x2, y2]: [f64; 4], opacity: f64) {
        self.add(format_args!(
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{TEXT}\" \
             stroke-opacity=\"{opacity}\"/>"
        ));
    }

    /// Draws a limit.
    fn level(&mut self, axis: &Axis, value: f64, text: &str, colour: &str) {
        let y = self.y(axis, value);
        self.add(format_args!(
            "<line x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{}\" y2=\"{y:.1}\" stroke=\"{colour}\" \
             stroke-width=\"1.5\" stroke-dasharray=\"6 5\"/>",
            WIDTH - RIGHT
        ));
        let style = format!("font-size=\"12\" text-anchor=\"end\" style=\"fill:{colour}\"");
        self.label(WIDTH - RIGHT - 4.0, y - 5.0, &style, text);
    }

    /// Fills the area between two rows of values, in steps.
    fn area(&mut self, axis: &Axis, below: &[f64], above: &[f64], colour: &str) {
        let mut path = String::new();
        let mut number = 0;
        while number < above.len() {
            let is_empty = |number: usize| above[number] <= below[number];
            if is_empty(number) {
                number += 1;
                continue;
            }
            let end = (number..above.len()).find(|number| is_empty(*number)).unwrap_or(above.len());
            path += &format!("M{:.1} {:.1}", self.edge(number), self.y(axis, below[number]));
            let step = |path: &mut String, from: usize, to: usize, value: f64| {
                let y = self.y(axis, value);
                *path += &format!("L{:.1} {y:.1}L{:.1} {y:.1}", self.edge(from), self.edge(to));
            };
            for (bin, value) in above.iter().enumerate().take(end).skip(number) {
                step(&mut path, bin, bin + 1, *value);
            }
            for (bin, value) in below.iter().enumerate().take(end).skip(number).rev() {
                step(&mut path, bin + 1, bin, *value);
            }
            path.push('Z');
            number = end;
        }
        self.add(format_args!("<path d=\"{path}\" fill=\"{colour}\" fill-opacity=\"0.8\"/>"));
    }

    /// Draws a line through the values, with gaps where they are missing; an isolated value is a
    /// dot.
    fn line(&mut self, axis: &Axis, values: &[Option<f64>], colour: &str) {
        let mut path = String::new();
        let is_there = |number: usize| values.get(number).is_some_and(Option::is_some);
        for (number, value) in values.iter().enumerate() {
            let Some(value) = value else { continue };
            let x = f64::midpoint(self.edge(number), self.edge(number + 1));
            let y = self.y(axis, *value);
            let follows = number > 0 && is_there(number - 1);
            path += &format!("{}{x:.1} {y:.1}", if follows { 'L' } else { 'M' });
            if !follows && !is_there(number + 1) {
                self.add(format_args!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>"));
            }
        }
        self.add(format_args!(
            "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2.2\" \
             stroke-linejoin=\"round\"/>"
        ));
    }

    fn top(&self) -> f64 {
        TOP + (self.row - 1) as f64 * (PANEL + GAP)
    }

    fn x(&self, second: f64) -> f64 {
        LEFT + second / self.length_s * (WIDTH - LEFT - RIGHT)
    }

    fn edge(&self, bin: usize) -> f64 {
        self.x(bin as f64 / BINS as f64 * self.length_s)
    }

    fn y(&self, axis: &Axis, value: f64) -> f64 {
        self.top() + PANEL * (1.0 - value / axis.top)
    }

    fn finish(self) -> String {
        let height = TOP + self.row as f64 * (PANEL + GAP);
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
             height=\"{height}\" font-family=\"system-ui, sans-serif\">\n\
             <style>text {{ fill: {TEXT} }}</style>\n{}</svg>\n",
            self.text
        )
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use eirs_controller::{
        policy::parse,
        simulate::{Setup, simulate},
    };

    use super::*;

    #[test]
    fn a_run_becomes_an_svg_with_every_panel_and_only_numbers() {
        let policy = parse(Path::new("p.toml"), "[[rule]]\nkind = 'backlog'").unwrap();
        let trace = Trace::of("burst:40/10m@20m", "p", 1).unwrap();
        let outcome = simulate(&policy, &trace, &Setup::default(), SAMPLES);
        let words = Words {
            title: "a < b & c".into(),
            trace: "a trace".into(),
            figures: "some".into(),
            slo_s: 30.0,
            max: 10,
        };
        let picture = svg(&words, &trace, &outcome);
        for expected in
            ["a &lt; b &amp; c", "Requests arriving", "Backlog", "Instances", "Latency", "SLO 30s", "max 10"]
        {
            assert!(picture.contains(expected), "{expected}");
        }
        assert!(!picture.contains("NaN") && !picture.contains("inf"));
        let count = |what: &str| picture.matches(what).count();
        assert_eq!((count("<svg"), count("<text")), (count("</svg>"), count("</text>")));
    }
}
