//! Formats reports as tables.

use std::time::Duration;

use eirs_controller::{
    policy::Policy,
    simulate::{Figures, Mean, Prices, Ratio, Reference, Report, Spread, TraceSummary},
};

use crate::show;

/// The headers of [`cells`].
pub(super) const HEADS: [&str; 14] = [
    "mean s", "p50", "p95", "p99", "max", "in SLO %", "killed", "again", "open", "starts", "hours", "USD",
    "USD/1000", "x best",
];

/// Formats one row of figures; `best` is the lowest possible cost.
pub(super) fn cells(figures: &Figures, best: f64) -> Vec<String> {
    // Without any cost, there is no ratio.
    let ratio = if best > 0.0 { format!("{:.2}", figures.cost_usd / best) } else { "?".to_owned() };
    let seconds = [figures.mean_s, figures.p50_s, figures.p95_s, figures.p99_s, figures.max_s]
        .map(|s| format!("{s:.1}"));
    let counts = [figures.killed, figures.redelivered, figures.unfinished, figures.starts];
    let mut cells = Vec::from(seconds);
    cells.push(format!("{:.2}", figures.within_slo * 100.0));
    cells.extend(counts.map(|count| count.to_string()));
    cells.push(format!("{:.2}", figures.instance_hours));
    cells.extend([figures.cost_usd, figures.cost_usd_per_1000].map(|usd| format!("{usd:.4}")));
    cells.push(ratio);
    cells
}

/// Formats a report with one row per policy.
pub(super) fn report(report: &Report) -> String {
    let best = report.clairvoyant.cost_usd;
    let row = |(name, figures): (&str, &Figures)| [vec![name.to_owned()], cells(figures, best)].concat();
    let rows: Vec<_> = report.rows().map(row).collect();
    let head = [&[""], &HEADS[..]].concat();
    format!(
        "{}\n\n{}\n{}{}{}{}",
        title(&report.trace),
        show::table(&head, &rows),
        prices(report),
        seeds(report),
        fronts(report),
        wrong(&report.wrong)
    )
}

/// Explains the cost of the policy. The second number of each line is relative to the lowest
/// possible cost.
fn prices(report: &Report) -> String {
    let Prices { ignorance, speed, online } = report.prices;
    let launched = match report.policy.launched_hours {
        0.0 => String::new(),
        hours => format!("launched, of the policy's instance hours: {hours:.2}\n"),
    };
    let ratio = |Ratio { found, most }: Ratio| format!("{found:.2} (at most {most:.2})");
    format!(
        "price of ignorance (policy / as fast): {}\n\
         price of speed (as fast / clairvoyant): {}\n\
         policy / online: {}\n\
         disks, in no cost above and the same for every row: {:.4} USD\n{launched}",
        ratio(ignorance),
        ratio(speed),
        ratio(online),
        report.policy.disks_usd
    )
}

fn seeds(report: &Report) -> String {
    let Some(Spread { seeds, .. }) = report.seeds.values().next() else { return String::new() };
    let with = |mean: &Mean, times: f64, digits: usize| {
        format!("{:.digits$} ± {:.digits$}", mean.mean * times, mean.off * times)
    };
    let row = |(name, spread): (&&str, &Spread)| {
        let Spread { p95_s, within_slo, cost_usd, .. } = spread;
        vec![(*name).to_owned(), with(p95_s, 1.0, 1), with(within_slo, 100.0, 2), with(cost_usd, 1.0, 4)]
    };
    let mut rows: Vec<_> = report.seeds.iter().map(row).collect();
    rows.sort_by_key(|row| row[0] != "policy");
    let table = show::table(&["", "p95", "in SLO %", "USD"], &rows);
    format!("\nOver {seeds} seeds, with the 95 % confidence interval of each mean:\n{table}")
}

/// Formats the references with other values of their main parameters that are on their fronts.
fn fronts(report: &Report) -> String {
    let mut rows = Vec::new();
    for (name, points) in &report.fronts {
        let parameter = name.parse::<Reference>().map_or("", Reference::parameter);
        let mut front: Vec<_> = points.iter().filter(|swept| swept.on_front).collect();
        front.sort_by(|a, b| a.figures.cost_usd.total_cmp(&b.figures.cost_usd));
        rows.extend(front.into_iter().map(|swept| {
            let Figures { p95_s, within_slo, cost_usd, .. } = swept.figures;
            let beats = if swept.beats_policy { "beats the policy" } else { "" };
            vec![
                (*name).to_owned(),
                parameter.to_owned(),
                swept.value.to_string(),
                format!("{p95_s:.1}"),
                format!("{:.2}", within_slo * 100.0),
                format!("{cost_usd:.4}"),
                beats.to_owned(),
            ]
        }));
    }
    if rows.is_empty() {
        return String::new();
    }
    let head = ["front of", "parameter", "value", "p95", "in SLO %", "USD", ""];
    format!("\n{}", show::table(&head, &rows))
}

/// Formats the trace in one line.
pub(super) fn title(trace: &TraceSummary) -> String {
    let length = humantime::format_duration(Duration::from_secs(trace.seconds.round() as u64));
    format!("{}: {} in {length}", trace.name, show::count(trace.arrivals, "request"))
}

/// Formats a policy in one line.
pub(super) fn policy(pool: &str, policy: &Policy) -> String {
    let rules: Vec<_> = policy.rules.iter().map(ToString::to_string).collect();
    let rules = if rules.is_empty() { "no rule".to_owned() } else { rules.join("; ") };
    format!("Pool {pool}, {} to {} instances ({rules})", policy.pool.min, policy.pool.max)
}

/// Formats the figures of the policy in one line.
pub(super) fn figures(report: &Report, slo: Duration) -> String {
    let figures = &report.policy;
    let mut line = format!(
        "{:.1} % within {}; p50 {:.1} s, p95 {:.1} s; {:.1} instance hours, {:.2} USD",
        figures.within_slo * 100.0,
        humantime::format_duration(slo),
        figures.p50_s,
        figures.p95_s,
        figures.instance_hours,
        figures.cost_usd,
    );
    if report.clairvoyant.cost_usd > 0.0 {
        line += &format!(", {:.2} times the clairvoyant's", figures.cost_usd / report.clairvoyant.cost_usd);
    }
    line
}

/// Lists violated invariants.
pub(super) fn wrong(wrong: &[String]) -> String {
    if wrong.is_empty() {
        return String::new();
    }
    let sentences: String = wrong.iter().map(|wrong| format!("  {wrong}\n")).collect();
    format!("\nViolations:\n{sentences}")
}
