//! Parses the line `name,label` of the protocol `once`, as people and libraries write it: plain,
//! with the quotation marks of CSV, or with another separator. A line that only resembles one is
//! refused, so that it does not become the label as a whole.

use std::path::Path;

use eirs_platform::formats::Format;

use super::{answer::quoted, label};

/// Separators of name and label. A colon is not one, because sentences contain it.
const SEPARATORS: [char; 3] = [',', ';', '\t'];
const QUOTES: [char; 2] = ['"', '\''];

/// Returns the names for the image that may precede the separator, most specific first.
pub(super) fn names(path: &Path) -> impl Iterator<Item = &str> {
    [
        path.to_str(),
        path.file_name().and_then(|name| name.to_str()),
        path.file_stem().and_then(|stem| stem.to_str()),
    ]
    .into_iter()
    .flatten()
}

/// Returns the text after the name and a separator, if the line starts with them. The name may be
/// preceded by any folder.
pub(super) fn after_name<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    if let Some(rest) =
        line.strip_prefix(name).and_then(|rest| rest.trim_start_matches(' ').strip_prefix(SEPARATORS))
    {
        return Some(rest.trim());
    }
    let (before, rest) = line.split_once(SEPARATORS)?;
    let last = before.trim().trim_matches(QUOTES).rsplit('/').next()?;
    // A stem may also be the beginning of a label, so its case must be the same.
    let is_it = last == name || (name.contains('.') && last.eq_ignore_ascii_case(name));
    is_it.then_some(rest.trim())
}

/// Returns the label in the text after the name.
pub(super) fn label_in_cell(cell: &str) -> Result<String, String> {
    label(&plain(cell)?)
}

/// Returns the label in a single line without the name of the image.
pub(super) fn label_in_line(line: &str, file: &Path) -> Result<String, String> {
    let first = line.split(SEPARATORS).next().unwrap_or(line).trim().trim_matches(QUOTES);
    if first.len() < line.len() && is_file_of_an_image(first) {
        return Err(format!("a result for another image: {}", quoted(line)));
    }
    if line.starts_with(SEPARATORS) {
        return Err(format!("no name before the comma: {}", quoted(line)));
    }
    // A stem may begin a label: `star.jpg` shows a star fish.
    let bare = line.trim_matches(QUOTES);
    let goes_on = |name: &str| bare.strip_prefix(name).is_some_and(|rest| !rest.is_empty());
    if names(file).take(2).any(|name| name.contains('.') && goes_on(name)) {
        return Err(format!(
            "a line that begins with the name of the image, without a comma after it: {}",
            quoted(line)
        ));
    }
    label(&plain(line)?)
}

fn is_file_of_an_image(cell: &str) -> bool {
    let ending = cell.rsplit_once('.').map(|(_, ending)| ending);
    ending.is_some_and(|ending| {
        Format::ALL
            .iter()
            .flat_map(|format| format.extensions())
            .any(|known| known.eq_ignore_ascii_case(ending))
    })
}

/// Removes the quotation marks of CSV and the separators of empty cells at the end.
pub(super) fn plain(cell: &str) -> Result<String, String> {
    let cell = cell.trim_end_matches([',', ';', ' ']);
    let structured = |c: char| "\"'[{(".contains(c);
    if cell.strip_prefix(['[', '{', '(']).is_some_and(|rest| rest.trim_start().starts_with(structured)) {
        return Err(format!(
            "a structure of a programming language where a label should be: {}",
            quoted(cell)
        ));
    }
    let Some(inner) = cell.strip_prefix('"') else { return Ok(cell.to_owned()) };
    let mut text = String::new();
    let mut rest = inner.chars();
    while let Some(c) = rest.next() {
        match c {
            '"' if rest.as_str().starts_with('"') => {
                text.push('"');
                rest.next();
            }
            '"' => break,
            c => text.push(c),
        }
    }
    match rest.as_str().trim_start() {
        "" if cell.len() > 1 && cell.ends_with('"') => Ok(text),
        after if after.starts_with(SEPARATORS) => {
            Err(format!("more cells than the name and the label: {}", quoted(cell)))
        }
        // The label begins with a quoted word.
        _ => Ok(cell.to_owned()),
    }
}
