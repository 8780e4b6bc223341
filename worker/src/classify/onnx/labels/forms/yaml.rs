//! Parses the subset of YAML used for labels: a list or a map of plain or quoted strings, at the
//! top level or under a key (`data.yaml` of Ultralytics). Anything else is refused rather than
//! guessed.

use anyhow::{Context, bail, ensure};

use super::{
    literal::{Literal, flow, quoted},
    structured::{is_key, structured},
};

/// Returns the text after a key for labels at the start of a line.
fn after_key(line: &str) -> Option<&str> {
    let (key, rest) = line.split_once(':').filter(|_| !line.starts_with([' ', '\t', '-', '#']))?;
    is_key(key.trim().trim_matches(['"', '\''])).then(|| without_comment(rest))
}

pub(super) fn yaml(text: &str) -> anyhow::Result<(Vec<String>, bool)> {
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    let is_empty = |line: &str| line.trim().is_empty() || line.trim_start().starts_with('#') || line == "---";
    let keyed = lines.iter().enumerate().find_map(|(at, line)| Some((at, after_key(line)?)));
    let block = match keyed {
        Some((at, "")) => {
            let is_next =
                |line: &&&str| is_empty(line) || line.starts_with([' ', '\t']) || line.starts_with("- ");
            let inner = lines[at + 1..].iter().take_while(is_next);
            (at + 1, inner.copied().collect::<Vec<_>>())
        }
        Some((at, rest)) => {
            let from = lines[at].len() - lines[at].split_once(':').map_or(0, |(_, rest)| rest.len());
            let all = std::iter::once(&lines[at][from..]).chain(lines[at + 1..].iter().copied());
            let all = all.collect::<Vec<_>>().join("\n");
            ensure!(rest.starts_with(['[', '{']), "line {}: {rest:?} is no list of labels", at + 1);
            let value = flow(&all).with_context(|| format!("line {}: this list cannot be read", at + 1))?;
            return structured(&value);
        }
        None => (0, lines.clone()),
    };
    let (before, lines) = block;
    let (mut list, mut map, mut indent) = (Vec::new(), Vec::new(), None);
    for (at, line) in lines.iter().enumerate().filter(|(_, line)| !is_empty(line)) {
        let place = || format!("line {}: {:?} is no label", before + at + 1, line.trim());
        let trimmed = line.trim_start();
        let depth = *indent.get_or_insert(line.len() - trimmed.len());
        ensure!(line.len() - trimmed.len() == depth, "{}: it is nested", place());
        if let Some(item) = trimmed.strip_prefix("- ") {
            let label = scalar(item).with_context(place)?;
            list.push(Literal::Text(label.scalar().unwrap_or_default().to_owned()));
        } else {
            let (key, value) = match quoted(trimmed) {
                Some((key, rest)) => (key, rest.trim_start().strip_prefix(':').with_context(place)?),
                None => {
                    let (key, value) = trimmed.split_once(':').with_context(place)?;
                    (key.trim().to_owned(), value)
                }
            };
            map.push((plain(key), scalar(value).with_context(place)?));
        }
    }
    match (list.is_empty(), map.is_empty()) {
        (false, true) => structured(&Literal::List(list)),
        (true, false) => structured(&Literal::Map(map)),
        _ => bail!("there is no list of labels, by itself or under `names`"),
    }
}

/// Parses a label as it is written; in YAML itself, `no` would be a boolean.
fn scalar(text: &str) -> Option<Literal> {
    let text = text.trim();
    if let Some((label, rest)) = quoted(text) {
        return without_comment(rest).is_empty().then_some(Literal::Text(label));
    }
    let text = without_comment(text);
    let is_plain = !text.is_empty()
        && !text.starts_with(['&', '*', '|', '>', '!', '%', '@', '`', '[', '{', '"', '\''])
        && !text.contains(": ")
        && !text.ends_with(':');
    is_plain.then(|| plain(text.to_owned()))
}

/// Returns a number, or else a string.
fn plain(text: String) -> Literal {
    if text.parse::<usize>().is_ok() { Literal::Number(text) } else { Literal::Text(text) }
}

fn without_comment(text: &str) -> &str {
    if text.trim_start().starts_with('#') {
        return "";
    }
    text.split(" #").next().unwrap_or_default().trim()
}
