//! Estimates the cost of an idle installation, with prices of us-east-1 without tax from AWS's
//! price list of 2025; other regions cost up to a third more.

use serde::Serialize;

/// Hours of an average month.
const HOURS: f64 = 730.0;
/// USD per GiB and month of gp3, and of a snapshot.
const DISK_USD: f64 = 0.08;
const SNAPSHOT_USD: f64 = 0.05;
/// USD per hour of a public IPv4 address.
const ADDRESS_USD: f64 = 0.005;
/// USD per million requests to SQS; the first million per month is free.
const MILLION_REQUESTS_USD: f64 = 0.40;
/// Millions of requests of an idle service to SQS per month: a depth every five seconds for each
/// pool, and three long polls per minute by each of two waiting receivers.
const DEPTHS: f64 = 12.0 * 60.0 * HOURS / 1e6;
const POLLS: f64 = 2.0 * 3.0 * 60.0 * HOURS / 1e6;
/// Millions of writes of the controller to S3 per month, for its claim, three times per minute
/// (`platform/src/backend/claim.rs`), and USD per million writes.
const CLAIMS: f64 = 3.0 * 60.0 * HOURS / 1e6;
const MILLION_WRITES_USD: f64 = 5.0;
/// The default size of a system disk, in GiB.
const USUAL_DISK_GIB: u32 = 8;

/// USD per hour of common instance types.
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

/// USD per vCPU hour above the baseline of burstable types without credits, by family ("Amazon EC2
/// On-Demand Pricing", T2/T3/T4g Unlimited Mode, Linux, us-east-1, 2025).
const SURPLUS_USD: [(&str, f64); 3] = [("t3", 0.05), ("t3a", 0.05), ("t4g", 0.04)];
/// vCPUs of the sizes of these families, and the baseline share of each (EC2 user guide, "Key
/// concepts for burstable performance instances").
const BASELINES: [(&str, f64, f64); 7] = [
    ("nano", 2.0, 0.05),
    ("micro", 2.0, 0.10),
    ("small", 2.0, 0.20),
    ("medium", 2.0, 0.20),
    ("large", 2.0, 0.30),
    ("xlarge", 4.0, 0.40),
    ("2xlarge", 8.0, 0.40),
];

/// Returns whether an instance type uses CPU credits.
pub(crate) fn is_burstable(kind: &str) -> bool {
    let family = kind.split('.').next().unwrap_or_default();
    family == "t2" || SURPLUS_USD.iter().any(|(known, _)| *known == family)
}

/// Returns the USD per hour of full load on a burstable type in addition to its price, without
/// credits. A newly launched machine has none, and surplus credits are charged when it stops (EC2
/// user guide, "Unlimited mode for burstable performance instances").
pub(crate) fn surplus_usd(kind: &str) -> Option<f64> {
    let (family, size) = kind.split_once('.')?;
    let (_, usd) = SURPLUS_USD.iter().find(|(known, _)| *known == family)?;
    let (_, cores, share) = BASELINES.iter().find(|(known, ..)| *known == size)?;
    Some(cores * (1.0 - share) * usd)
}

/// The resources that cost money.
#[derive(Debug, Clone)]
pub(crate) struct Idle {
    pub(crate) pools: u32,
    pub(crate) parked: u32,
    /// 0 for the default.
    pub(crate) disk_gib: u32,
    /// The instance type of a web host that always runs; `None` if the operator provides the host.
    pub(crate) web_type: Option<String>,
}

/// A line of the estimate.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Line {
    pub(crate) what: String,
    /// `None` if the price is unknown.
    pub(crate) usd_per_month: Option<f64>,
}

/// Returns the USD per hour of an instance type, if known.
pub(crate) fn hourly_usd(kind: &str) -> Option<f64> {
    HOURLY_USD.iter().find(|(known, _)| *known == kind).map(|(_, usd)| *usd)
}

/// Estimates the cost of a month without uploads.
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

/// Returns the sum, and whether it includes all lines.
pub(crate) fn sum(lines: &[Line]) -> (f64, bool) {
    let known = lines.iter().filter_map(|line| line.usd_per_month).sum();
    (known, lines.iter().all(|line| line.usd_per_month.is_some()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parked_workers_cost_disks_and_a_web_host_costs_hours() {
        let own = idle(&Idle { pools: 1, parked: 10, disk_gib: 0, web_type: None });
        assert_eq!(own[0].usd_per_month, Some(10.0 * 8.0 * 0.08));
        let launched = idle(&Idle { pools: 1, parked: 10, disk_gib: 0, web_type: Some("t3.small".into()) });
        let more = sum(&launched).0 - sum(&own).0;
        assert!((more - (0.0258 * 730.0 + 0.64)).abs() < 1e-9, "{more}");
    }

    #[test]
    fn the_documentation_has_the_cost_of_the_defaults() {
        let page = include_str!("../../../docs/AWS.md");
        let lines = idle(&Idle { pools: 1, parked: 10, disk_gib: 0, web_type: Some("t3.small".into()) });
        for usd in lines.iter().filter_map(|line| line.usd_per_month).chain([sum(&lines).0]) {
            assert!(
                page.contains(&format!("| {usd:.2}")) || page.contains(&format!("**{usd:.2}**")),
                "{usd:.2}"
            );
        }
    }

    /// At full load a t3.small costs five times its price, and more than a compute type with as
    /// many cores.
    #[test]
    fn full_load_of_a_burstable_type_is_priced_with_its_surplus() {
        let hour = |kind: &str| hourly_usd(kind).unwrap() + surplus_usd(kind).unwrap_or(0.0);
        assert!((hour("t3.small") - 0.1008).abs() < 1e-9, "{}", hour("t3.small"));
        assert!(hour("t3.small") > hour("c7i.large"));
        assert!((surplus_usd("t4g.large").unwrap() - 2.0 * 0.7 * 0.04).abs() < 1e-9);
        assert_eq!(surplus_usd("c7i.large"), None);
        assert!(["t2.micro", "t3.small", "t3a.large", "t4g.nano"].into_iter().all(is_burstable));
        assert!(!["c7i.large", "m7g.large", "trn1.2xlarge", "t30.x", ""].into_iter().any(is_burstable));
    }

    #[test]
    fn an_unknown_price_is_reported_and_not_guessed() {
        let lines = idle(&Idle { pools: 1, parked: 1, disk_gib: 20, web_type: Some("x9.huge".into()) });
        assert!(!sum(&lines).1);
        assert!(lines.iter().any(|line| line.usd_per_month.is_none()));
    }
}
