//! The report as an HTML page: a single file to view on a screen, a phone or paper, and to share.
//! It has no scripts and loads nothing, which its Content-Security-Policy enforces.

mod chart;

use std::fmt::Write as _;

use chrono::{DateTime, SubsecRound, Utc};

use self::chart::Chart;
use crate::{
    axis::{self, Axis},
    fleet,
    report::{Bar, Class, Report},
    slo::Goal,
    timeline::Point,
    words::{count, escaped, milliseconds},
};

const STYLE: &str = include_str!("page/style.css");

/// Formats the report as one HTML page with charts.
///
/// `command` is shown as the command of the run, and `began` as its start.
pub fn page(report: &Report, command: &str, began: DateTime<Utc>) -> String {
    let mut page = Page::default();
    page.head(report, command, began);
    page.verdict(report);
    page.tiles(report);
    page.charts(report);
    page.tables(report);
    page.end()
}

/// The page under construction, from top to bottom.
#[derive(Default)]
struct Page(String);

impl Page {
    fn add(&mut self, element: std::fmt::Arguments<'_>) {
        let _a_string_takes_everything = writeln!(self.0, "{element}");
    }

    fn head(&mut self, report: &Report, command: &str, began: DateTime<Utc>) {
        let url = escaped(&report.url);
        // `default-src 'none'` makes the browser refuse all requests of the page.
        self.add(format_args!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src \
             'unsafe-inline'\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n<title>Load on {url}</title>\n<style>\n\
             {STYLE}</style>\n</head>\n<body>"
        ));
        self.add(format_args!("<header>\n<h1>Load on {url}</h1>"));
        self.add(format_args!(
            "<p>{}; {} from {} on.</p>",
            escaped(&report.load.shown(report.concurrency)),
            escaped(&seconds(report.seconds)),
            began.trunc_subsecs(0).format("%Y-%m-%d %H:%M:%S UTC"),
        ));
        if let Some(punctuality) = &report.punctuality {
            let shown = punctuality.shown();
            self.add(format_args!(
                "<p>Latencies count from the time at which an upload was due; {}.</p>",
                escaped(&shown)
            ));
        }
        self.add(format_args!("<pre>{}</pre>\n</header>", escaped(command)));
    }

    fn verdict(&mut self, report: &Report) {
        if let Some(why) = &report.stopped {
            self.add(format_args!("<p class=\"verdict missed\"><b>Ended early.</b> {}</p>", escaped(why)));
        }
        if let Some(remark) = report.cache_remark() {
            self.add(format_args!(
                "<p class=\"verdict missed\"><b>From the cache.</b> {}</p>",
                escaped(&remark)
            ));
        }
        let Some(slo) = &report.slo else { return };
        let (class, text) =
            if slo.met { ("met", "All goals are met.") } else { ("missed", "A goal is missed.") };
        let goal = |goal: &Goal| {
            let met = if goal.met { "met" } else { "missed" };
            let (asked, found) = (escaped(&goal.asked()), escaped(&goal.found()));
            format!("<li>{met}: {asked}, it was <b>{found}</b></li>")
        };
        let goals: String = slo.goals.iter().map(goal).collect();
        self.add(format_args!("<div class=\"verdict {class}\"><b>{text}</b><ul>{goals}</ul></div>"));
    }

    fn tiles(&mut self, report: &Report) {
        let mut tiles = vec![
            ("images", report.images.to_string()),
            ("with a label", report.results.to_string()),
            ("failed", report.failed.to_string()),
            ("in a second", format!("{:.1}", report.per_second)),
        ];
        if let Some(latency) = report.latency_ms {
            tiles.extend([
                ("latency, mean", milliseconds(latency.mean)),
                ("half within", milliseconds(latency.p50)),
                ("95 % within", milliseconds(latency.p95)),
                ("99 % within", milliseconds(latency.p99)),
                ("the slowest", milliseconds(latency.max)),
            ]);
        }
        if let Some(accuracy) = report.accuracy.as_ref().filter(|accuracy| accuracy.of > 0) {
            tiles.push(("accuracy", format!("{:.1} %", accuracy.share * 100.0)));
        }
        let tile = |(name, value): (&str, String)| {
            format!("<div><b>{}</b><span>{name}</span></div>", escaped(&value))
        };
        let tiles: String = tiles.into_iter().map(tile).collect();
        self.add(format_args!("<section class=\"tiles\">{tiles}</section>"));
    }

    fn charts(&mut self, report: &Report) {
        self.add(format_args!("<section class=\"charts\">"));
        if let Some(last) = report.timeline.last() {
            let end = last.at_s + last.length_s;
            let length_s = report.fleet.last().map_or(end, |last| end.max(last.at_s)).max(1e-3);
            self.latency(report, length_s);
            self.throughput(report, length_s);
            self.histogram(report);
            self.fleet(&report.fleet, length_s);
        }
        self.add(format_args!("</section>"));
    }

    /// Titles and legends are text of the page instead of the chart, so that they are not scaled
    /// with it.
    fn figure(&mut self, title: &str, unit: &str, legend: &[(&str, &str)], chart: &Chart) {
        let entry = |(text, class): &(&str, &str)| format!("<i class=\"{class}\"></i>{text} ");
        let legend: String = legend.iter().map(entry).collect();
        let label = format!("{title}, {unit}");
        self.add(format_args!(
            "<figure><figcaption><b>{title}</b> {unit}<span class=\"legend\">{legend}</span></figcaption>\n\
             {}</figure>",
            chart.svg(&label)
        ));
    }

    fn latency(&mut self, report: &Report, length_s: f64) {
        let middle = |point: &Point| point.at_s + point.length_s / 2.0;
        let of = |value: fn(&Point) -> Option<f64>| {
            report.timeline.iter().map(|point| (middle(point), value(point))).collect::<Vec<_>>()
        };
        let goals = report.slo.iter().flat_map(|slo| &slo.goals).filter(|goal| goal.name != "errors");
        let goals: Vec<_> = goals.map(|goal| (goal.name, goal.limit)).collect();
        let highest = report.timeline.iter().filter_map(|point| point.max_ms).fold(0.0, f64::max);
        // A goal far above all values would flatten the curves.
        let near = |limit: f64| limit <= highest * 2.0;
        let shown = goals.iter().filter(|(_, limit)| near(*limit));
        let top = shown.clone().map(|(_, limit)| *limit).fold(highest, f64::max);
        let (unit, per_ms) = if top >= 10_000.0 { ("seconds", 1e-3) } else { ("milliseconds", 1.0) };
        let mut chart = Chart::over_time(Axis::up_to(top * 1.05 * per_ms), length_s);
        let scaled = |values: Vec<(f64, Option<f64>)>| {
            values.into_iter().map(|(at, value)| (at, value.map(|value| value * per_ms))).collect::<Vec<_>>()
        };
        chart.line(&scaled(of(|point| point.max_ms)), "grey");
        chart.line(&scaled(of(|point| point.p95_ms)), "amber");
        chart.line(&scaled(of(|point| point.p50_ms)), "blue");
        for (name, limit) in shown {
            chart.level(limit * per_ms, &format!("goal for {name}: {}", milliseconds(*limit)));
        }
        for point in &report.timeline {
            if let (Some(p50), Some(p95), Some(max)) = (point.p50_ms, point.p95_ms, point.max_ms) {
                let [p50, p95, max] = [p50, p95, max].map(milliseconds);
                let text = format!("at {}: p50 {p50}, p95 {p95}, max {max}", seconds(point.at_s));
                chart.hint(point.at_s, point.length_s, &text);
            }
        }
        let unit = format!("of the images due at that time, {unit}");
        let legend = [("half within", "blue"), ("95 % within", "amber"), ("the slowest", "grey")];
        self.figure("Latency", &unit, &legend, &chart);
    }

    fn throughput(&mut self, report: &Report, length_s: f64) {
        let of = |value: fn(&Point) -> f64| {
            let points = report.timeline.iter();
            points.map(|point| (point.at_s + point.length_s / 2.0, Some(value(point)))).collect::<Vec<_>>()
        };
        let highest = |point: &Point| point.asked_per_s.max(point.results_per_s).max(point.failed_per_s);
        let axis = Axis::up_to(report.timeline.iter().map(highest).fold(0.0, f64::max));
        let mut chart = Chart::over_time(axis, length_s);
        chart.line(&of(|point| point.asked_per_s), "grey");
        chart.line(&of(|point| point.results_per_s), "green");
        if report.failed > 0 {
            chart.line(&of(|point| point.failed_per_s), "red");
        }
        for point in &report.timeline {
            let Point { at_s, length_s, asked_per_s, results_per_s, failed_per_s, .. } = point;
            let text = format!(
                "at {}: {asked_per_s:.1} due, {results_per_s:.1} labels, {failed_per_s:.1} failed in a \
                 second",
                seconds(*at_s)
            );
            chart.hint(*at_s, *length_s, &text);
        }
        let mut legend = vec![("due", "grey"), ("labels", "green")];
        legend.extend((report.failed > 0).then_some(("failed", "red")));
        self.figure("Throughput", "images in a second", &legend, &chart);
    }

    fn histogram(&mut self, report: &Report) {
        let Some(latency) = report.latency_ms else { return };
        let highest = report.histogram.iter().map(|bar| bar.count).max().unwrap_or(0);
        let edges = (report.histogram.first(), report.histogram.last());
        let (Some(first), Some(last)) = edges else { return };
        let mut chart = Chart::over_latency(
            whole(highest as f64),
            first.up_to_ms / ratio(&report.histogram),
            last.up_to_ms,
        );
        for bar in &report.histogram {
            let text = format!("{} up to {}", count(bar.count, "image"), milliseconds(bar.up_to_ms));
            chart.bar(bar.up_to_ms / ratio(&report.histogram), bar.up_to_ms, bar.count as f64, &text);
        }
        chart.marks(&[(latency.p50, "p50"), (latency.p95, "p95"), (latency.p99, "p99")]);
        self.figure("Distribution of the latency", "images, on a logarithmic axis", &[], &chart);
    }

    fn fleet(&mut self, samples: &[fleet::Sample], length_s: f64) {
        if samples.is_empty() {
            return;
        }
        let of = |value: fn(&fleet::Pool) -> Option<u64>| {
            let points =
                samples.iter().map(|sample| (sample.at_s, sample.sum(value).map(|number| number as f64)));
            points.collect::<Vec<_>>()
        };
        let (ready, starting, leaving) =
            (of(|pool| pool.ready), of(|pool| pool.starting), of(|pool| pool.leaving));
        let desired = of(|pool| pool.desired);
        let stack = chart::stacked(&[ready, starting, leaving]);
        let highest =
            |values: &[(f64, Option<f64>)]| values.iter().filter_map(|(_, value)| *value).fold(0.0, f64::max);
        let top = highest(&desired).max(highest(&stack[2]));
        let mut chart = Chart::over_time(whole(top), length_s);
        for (place, class) in ["green", "violet", "red"].into_iter().enumerate() {
            chart.area(place.checked_sub(1).map(|below| &stack[below][..]), &stack[place], class);
        }
        chart.steps(&desired, "grey");
        let legend = [("ready", "green"), ("starting", "violet"), ("leaving", "red"), ("wanted", "grey")];
        self.figure("Fleet", "instances of all pools", &legend, &chart);

        let stack = chart::stacked(&[of(|pool| pool.in_flight), of(|pool| pool.visible)]);
        let mut chart = Chart::over_time(whole(highest(&stack[1])), length_s);
        chart.area(None, &stack[0], "green");
        chart.area(Some(&stack[0]), &stack[1], "amber");
        self.figure("Backlog", "jobs of all pools", &[("in flight", "green"), ("waiting", "amber")], &chart);
    }

    fn tables(&mut self, report: &Report) {
        self.add(format_args!("<section class=\"tables\">"));
        let statuses = report.statuses.iter().map(|(status, count)| [status.to_string(), count.to_string()]);
        self.table("Answers", &["status", "answers"], statuses.collect());
        let aside = [
            (report.pending, "images got a 202 first, and their result later"),
            (report.retried, "uploads were repeated after a 429 or 503"),
            (report.reconnects, "requests were repeated on a new connection"),
        ];
        let aside: Vec<_> = aside.iter().filter(|(times, _)| *times > 0).collect();
        if !aside.is_empty() {
            let items: String =
                aside.iter().map(|(times, what)| format!("<li>{times} {what}</li>")).collect();
            self.add(format_args!("<div><h2>On the way</h2><ul>{items}</ul></div>"));
        }
        if let Some(accuracy) = &report.accuracy {
            let class = |class: &Class| {
                [class.label.clone(), format!("{} of {}", class.correct, class.of), class.shown()]
            };
            let worst = accuracy.worst.iter().map(class).collect();
            self.table("Classes with the most wrong labels", &["shown", "right", "taken for"], worst);
            let mut text =
                format!("{} of {} right, against {}.", accuracy.correct, accuracy.of, accuracy.against);
            if let Some(first) = accuracy.unlabelled.first() {
                text += &format!(
                    " {} have no known label, such as {first}.",
                    count(accuracy.unlabelled.len() as u64, "image")
                );
            }
            for remark in &accuracy.remarks {
                text += &format!(" Of the sheet: {remark}.");
            }
            self.add(format_args!("<div><h2>Accuracy</h2><p>{}</p></div>", escaped(&text)));
        }
        let pools = report.fleet_lines();
        if !pools.is_empty() {
            let items: String = pools.iter().map(|pool| format!("<li>{}</li>", escaped(pool))).collect();
            self.add(format_args!("<div><h2>Pools</h2><ul>{items}</ul></div>"));
        }
        let failures = report.failures.iter();
        let failures = failures
            .map(|(kind, failures)| [kind.clone(), failures.count.to_string(), failures.first.join("\n")]);
        self.table("Failures", &["kind", "images", "for example"], failures.collect());
        self.add(format_args!("</section>"));
    }

    /// Adds a table, unless it has no rows.
    fn table<const COLUMNS: usize>(
        &mut self,
        title: &str,
        head: &[&str; COLUMNS],
        rows: Vec<[String; COLUMNS]>,
    ) {
        if rows.is_empty() {
            return;
        }
        let head: String = head.iter().map(|name| format!("<th>{name}</th>")).collect();
        let cell = |text: &String| format!("<td>{}</td>", escaped(text));
        let row =
            |row: &[String; COLUMNS]| format!("<tr>{}</tr>\n", row.iter().map(cell).collect::<String>());
        let rows: String = rows.iter().map(row).collect();
        self.add(format_args!("<div><h2>{title}</h2><table><tr>{head}</tr>\n{rows}</table></div>"));
    }

    fn end(mut self) -> String {
        self.add(format_args!("<footer>eirs-load {}</footer>\n</body>\n</html>", env!("CARGO_PKG_VERSION")));
        self.0
    }
}

/// Creates an axis for integers.
fn whole(highest: f64) -> Axis {
    Axis::up_to(highest.max(2.0))
}

/// Returns the ratio between the edges of adjacent bars.
fn ratio(bars: &[Bar]) -> f64 {
    match bars {
        [first, second, ..] => second.up_to_ms / first.up_to_ms,
        _ => 10f64.powf(0.05),
    }
}

fn seconds(seconds: f64) -> String {
    axis::span((seconds * 10.0).round() / 10.0)
}

#[cfg(test)]
mod tests;
