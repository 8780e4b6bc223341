//! What an installation costs while nobody uses it. An estimate: prices of us-east-1 without tax,
//! as AWS's price list had them in 2025; other regions cost up to a third more.

use serde::Serialize;

/// Hours of an average month.
const HOURS: f64 = 730.0;
/// A GiB of gp3 for a month, and of a snapshot.
const DISK_USD: f64 = 0.08;
const SNAPSHOT_USD: f64 = 0.05;
/// A public IPv4 address for an hour.
const ADDRESS_USD: f64 = 0.005;
/// A million requests to SQS; the first million of a month costs nothing.
const MILLION_REQUESTS_USD: f64 = 0.40;
/// What an idle service asks of SQS in a month, in millions: a depth every five seconds for each
/// pool, and three long polls a minute of each of the two that wait for something.
const DEPTHS: f64 = 12.0 * 60.0 * HOURS / 1e6;
const POLLS: f64 = 2.0 * 3.0 * 60.0 * HOURS / 1e6;
/// What the controller writes to S3 in a month, in millions: its claim, three times a minute
/// (`platform/src/backend/claim.rs`); and what a million such requests cost.
const CLAIMS: f64 = 3.0 * 60.0 * HOURS / 1e6;
const MILLION_WRITES_USD: f64 = 5.0;
/// The disk of the systems' images where none is set, in GiB.
const USUAL_DISK_GIB: u32 = 8;

/// Dollars for an hour of the instance types that are usual here.
const HOURLY_USD: [(&str, f64); 20] = [
    ("t3.micro", 0.0104),
    ("t3.small", 0.0208),
    ("t3.medium", 0.0416),
    ("t3.large", 0.0832),
    ("t3.xlarge", 0.1664),
    ("t3.2xlarge", 0.3328),
    ("t3a.small", 0.0188),
    ("t3a.medium", 0.0376),
    ("t4g.micro", 0.0084),
    ("t4g.small", 0.0168),
    ("t4g.medium", 0.0336),
    ("t4g.large", 0.0672),
    ("m7i.large", 0.1008),
    ("m7g.large", 0.0816),
    ("c7i.large", 0.08925),
    ("c7i.xlarge", 0.1785),
    ("c7g.large", 0.0725),
    ("c7g.xlarge", 0.145),
    ("g4dn.xlarge", 0.526),
    ("g5.xlarge", 1.006),
];

/// A vCPU-hour above the baseline of a burstable type that goes on without credits, by family
/// ("Amazon EC2 On-Demand Pricing", T2/T3/T4g Unlimited Mode, Linux, us-east-1, as it was in 2025).
const SURPLUS_USD: [(&str, f64); 3] = [("t3", 0.05), ("t3a", 0.05), ("t4g", 0.04)];
/// The vCPUs of these families' sizes, and the share of each that the price includes (EC2 user
/// guide, "Key concepts for burstable performance instances").
const BASELINES: [(&str, f64, f64); 7] = [
    ("nano", 2.0, 0.05),
    ("micro", 2.0, 0.10),
    ("small", 2.0, 0.20),
    ("medium", 2.0, 0.20),
    ("large", 2.0, 0.30),
    ("xlarge", 4.0, 0.40),
    ("2xlarge", 8.0, 0.40),
];

/// Whether a type pays for its work with CPU credits.
pub(crate) fn is_burstable(kind: &str) -> bool {
    let family = kind.split('.').next().unwrap_or_default();
    family == "t2" || SURPLUS_USD.iter().any(|(known, _)| *known == family)
}

/// What an hour of full work of a burstable type costs beside its price, where it goes on without
/// credits. A machine that was launched just now has none, and what was used beyond them is charged
/// when it stops (EC2 user guide, "Unlimited mode for burstable performance instances").
pub(crate) fn surplus_usd(kind: &str) -> Option<f64> {
    let (family, size) = kind.split_once('.')?;
    let (_, usd) = SURPLUS_USD.iter().find(|(known, _)| *known == family)?;
    let (_, cores, share) = BASELINES.iter().find(|(known, ..)| *known == size)?;
    Some(cores * (1.0 - share) * usd)
}

/// What there is, as far as it costs.
#[derive(Debug, Clone)]
pub(crate) struct Idle {
    pub(crate) pools: u32,
    pub(crate) parked: u32,
    /// 0 where none is set.
    pub(crate) disk_gib: u32,
    /// The instance type of a web host that runs all the time; `None` where the operator has one
    /// anyway.
    pub(crate) web_type: Option<String>,
}

/// A line of the estimate.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Line {
    pub(crate) what: String,
    /// `None` where the price is not known here.
    pub(crate) usd_per_month: Option<f64>,
}

/// Dollars for an hour of an instance type, where it is known here.
pub(crate) fn hourly_usd(kind: &str) -> Option<f64> {
    HOURLY_USD.iter().find(|(known, _)| *known == kind).map(|(_, usd)| *usd)
}

/// What a month costs in which nobody uploads anything.
pub(crate) fn idle(idle: &Idle) -> Vec<Line> {
    let disk = if idle.disk_gib == 0 { USUAL_DISK_GIB } else { idle.disk_gib };
    let disks = f64::from(disk) * DISK_USD;
    let line = |what: String, usd: f64| Line { what, usd_per_month: Some(usd) };
    let mut lines = vec![
        line(
            format!("{} parked workers: only their disks of {disk} GiB", idle.parked),
            f64::from(idle.parked) * disks,
        ),
        line(format!("the workers' image: a snapshot of {disk} GiB at most"), f64::from(disk) * SNAPSHOT_USD),
    ];
    if let Some(kind) = &idle.web_type {
        let hourly = hourly_usd(kind);
        lines.push(Line {
            what: format!("the web host: {kind}, its disk and its address"),
            usd_per_month: hourly.map(|usd| (usd + ADDRESS_USD) * HOURS + disks),
        });
    }
    let requests = f64::from(idle.pools) * DEPTHS + POLLS;
    let paid = (requests - 1.0).max(0.0) * MILLION_REQUESTS_USD;
    lines.push(line(
        format!("SQS: {requests:.1} million requests to empty queues, the first of them free"),
        paid,
    ));
    lines.push(line(
        "S3: the claim of the controller, renewed every 20 seconds".to_owned(),
        CLAIMS * MILLION_WRITES_USD,
    ));
    lines.push(line("S3: what was uploaded and has not expired".to_owned(), 0.0));
    lines
}

/// The sum, and whether it is all of it.
pub(crate) fn sum(lines: &[Line]) -> (f64, bool) {
    let known = lines.iter().filter_map(|line| line.usd_per_month).sum();
    (known, lines.iter().all(|line| line.usd_per_month.is_some()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parked_workers_cost_their_disks_and_a_web_host_costs_its_hours() {
        let own = idle(&Idle { pools: 1, parked: 10, disk_gib: 0, web_type: None });
        assert_eq!(own[0].usd_per_month, Some(10.0 * 8.0 * 0.08));
        let launched = idle(&Idle { pools: 1, parked: 10, disk_gib: 0, web_type: Some("t3.small".into()) });
        let more = sum(&launched).0 - sum(&own).0;
        assert!((more - (0.0258 * 730.0 + 0.64)).abs() < 1e-9, "{more}");
    }

    #[test]
    fn the_documentation_tells_what_the_defaults_cost() {
        let page = include_str!("../../../docs/AWS.md");
        let lines = idle(&Idle { pools: 1, parked: 10, disk_gib: 0, web_type: Some("t3.small".into()) });
        for usd in lines.iter().filter_map(|line| line.usd_per_month).chain([sum(&lines).0]) {
            assert!(
                page.contains(&format!("| {usd:.2}")) || page.contains(&format!("**{usd:.2}**")),
                "{usd:.2}"
            );
        }
    }

    /// At full load a t3.small is five times as dear as its price, and dearer than a compute type
    /// of as many cores.
    #[test]
    fn full_work_of_a_burstable_type_is_priced_with_its_surplus() {
        let hour = |kind: &str| hourly_usd(kind).unwrap() + surplus_usd(kind).unwrap_or(0.0);
        assert!((hour("t3.small") - 0.1008).abs() < 1e-9, "{}", hour("t3.small"));
        assert!(hour("t3.small") > hour("c7i.large"));
        assert!((surplus_usd("t4g.large").unwrap() - 2.0 * 0.7 * 0.04).abs() < 1e-9);
        assert_eq!(surplus_usd("c7i.large"), None);
        assert!(["t2.micro", "t3.small", "t3a.large", "t4g.nano"].into_iter().all(is_burstable));
        assert!(!["c7i.large", "m7g.large", "trn1.2xlarge", "t30.x", ""].into_iter().any(is_burstable));
    }

    #[test]
    fn a_price_that_is_not_known_is_said_and_not_guessed() {
        let lines = idle(&Idle { pools: 1, parked: 1, disk_gib: 20, web_type: Some("x9.huge".into()) });
        assert!(!sum(&lines).1);
        assert!(lines.iter().any(|line| line.usd_per_month.is_none()));
    }
}
