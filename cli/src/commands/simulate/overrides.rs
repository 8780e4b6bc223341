//! Keys of a policy that are set on the command line. They are set in the text before it is parsed,
//! so that an error has the same message as in a file.

use std::str::FromStr;

use toml_edit::{ArrayOfTables, DocumentMut, Item, Table, Value};

/// A key and its value, such as `pool.max=15`.
#[derive(Debug, Clone)]
pub(super) struct Override {
    section: String,
    /// The number among several sections of the same name, from one.
    number: Option<usize>,
    key: String,
    value: Value,
}

impl FromStr for Override {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (path, value) = text.split_once('=').ok_or("must be KEY=VALUE, like pool.max=15")?;
        Self::new(path, value)
    }
}

impl Override {
    /// Parses a path such as `pool.max` or `rule[2].per_instance`, and a value, which is a string
    /// unless it is another TOML value.
    pub(super) fn new(path: &str, value: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "`{path}` must be a section and a key, like pool.max, rule.p95 or \
                rule[2].p95"
            )
        };
        let (section, key) = path.trim().split_once('.').ok_or_else(wrong)?;
        let (section, number) = match section.split_once('[') {
            None => (section, None),
            Some((section, number)) => {
                let number = number.strip_suffix(']').and_then(|number| number.parse().ok());
                (section, Some(number.filter(|number| *number > 0).ok_or_else(wrong)?))
            }
        };
        if section.is_empty() || key.is_empty() || key.contains(['.', '[', ' ']) {
            return Err(wrong());
        }
        let value = value.trim().parse().unwrap_or_else(|_| Value::from(value.trim()));
        Ok(Self { section: section.to_owned(), number, key: key.to_owned(), value })
    }

    fn set(&self, document: &mut DocumentMut) -> Result<(), String> {
        let Self { section, number, key, value } = self;
        let item = document.entry(section).or_insert_with(|| {
            if section == "rule" {
                Item::ArrayOfTables(ArrayOfTables::new())
            } else {
                Item::Table(Table::new())
            }
        });
        if let Some(tables) = item.as_array_of_tables_mut() {
            let count = tables.len();
            let place = match number {
                Some(number) if *number <= count => Some(number - 1),
                Some(number) => {
                    return Err(format!(
                        "{section}[{number}] does not exist; the policy \
                    has {count}"
                    ));
                }
                None => tables.iter().position(|table| table.contains_key(key)),
            };
            let table = place.and_then(|place| tables.get_mut(place));
            let none = || {
                format!(
                    "no {section} has the key `{key}`; choose a {section}, as in \
                {section}[1].{key}"
                )
            };
            table.ok_or_else(none)?.insert(key, Item::Value(value.clone()));
            return Ok(());
        }
        let table = item.as_table_like_mut().ok_or_else(|| format!("{section} is not a section"))?;
        table.insert(key, Item::Value(value.clone()));
        Ok(())
    }
}

/// Returns the text with these keys set. All other lines stay unchanged.
pub(super) fn apply(text: &str, overrides: &[Override]) -> Result<String, String> {
    // The parser of policies has a better error for invalid TOML.
    let Ok(mut document) = text.parse::<DocumentMut>() else { return Ok(text.to_owned()) };
    for one in overrides {
        one.set(&mut document)?;
    }
    Ok(document.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, set: &[&str], expected: &str) {
        let overrides: Vec<Override> = set.iter().map(|set| set.parse().unwrap()).collect();
        assert_eq!(apply(text, &overrides).unwrap(), expected);
    }

    #[test]
    fn keys_are_set_in_place_or_added_to_their_section() {
        check("[pool]\nmax = 3\n", &["pool.max=15", "pool.min=1"], "[pool]\nmax = 15\nmin = 1\n");
        check("", &["scale_in.idle=30s"], "[scale_in]\nidle = \"30s\"\n");
    }

    #[test]
    fn a_rule_is_the_first_with_the_key_or_the_numbered_one() {
        let two = "[[rule]]\nkind = 'latency'\n[[rule]]\nkind = 'backlog'\nper_instance = 9\n";
        check(two, &["rule.per_instance=4"], &two.replace('9', "4"));
        check(two, &["rule[1].p95=20s"], &two.replace("'latency'\n", "'latency'\np95 = \"20s\"\n"));
        let said = apply(two, &["rule.colour=3".parse().unwrap()]).unwrap_err();
        assert!(said.contains("no rule has the key `colour`"), "{said}");
        assert!(apply(two, &["rule[3].p95=1s".parse().unwrap()]).unwrap_err().contains("the policy has 2"));
    }

    #[test]
    fn invalid_keys_are_refused() {
        for bad in ["max=3", "pool.max", "rule[x].p95=3", "rule[0].p95=3", "pool.a.b=3"] {
            assert!(bad.parse::<Override>().is_err(), "{bad}");
        }
    }
}
