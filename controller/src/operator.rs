//! What an operator orders beyond the policies: pools that are paused, instances that are cordoned.
//!
//! The orders are in `operator.json` of the state folder, so that they outlive every process.
//! `eirs pause`, `cordon` and their opposites write the file whole; the controller looks at it in
//! every pass and is woken when it changes.

mod orders;

use std::{
    collections::BTreeMap,
    fmt,
    fs::File,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use chrono::{DateTime, Utc};
use eirs_platform::state_folder;
use serde::{Deserialize, Serialize};

pub use self::orders::Orders;
use crate::state_file;

/// The file's name in the state folder.
pub const FILE: &str = state_folder::OPERATOR;
/// Held while the file is changed, so that of two changes at once neither is lost.
pub const LOCK: &str = state_folder::OPERATOR_LOCK;
/// Raised when an older program would misread the file.
const VERSION: u32 = 1;

/// Everything that is ordered.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Operator {
    /// There while every pool is paused, also those to come.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub all_paused: Option<Order>,
    /// The pools that are paused by name.
    pub paused: BTreeMap<String, Order>,
    /// The instances that must not be started.
    pub cordoned: BTreeMap<String, Cordon>,
}

/// Who ordered it, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// When.
    pub since: DateTime<Utc>,
    /// The host's user, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// An instance is not started, and is the first to go when there are too many.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cordon {
    /// Since when.
    pub since: DateTime<Utc>,
    /// The host's user, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Whether it is drained now, needed or not.
    #[serde(default)]
    pub drain: bool,
}

/// Why the file says nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {problem}", .file.display())]
pub struct BadOrders {
    /// The file.
    pub file: PathBuf,
    /// What is wrong with it, and what would be right.
    pub problem: String,
}

impl Operator {
    /// The order that pauses a pool.
    pub fn paused(&self, pool: &str) -> Option<&Order> {
        self.paused.get(pool).or(self.all_paused.as_ref())
    }

    /// Whether an instance must not be started.
    pub fn is_cordoned(&self, instance: &str) -> bool {
        self.cordoned.contains_key(instance)
    }

    /// Whether an instance must go now.
    pub fn drains(&self, instance: &str) -> bool {
        self.cordoned.get(instance).is_some_and(|cordon| cordon.drain)
    }
}

impl Order {
    /// Of this user, from now on.
    pub fn new(by: Option<String>, since: DateTime<Utc>) -> Self {
        Self { since, by }
    }
}

impl fmt::Display for Order {
    /// `by alice, since 2026-02-03 04:05:06 UTC`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by = self.by.as_deref().unwrap_or("an unknown user");
        write!(f, "by {by}, since {}", self.since.format("%F %T UTC"))
    }
}

/// The file on the disk.
#[derive(Serialize, Deserialize)]
struct Written {
    version: u32,
    orders: Operator,
}

/// Reads the orders of a state folder; where there is no file, nothing is ordered.
pub fn read(state: &Path) -> Result<Operator, BadOrders> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let file = state.join(FILE);
    let bad = |problem: String| BadOrders { file: file.clone(), problem };
    let text = match std::fs::read(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Operator::default()),
        Err(error) => return Err(bad(format!("cannot be read: {error}"))),
    };
    let wrong = |error: serde_json::Error| {
        bad(format!(
            "was not written by `eirs pause` or `eirs cordon` ({error}); fix it, or delete it to \
            cancel all orders"
        ))
    };
    let version = serde_json::from_slice::<Versioned>(&text).map_err(wrong)?.version;
    if version != VERSION {
        return Err(bad(format!("has version {version}, this program knows version {VERSION}")));
    }
    let orders = serde_json::from_slice::<Written>(&text).map_err(wrong)?.orders;
    let mut names = orders.paused.keys().chain(orders.cordoned.keys());
    match names.find(|name| !is_good_name(name)) {
        Some(name) => Err(bad(format!("{name:?} is not a valid name of a pool or an instance"))),
        None => Ok(orders),
    }
}

/// Changes the orders of a state folder, one change at a time; answers what is ordered then.
pub fn change(state: &Path, change: impl FnOnce(&mut Operator)) -> Result<Operator, BadOrders> {
    let file = state.join(FILE);
    let failed = |error: std::io::Error| BadOrders {
        file: file.clone(),
        problem: format!("cannot be written: {error}"),
    };
    let lock = File::create(state.join(LOCK)).map_err(failed)?;
    // Its holder needs some milliseconds.
    lock.lock().map_err(failed)?;
    let mut orders = read(state)?;
    change(&mut orders);
    state_file::write(&file, &Written { version: VERSION, orders: orders.clone() }).map_err(failed)?;
    Ok(orders)
}

/// No path, no control character, nothing endless.
fn is_good_name(name: &str) -> bool {
    (1..=100).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order() -> Order {
        Order::new(Some("alice".into()), DateTime::UNIX_EPOCH)
    }

    #[test]
    fn what_is_ordered_is_read_back_and_a_pool_is_paused_by_its_name_or_with_all() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read(folder.path()).unwrap(), Operator::default());
        change(folder.path(), |orders| _ = orders.paused.insert("dogs".into(), order())).unwrap();
        let orders = read(folder.path()).unwrap();
        assert_eq!((orders.paused("dogs"), orders.paused("cats")), (Some(&order()), None));
        change(folder.path(), |orders| orders.all_paused = Some(order())).unwrap();
        let orders = read(folder.path()).unwrap();
        assert_eq!(orders.paused("cats").unwrap().to_string(), "by alice, since 1970-01-01 00:00:00 UTC");
    }

    #[test]
    fn of_many_changes_at_once_none_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for number in 0..16 {
                let state = folder.path();
                scope.spawn(move || {
                    change(state, |orders| _ = orders.paused.insert(format!("p{number}"), order())).unwrap();
                });
            }
        });
        assert_eq!(read(folder.path()).unwrap().paused.len(), 16);
    }

    #[test]
    fn a_broken_file_is_one_sentence_and_is_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        for (text, hint) in [
            ("", "was not written by `eirs pause` or `eirs cordon`"),
            ("[]", "was not written by"),
            (r#"{"version":1,"orders":{"pause":{}}}"#, "unknown field `pause`"),
            (r#"{"version":9,"orders":"of tomorrow"}"#, "has version 9, this program knows version 1"),
            (
                r#"{"version":1,"orders":{"paused":{"../x":{"since":"2026-01-01T00:00:00Z"}}}}"#,
                "is not a valid name of a pool",
            ),
        ] {
            let file = folder.path().join(FILE);
            std::fs::write(&file, text).unwrap();
            let error = read(folder.path()).unwrap_err().to_string();
            assert!(error.contains(hint) && !error.contains('\n'), "{text}: {error}");
            assert!(change(folder.path(), |orders| orders.paused.clear()).is_err());
            assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
        }
    }
}
