//! Checks a query: it must parse as PromQL, and use only metrics and labels of the catalogue.

use std::collections::BTreeSet;

use promql_parser::{
    label::{MatchOp, Matchers},
    parser::{AggregateExpr, BinaryExpr, Expr, LabelModifier, parse},
    util::{ExprVisitor, walk_expr},
};

use super::{Kind, Label, Metric, shown};

/// Labels that Prometheus adds to every scraped series.
const ADDED: [&str; 2] = ["instance", "job"];

/// Panics with `place` and the reason if the query is wrong; returns the labels of its metrics.
pub(super) fn check(place: &str, query: &str) -> BTreeSet<String> {
    let expression = parse(query).unwrap_or_else(|error| panic!("{place}: {query}: {error}"));
    let mut seen = Seen { place, labels: ADDED.map(str::to_owned).into(), metrics: 0, asked: Vec::new() };
    walk_expr(&mut seen, &expression)
        .unwrap_or_else(|complaint: String| panic!("{place}: {query}: {complaint}"));
    assert!(seen.metrics > 0, "{place}: {query}: names no metric");
    for label in seen.asked {
        assert!(seen.labels.contains(&label), "{place}: {query}: no metric here has a label `{label}`");
    }
    seen.labels
}

struct Seen<'a> {
    place: &'a str,
    labels: BTreeSet<String>,
    metrics: usize,
    /// Labels used for grouping or joining.
    asked: Vec<String>,
}

impl ExprVisitor for Seen<'_> {
    type Error = String;

    fn pre_visit(&mut self, expression: &Expr) -> Result<bool, String> {
        match expression {
            Expr::VectorSelector(selector) => self.metric(selector.name.as_deref(), &selector.matchers)?,
            Expr::MatrixSelector(selector) => {
                self.metric(selector.vs.name.as_deref(), &selector.vs.matchers)?;
            }
            Expr::Aggregate(AggregateExpr { modifier: Some(modifier), .. }) => self.asks(modifier),
            Expr::Binary(BinaryExpr { modifier: Some(modifier), .. }) => {
                modifier.matching.iter().for_each(|modifier| self.asks(modifier));
            }
            _ => {}
        }
        Ok(true)
    }
}

impl Seen<'_> {
    fn asks(&mut self, modifier: &LabelModifier) {
        let (LabelModifier::Include(labels) | LabelModifier::Exclude(labels)) = modifier;
        self.asked.extend(labels.labels.iter().cloned());
    }

    fn metric(&mut self, name: Option<&str>, matchers: &Matchers) -> Result<(), String> {
        let name = name.ok_or("a selector without a metric")?;
        let (metric, is_bucket) = find(name).ok_or_else(|| format!("there is no metric `{name}`"))?;
        self.metrics += 1;
        let mut labels: BTreeSet<String> = ADDED.map(str::to_owned).into();
        labels.extend(metric.labels().iter().map(|label| label.name().to_owned()));
        labels.extend(is_bucket.then(|| "le".to_owned()));
        for matcher in matchers.matchers.iter().chain(matchers.or_matchers.iter().flatten()) {
            if !labels.contains(&matcher.name) {
                return Err(format!("`{name}` has no label `{}`", matcher.name));
            }
            let label = metric.labels().iter().find(|label| label.name() == matcher.name);
            let alternatives: Vec<_> = match matcher.op {
                MatchOp::Equal | MatchOp::NotEqual => vec![matcher.value.as_str()],
                MatchOp::Re(_) | MatchOp::NotRe(_) => matcher.value.split('|').collect(),
            };
            for value in alternatives {
                let closed = label.copied().map_or(&[][..], Label::values);
                if !closed.is_empty() && !closed.contains(&value) {
                    return Err(format!("{}: `{}` is never `{value}`", self.place, matcher.name));
                }
            }
        }
        self.labels.append(&mut labels);
        Ok(())
    }
}

/// Returns the metric of a series, and whether the series is a histogram's bucket.
fn find(series: &str) -> Option<(Metric, bool)> {
    Metric::ALL.iter().find_map(|metric| match metric.kind() {
        Kind::Histogram => {
            let end = series.strip_prefix(metric.name())?;
            ["_bucket", "_sum", "_count"].contains(&end).then_some((*metric, end == "_bucket"))
        }
        Kind::Counter | Kind::Gauge => (series == shown(*metric)).then_some((*metric, false)),
    })
}

#[test]
fn a_query_with_an_unknown_metric_label_or_value_is_refused() {
    let refused = |query: &str| std::panic::catch_unwind(|| check("here", query)).is_err();
    assert!(!refused("sum by (answer) (rate(eirs_images_total[5m]))"));
    for wrong in [
        "sum by (answer (eirs_images_total)",
        "eirs_images",
        "eirs_image_total",
        "eirs_images_total{colour=\"blue\"}",
        "eirs_images_total{answer=\"maybe\"}",
        "sum by (pool) (eirs_images_total)",
        "rate(eirs_images_total)",
        "1 + 1",
    ] {
        assert!(refused(wrong), "{wrong}");
    }
}
