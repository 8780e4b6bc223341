//! Formats dead letters for a terminal.

use chrono::{DateTime, Utc};
use console::style;

use super::{Listing, desk::Desk, letter::Shown};
use crate::show::{ago, count, cut, plain, span, wrapped};

/// The indentation of text about a letter: two spaces, twelve digits of its id, two spaces.
const INDENT: usize = 16;

/// Formats the list for a terminal of this width.
pub(super) fn listing(listing: &Listing, desk: &Desk, width: usize) -> String {
    let mut text = match listing.letters.len() as u64 {
        0 => "There are no dead letters.\n".to_owned(),
        letters => format!("{}\n\n", count(letters, "dead letter")),
    };
    let one_model = desk.settings.models.len() == 1;
    listing.letters.iter().for_each(|letter| text += &of_letter(letter, one_model, width, Utc::now()));
    if listing.more > 0 {
        text += &format!("\nAbout {} more; -n shows more of them.\n", listing.more);
    }
    for other in &listing.others {
        let (letters, model) = (count(other.messages, "dead letter"), &other.model);
        text += &format!(
            "\n{letters} of `{model}`, which the settings do not have; --model {model} shows them.\n"
        );
    }
    if listing.held > 0 {
        let (held, lease) = (listing.held, span(desk.settings.queue.visibility));
        text += &format!("\nAbout {held} seem to be held by another command; they return within {lease}.\n");
    }
    text
}

fn of_letter(letter: &Shown, one_model: bool, width: usize, now: DateTime<Utc>) -> String {
    let id = &letter.id[..INDENT - 4];
    let name = letter.name.as_deref().map_or_else(|| "unreadable".to_owned(), plain);
    let mut remarks = Vec::new();
    if !one_model {
        remarks.push(format!("model {}", letter.model));
    }
    if letter.messages > 1 {
        remarks.push(count(letter.messages as u64, "message"));
    }
    let remarks = if remarks.is_empty() { String::new() } else { format!("  ({})", remarks.join(", ")) };
    let name = cut(&name, width.saturating_sub(INDENT + remarks.chars().count()));
    let mut when = match letter.name {
        Some(_) => format!("uploaded {}", ago(letter.uploaded_at, now)),
        None => format!("sent {}", ago(letter.uploaded_at, now)),
    };
    if let Some(given_up) = letter.given_up_at {
        when += &format!(", given up {}", ago(given_up, now));
    }
    if letter.image_stored == Some(false) {
        when += ", image no longer stored";
    }
    let said = wrapped(&format!("{when}: {}", plain(&letter.why)), INDENT, width);
    format!("  {id}  {}{remarks}\n{said}", style(name).bold())
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    fn shown(name: Option<&str>, why: &str) -> Shown {
        Shown {
            id: "7d865e959b2466918c9863afca942d0fb89d7c9ac0c99bafc3749504ded97730".into(),
            model: "default".into(),
            name: name.map(str::to_owned),
            uploaded_at: DateTime::UNIX_EPOCH,
            given_up_at: None,
            why: why.into(),
            image_stored: Some(true),
            messages: 1,
        }
    }

    #[test]
    fn letters_with_reasons_fit_in_eighty_columns() {
        let now = DateTime::UNIX_EPOCH + TimeDelta::seconds(7500);
        let given_up = Shown {
            given_up_at: Some(now - TimeDelta::seconds(90)),
            ..shown(Some("cat.jpg"), "it was tried 5 times without an answer")
        };
        let long =
            "delivered 8 times, and no worker lived to say why; or a new upload of it is being tried now";
        let lost = Shown { image_stored: Some(false), messages: 2, ..shown(Some(&"x".repeat(90)), long) };
        let unreadable = shown(None, "written in message version 7, this program reads up to 1");
        let text: String =
            [given_up, lost, unreadable].iter().map(|letter| of_letter(letter, false, 80, now)).collect();
        let text = console::strip_ansi_codes(&text);
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        insta::assert_snapshot!(text);
    }
}
