//! The tables of `policies/README.md` have every key that is read, with its true range and default,
//! and no other; what it shows is good.

use std::{collections::BTreeSet, path::Path};

use super::{Complaint, Policy, parse};

const README: &str = include_str!("../../../policies/README.md");
/// No key, and like none.
const NOBODY: &str = "zzzz";

/// A table of the README: the heading above it, and a text in which a key can be set.
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

/// What the reader says is wrong with a key.
#[track_caller]
fn problem(text: &str, key: &str) -> String {
    let complaints = read(text).expect_err(text);
    let about = |complaint: &&Complaint| {
        let path = complaint.key.as_deref().unwrap_or_default();
        path == key || path.ends_with(&format!(".{key}"))
    };
    complaints.iter().find(about).unwrap_or_else(|| panic!("{key}: {complaints:?}")).problem.clone()
}

/// The words that the reader knows in a place, as it lists them when it sees one that it does not
/// know.
#[track_caller]
fn known(text: &str, key: &str) -> BTreeSet<String> {
    let problem = problem(text, key);
    let (_, words) = problem.split_once("known ones are ").expect("a list");
    words.split(", ").map(|word| word.trim_matches('"').to_owned()).collect()
}

fn kinds() -> BTreeSet<String> {
    known(&format!("[[rule]]\nkind = '{NOBODY}'"), "kind")
}

fn sections() -> BTreeSet<String> {
    known(&format!("{NOBODY} = 1"), NOBODY)
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
        let mut known = known(&self.with(NOBODY, "1"), NOBODY);
        known.remove("kind");
        known
    }
}

/// What stands first in backticks.
fn quoted(cell: &str) -> Option<&str> {
    cell.strip_prefix('`')?.split('`').next()
}

#[test]
fn the_tables_have_the_keys_that_are_read_and_no_other() {
    for name in sections() {
        let heading = if name == "rule" { "### `[[rule]]`".to_owned() } else { format!("### `[{name}]`") };
        assert!(README.contains(&format!("\n{heading}\n")), "{heading}");
    }
    let step = "### `kind = \"step\"`";
    for table in tables() {
        let mut known = table.known();
        if table.heading == step {
            // Its table has the keys of a step, too.
            known = tables().iter().filter(|table| table.heading == step).flat_map(Table::known).collect();
        }
        let told: BTreeSet<_> = table.rows().iter().map(|row| row.key.to_owned()).collect();
        assert_eq!(told, known, "{}", table.heading);
    }
    let documented = README.lines().filter(|line| line.starts_with("### `kind = ")).count();
    assert_eq!(documented, kinds().len());
    assert!(kinds().iter().all(|kind| README.contains(&format!("`{kind}`"))));
}

#[test]
fn the_ranges_are_those_that_are_read() {
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
fn the_defaults_are_those_that_are_taken() {
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
fn every_policy_that_is_shown_is_good() {
    let shown: Vec<_> = README.split("```toml\n").skip(1).map(|after| after.split("```").next()).collect();
    assert!(shown.len() >= 6);
    for text in shown {
        let policy = read(text.unwrap()).unwrap();
        assert!(!policy.rules.is_empty());
    }
}
