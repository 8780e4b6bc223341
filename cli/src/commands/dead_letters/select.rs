//! Finds letters by prefixes of their ids.

use std::collections::HashSet;

use super::{
    desk::{Desk, Pile},
    held::Held,
    letter::Letter,
};
use crate::{Stop, show};

/// The selected letters of each pile that has some.
pub(super) struct Selection<'a> {
    piles: Vec<(&'a Pile, Held, Vec<Letter>)>,
}

/// Number of names in a question.
const NAMES: usize = 10;

/// Holds the letters with these ids. All piles are searched, because a prefix must be unique.
pub(super) async fn by_ids<'a>(
    desk: &Desk,
    piles: &'a [Pile],
    ids: &[String],
) -> Result<Selection<'a>, Stop> {
    let mut found = Selection { piles: Vec::new() };
    for pile in piles {
        match desk.collect(pile, usize::MAX).await {
            Ok((held, letters)) => found.piles.push((pile, held, letters)),
            Err(error) => {
                found.give_back().await;
                return Err(error.into());
            }
        }
    }
    let letters: Vec<_> = found.piles.iter().flat_map(|(_, _, letters)| letters).collect();
    let chosen = choose(&letters, ids).map(|chosen| {
        let chosen = chosen.into_iter().map(|letter| (letter.id, letter.model.clone()));
        chosen.collect::<HashSet<_>>()
    });
    let chosen = match (chosen, desk.expect_no_signal()) {
        (Ok(chosen), Ok(())) => chosen,
        (refused, interrupted) => {
            found.give_back().await;
            interrupted?;
            return Err(Stop::Usage(refused.err().unwrap_or_default()));
        }
    };
    for (_, held, letters) in &mut found.piles {
        letters.retain(|letter| chosen.contains(&(letter.id, letter.model.clone())));
        let kept = letters.iter().flat_map(|letter| letter.receipts.iter().cloned()).collect();
        held.give_back_all_but(&kept).await;
    }
    Ok(found)
}

/// Returns the letter of each id, or the error of an id.
fn choose<'a>(letters: &[&'a Letter], ids: &[String]) -> Result<Vec<&'a Letter>, String> {
    let mut chosen = Vec::new();
    for id in ids {
        let wanted = id.to_lowercase();
        let meant: Vec<_> =
            letters.iter().filter(|letter| letter.id.to_string().starts_with(&wanted)).collect();
        match meant.as_slice() {
            [one] => chosen.push(**one),
            [] => {
                return Err(format!(
                    "unknown dead letter `{id}`; `eirs dead-letters list` shows \
                them"
                ));
            }
            [first, second, ..] if first.id == second.id => {
                let (one, other) = (&first.model, &second.model);
                return Err(format!(
                    "`{id}` exists for the models {one} and {other}; choose one \
                    with --model"
                ));
            }
            several => {
                let shown: Vec<_> = several.iter().take(3).map(|letter| letter.short_id()).collect();
                let count = several.len();
                return Err(format!(
                    "`{id}` is the beginning of {count} ids ({}, ...); write more of it",
                    shown.join(", ")
                ));
            }
        }
    }
    Ok(chosen)
}

impl Selection<'_> {
    pub(super) fn piles(&self) -> impl Iterator<Item = (&Pile, &Held, &[Letter])> {
        self.piles.iter().map(|(pile, held, letters)| (*pile, held, letters.as_slice()))
    }

    /// Formats the selection for a question: `cat.jpg (7d865e959b24), dog.jpg (...)`.
    pub(super) fn names(&self) -> String {
        let letters: Vec<_> = self.piles.iter().flat_map(|(_, _, letters)| letters).collect();
        let name = |letter: &&Letter| match letter.name() {
            "" => letter.short_id(),
            name => format!("{} ({})", show::plain(name), letter.short_id()),
        };
        let shown: Vec<_> = letters.iter().take(NAMES).map(name).collect();
        let more = match letters.len().saturating_sub(NAMES) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        format!("{}{more}", shown.join(", "))
    }

    /// Gives back all letters.
    pub(super) async fn give_back(&self) {
        for (_, held, _) in &self.piles {
            held.give_back().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use eirs_platform::job::JobId;

    use super::*;

    fn letter(model: &str, content: &[u8]) -> Letter {
        Letter {
            id: JobId::of(content),
            model: model.into(),
            job: Err("not a message".into()),
            sent_at: DateTime::UNIX_EPOCH,
            receipts: Vec::new(),
        }
    }

    #[test]
    fn a_prefix_must_be_unique() {
        // ba7816bf... and ca978112... are the digests of `abc` and `a`.
        let (abc, a) = (letter("default", b"abc"), letter("default", b"a"));
        let choose = |ids: &[&str], letters: &[&Letter]| {
            let ids: Vec<_> = ids.iter().map(|id| (*id).to_owned()).collect();
            choose(letters, &ids).map(|chosen| chosen.iter().map(|letter| letter.id).collect::<Vec<_>>())
        };
        assert_eq!(choose(&["BA78", "c"], &[&abc, &a]), Ok(vec![abc.id, a.id]));
        let unknown = choose(&["ffff"], &[&abc, &a]).unwrap_err();
        assert_eq!(unknown, "unknown dead letter `ffff`; `eirs dead-letters list` shows them");
        let vague = choose(&[""], &[&abc, &a]).unwrap_err();
        assert_eq!(
            vague,
            "`` is the beginning of 2 ids (ba7816bf8f01, ca978112ca1b, ...); write \
            more of it"
        );
        let twice = choose(&["ba"], &[&abc, &letter("dogs", b"abc")]).unwrap_err();
        assert_eq!(twice, "`ba` exists for the models default and dogs; choose one with --model");
    }
}
