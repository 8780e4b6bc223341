//! The text format that precedes OpenMetrics, for scrapers that do not accept the newer one: the
//! same samples with less metadata.

use super::{Kind, Metric};

/// Converts from OpenMetrics: a counter is announced by the name of its series; units and the end
/// marker are left out.
pub(crate) fn classic(openmetrics: &str) -> String {
    let mut text = String::with_capacity(openmetrics.len());
    for line in openmetrics.lines() {
        match line.strip_prefix("# ").map(|said| said.split(' ').collect::<Vec<_>>()).as_deref() {
            Some(["UNIT" | "EOF", ..]) => continue,
            Some([what, name, said @ ..]) => {
                let total = if is_counter(name) { "_total" } else { "" };
                text += &format!("# {what} {name}{total} {}", said.join(" "));
            }
            _ => text += line,
        }
        text.push('\n');
    }
    text
}

fn is_counter(name: &str) -> bool {
    Metric::ALL.iter().any(|metric| metric.name() == name && metric.kind() == Kind::Counter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_announced_by_their_series_and_without_unit_and_end_marker() {
        let openmetrics = "\
# HELP eirs_images Images, by how they were answered.
# TYPE eirs_images counter
eirs_images_total{answer=\"cached\"} 1
# HELP eirs_upload_seconds Time from an upload request to its response.
# TYPE eirs_upload_seconds histogram
# UNIT eirs_upload_seconds seconds
eirs_upload_seconds_sum 0.5
# EOF
";
        let expected = "\
# HELP eirs_images_total Images, by how they were answered.
# TYPE eirs_images_total counter
eirs_images_total{answer=\"cached\"} 1
# HELP eirs_upload_seconds Time from an upload request to its response.
# TYPE eirs_upload_seconds histogram
eirs_upload_seconds_sum 0.5
";
        assert_eq!(classic(openmetrics), expected);
    }
}
