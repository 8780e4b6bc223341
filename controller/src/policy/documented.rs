//! The tables of `policies/README.md` contain exactly the keys that are read, with their ranges and
//! defaults, and the examples are valid.

use std::{collections::BTreeSet, path::Path};

use super::{Complaint, Policy, parse};

const README: &str = include_str!("../../../policies/README.md");
/// A word that is no key and similar to none.
const UNKNOWN: &str = "zzzz";

/// A table of the README: the heading above it, and the text around a key of it.
struct Table {
    heading: String,
    before: String,
    after: &'static str,
}

/// A row of a table.
#[derive(Debug)]
struct Row<'a> {
    key: &'a str,
    range: &'a str,
    default: &'a str,
}

fn read(text: &str) -> Result<Policy, Vec<Complaint>> {
    parse(Path::new("p.toml"), text)
}

/// The complaint about a key.
#[track_caller]
fn problem(text: &str, key: &str) -> String {
    let complaints = read(text).expect_err(text);
    let about = |complaint: &&Complaint| {
        let path = complaint.key.as_deref().unwrap_or_default();
        path == key || path.ends_with(&format!(".{key}"))
    };
    complaints.iter().find(about).unwrap_or_else(|| panic!("{key}: {complaints:?}")).problem.clone()
}

/// The known words in a place, as listed in the complaint about an unknown one.
#[track_caller]
fn known(text: &str, key: &str) -> BTreeSet<String> {
    let problem = problem(text, key);
    let (_, words) = problem.split_once("known ones are ").expect("a list");
    words.split(", ").map(|word| word.trim_matches('"').to_owned()).collect()
}

fn kinds() -> BTreeSet<String> {
    known(&format!("[[rule]]\nkind = '{UNKNOWN}'"), "kind")
}

fn sections() -> BTreeSet<String> {
    known(&format!("{UNKNOWN} = 1"), UNKNOWN)
}

fn tables() -> Vec<Table> {
    let plain = sections().into_iter().filter(|name| name != "rule");
    let plain = plain.map(|name| Table {
        heading: format!("### `[{name}]`"),
        before: format!("[{name}]\n"),
        after: "",
    });
    let rules = kinds().into_iter().map(|kind| Table {
        heading: format!("### `kind = \"{kind}\"`"),
        before: format!("[[rule]]\nkind = '{kind}'\n"),
        after: "",
    });
    let step = Table {
        heading: "### `kind = \"step\"`".to_owned(),
        before: "[[rule]]\nkind = 'step'\nsteps = [{ ".to_owned(),
        after: " }]",
    };
    plain.chain(rules).chain([step]).collect()
}

impl Table {
    fn rows(&self) -> Vec<Row<'static>> {
        let (_, after) = README.split_once(&format!("\n{}\n", self.heading)).expect(&self.heading);
        let lines = after.split("\n#").next().unwrap().lines();
        let cells = lines.filter_map(|line| line.strip_prefix("| `")).map(|line| line.split(" | "));
        cells
            .map(|mut cells| {
                let key = cells.next().unwrap().trim_end_matches('`');
                let (_unit, range) = (cells.next(), cells.next().unwrap());
                Row { key, range, default: cells.next().unwrap() }
            })
            .collect()
    }

    fn with(&self, key: &str, value: &str) -> String {
        format!("{}{key} = {value}{}", self.before, self.after)
    }

    fn known(&self) -> BTreeSet<String> {
        let mut known = known(&self.with(UNKNOWN, "1"), UNKNOWN);
        known.remove("kind");
        known
    }
}

/// The text in the first backticks.
fn quoted(cell: &str) -> Option<&str> {
    cell.strip_prefix('`')?.split('`').next()
}

#[test]
fn the_tables_contain_exactly_the_keys_that_are_read() {
    for name in sections() {
        let heading = if name == "rule" { "### `[[rule]]`".to_owned() } else { format!("### `[{name}]`") };
        assert!(README.contains(&format!("\n{heading}\n")), "{heading}");
    }
    let step = "### `kind = \"step\"`";
    for table in tables() {
        let mut known = table.known();
        if table.heading == step {
            // Its table also has the keys of a step.
            known = tables().iter().filter(|table| table.heading == step).flat_map(Table::known).collect();
        }
        let documented: BTreeSet<_> = table.rows().iter().map(|row| row.key.to_owned()).collect();
        assert_eq!(documented, known, "{}", table.heading);
    }
    let documented = README.lines().filter(|line| line.starts_with("### `kind = ")).count();
    assert_eq!(documented, kinds().len());
    assert!(kinds().iter().all(|kind| README.contains(&format!("`{kind}`"))));
}

#[test]
fn the_documented_ranges_are_those_that_are_checked() {
    let mut checked = 0;
    for table in tables() {
        let known = table.known();
        for row in table.rows().iter().filter(|row| known.contains(row.key)) {
            let Some(range) = quoted(row.range).filter(|range| range.contains(" to ")) else { continue };
            let problem = problem(&table.with(row.key, "-1"), row.key);
            assert!(problem.ends_with(&format!("from {range}")), "{} {row:?}: {problem}", table.heading);
            checked += 1;
        }
    }
    assert!(checked >= 20, "{checked}");
}

#[test]
fn the_documented_defaults_are_those_that_are_used() {
    let mut checked = 0;
    for table in tables() {
        let rest = if table.before.contains("'schedule'") {
            "\ncron = '0 8 * * *'\nduration = '1h'\ninstances = 1"
        } else {
            ""
        };
        for row in table.rows() {
            let Some(default) = quoted(row.default) else {
                assert!(matches!(row.default, "none" | "required"), "{row:?}");
                continue;
            };
            let with = read(&(table.with(row.key, default) + rest));
            assert_eq!(with, read(&(table.before.clone() + rest)), "{row:?}");
            checked += 1;
        }
    }
    assert!(checked >= 15, "{checked}");
}

#[test]
fn every_documented_policy_is_valid() {
    let shown: Vec<_> = README.split("```toml\n").skip(1).map(|after| after.split("```").next()).collect();
    assert!(shown.len() >= 6);
    for text in shown {
        let policy = read(text.unwrap()).unwrap();
        assert!(!policy.rules.is_empty());
    }
}
