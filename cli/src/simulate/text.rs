//! Reports as tables.

use std::time::Duration;

use eirs_controller::{
    policy::Policy,
    simulate::{Figures, Report, TraceSummary},
};

use crate::show;

/// The heads of [`cells`].
pub(super) const HEADS: [&str; 14] = [
    "mean s", "p50", "p95", "p99", "max", "in SLO %", "killed", "again", "open", "starts", "hours", "USD",
    "USD/1000", "x best",
];

/// One row of figures; `best` is what the cheapest way costs.
pub(super) fn cells(figures: &Figures, best: f64) -> Vec<String> {
    // Without any cost there is nothing to compare.
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

/// A report with a row for everybody.
pub(super) fn report(report: &Report) -> String {
    let best = report.clairvoyant.cost_usd;
    let row = |(name, figures): (&str, &Figures)| [vec![name.to_owned()], cells(figures, best)].concat();
    let rows: Vec<_> = report.rows().map(row).collect();
    let head = [&[""], &HEADS[..]].concat();
    format!("{}\n\n{}{}", title(&report.trace), show::table(&head, &rows), wrong(&report.wrong))
}

/// The trace in one line.
pub(super) fn title(trace: &TraceSummary) -> String {
    let length = humantime::format_duration(Duration::from_secs(trace.seconds.round() as u64));
    format!("{}: {} in {length}", trace.name, show::count(trace.arrivals, "request"))
}

/// A policy in one line.
pub(super) fn policy(pool: &str, policy: &Policy) -> String {
    let rules: Vec<_> = policy.rules.iter().map(ToString::to_string).collect();
    let rules = if rules.is_empty() { "no rule".to_owned() } else { rules.join("; ") };
    format!("Pool {pool}, {} to {} instances ({rules})", policy.pool.min, policy.pool.max)
}

/// How the policy did, in one line.
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

/// What nobody should have done.
pub(super) fn wrong(wrong: &[String]) -> String {
    if wrong.is_empty() {
        return String::new();
    }
    let sentences: String = wrong.iter().map(|wrong| format!("  {wrong}\n")).collect();
    format!("\nViolations:\n{sentences}")
}
