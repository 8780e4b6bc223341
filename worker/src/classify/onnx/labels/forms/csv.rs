//! Parses CSV and TSV files with labels.

use anyhow::ensure;

use super::structured::in_order;

/// Headers of columns, most specific first.
const LABELS: [&str; 10] = [
    "label_name",
    "class_name",
    "display_name",
    "name",
    "names",
    "label",
    "labels",
    "class",
    "classes",
    "category",
];
const NUMBERS: [&str; 10] = [
    "index",
    "idx",
    "id",
    "class_id",
    "class_index",
    "class_idx",
    "label_id",
    "category_id",
    "label",
    "number",
];

/// Parses a column of labels, which is found by its header or else is the last one, and an optional
/// column of indexes.
pub(super) fn csv(text: &str) -> anyhow::Result<(Vec<String>, bool)> {
    let separator =
        [';', '\t', ','].into_iter().find(|c| text.lines().next().is_some_and(|head| head.contains(*c)));
    let rows: Vec<(usize, Vec<String>)> = (text.lines().enumerate())
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(at, line)| (at + 1, cells(line, separator.unwrap_or(','))))
        .collect();
    let columns = rows.first().map_or(0, |(_, row)| row.len());
    for (line, row) in &rows {
        ensure!(
            row.len() == columns,
            "line {line} has {} cells, and the first has {columns}; a label with a `{}` in it must be in \
             quotes",
            row.len(),
            separator.unwrap_or(',')
        );
    }
    let heads: Vec<String> = rows
        .iter()
        .take(1)
        .flat_map(|(_, row)| row)
        .map(|cell| cell.to_lowercase().replace(' ', "_"))
        .collect();
    let is_number = |rows: &[(usize, Vec<String>)], column: usize| {
        !rows.is_empty() && rows.iter().all(|(_, row)| row[column].parse::<usize>().is_ok())
    };
    // A row of numbers is not a header. A numeric column contains the labels only if no other
    // column does.
    let after_head = rows.get(1..).unwrap_or_default();
    let with_head = |heads_of: &[&str], numeric: bool| {
        let mut places = heads_of.iter().filter_map(|wanted| heads.iter().position(|head| head == wanted));
        places.find(|column| is_number(after_head, *column) == numeric)
    };
    let (labels, numbers) = (with_head(&LABELS, false), with_head(&NUMBERS, true));
    // A numeric column `label` on its own contains the labels.
    let labels =
        labels.or_else(|| with_head(&LABELS, true).filter(|column| Some(*column) != numbers || columns == 1));
    let numbers = numbers.filter(|column| Some(*column) != labels);
    let has_head = labels.is_some() || numbers.is_some();
    let body = if has_head { after_head } else { &rows[..] };
    let numbers =
        numbers.or_else(|| (0..columns).find(|column| columns > 1 && !has_head && is_number(body, *column)));
    let labels = labels.or_else(|| (0..columns).rev().find(|column| Some(*column) != numbers)).unwrap_or(0);
    let label = |row: &[String]| row[labels].clone();
    let Some(numbers) = numbers else {
        return Ok((body.iter().map(|(_, row)| label(row)).collect(), false));
    };
    let entries = body.iter().filter_map(|(_, row)| Some((row[numbers].parse().ok()?, label(row))));
    // Indexes may start at one.
    Ok((in_order(entries, true)?, true))
}

/// Splits a line into cells, which may be quoted.
fn cells(line: &str, separator: char) -> Vec<String> {
    let (mut cells, mut cell, mut quoted) = (Vec::new(), String::new(), false);
    let mut letters = line.trim_end().chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '"' if quoted && letters.peek() == Some(&'"') => cell.extend(letters.next()),
            '"' => quoted = !quoted,
            _ if letter == separator && !quoted => cells.push(std::mem::take(&mut cell).trim().to_owned()),
            _ => cell.push(letter),
        }
    }
    cells.push(cell.trim().to_owned());
    cells
}
