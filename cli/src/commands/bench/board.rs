//! The results: printed as tables while the measurement runs, and as JSON.

use std::path::Path;

use anyhow::Context;
use serde::Serialize;

use crate::show;

/// All results.
#[derive(Debug, Serialize)]
pub(super) struct Board {
    cores: usize,
    tables: Vec<Table>,
    #[serde(skip)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Table {
    title: String,
    rows: Vec<Row>,
}

/// One figure.
#[derive(Debug, Serialize)]
struct Row {
    what: String,
    value: f64,
    unit: &'static str,
    /// The target, such as `>= 3000`; empty if there is none.
    bar: String,
    met: Option<bool>,
}

/// The target of a figure.
#[derive(Debug, Clone, Copy)]
pub(super) enum Bar {
    None,
    AtLeast(f64),
    AtMost(f64),
}

impl Board {
    pub(super) fn new(json: bool) -> Self {
        Self { cores: std::thread::available_parallelism().map_or(0, usize::from), tables: Vec::new(), json }
    }

    /// Starts a table, and prints the previous one.
    pub(super) fn table(&mut self, title: impl Into<String>) {
        self.show_last();
        self.tables.push(Table { title: title.into(), rows: Vec::new() });
    }

    pub(super) fn row(&mut self, what: impl Into<String>, value: f64, unit: &'static str, bar: Bar) {
        let (text, met) = match bar {
            Bar::None => (String::new(), None),
            Bar::AtLeast(bar) => (format!(">= {bar}"), known(value).map(|value| value >= bar)),
            Bar::AtMost(bar) => (format!("<= {bar}"), known(value).map(|value| value <= bar)),
        };
        if let Some(table) = self.tables.last_mut() {
            table.rows.push(Row { what: what.into(), value, unit, bar: text, met });
        }
    }

    fn show_last(&self) {
        let Some(table) = self.tables.last().filter(|_| !self.json) else { return };
        let rows: Vec<_> = table
            .rows
            .iter()
            .map(|row| {
                let met = row.met.map_or("", |met| if met { "met" } else { "missed" });
                vec![
                    row.what.clone(),
                    number(row.value),
                    row.unit.to_owned(),
                    row.bar.clone(),
                    met.to_owned(),
                ]
            })
            .collect();
        show::out(format_args!(
            "\n{}\n{}",
            table.title,
            show::table(&["", "measured", "unit", "asked", ""], &rows)
        ));
    }

    pub(super) fn finish(&self) {
        if self.json { show::json(self) } else { self.show_last() }
    }

    pub(super) fn write(&self, folder: &Path) -> anyhow::Result<()> {
        let file = folder.join("bench.json");
        let text = serde_json::to_string_pretty(self).context("writing the results")?;
        std::fs::create_dir_all(folder)
            .and_then(|()| std::fs::write(&file, text))
            .with_context(|| file.display().to_string())
    }
}

/// Returns `None` for a value that could not be measured (NaN), which neither meets nor misses a
/// target.
fn known(value: f64) -> Option<f64> {
    Some(value).filter(|value| !value.is_nan())
}

/// Formats a number with three significant digits.
fn number(value: f64) -> String {
    match value.abs() {
        v if v.is_nan() => "-".to_owned(),
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}
