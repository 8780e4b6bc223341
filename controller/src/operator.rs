//! The operator's orders besides the policies: paused pools and cordoned instances.
//!
//! The orders are in `operator.json` of the state folder, so that they survive every process.
//! `eirs pause`, `eirs cordon` and their opposites replace the file; the controller checks it in
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

/// Name of the file in the state folder.
pub const FILE: &str = state_folder::OPERATOR;
/// Name of the lock file. The lock is held while the orders are changed, so that no concurrent
/// change is lost.
pub const LOCK: &str = state_folder::OPERATOR_LOCK;
/// Version of the format. It is increased when an older program would misread the file.
const VERSION: u32 = 1;

/// All orders of the operator.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Operator {
    /// Set while all pools are paused, including future ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub all_paused: Option<Order>,
    /// Pools that are paused individually, by name.
    pub paused: BTreeMap<String, Order>,
    /// Instances that must not be started, by id.
    pub cordoned: BTreeMap<String, Cordon>,
}

/// Who gave an order, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// Time of the order.
    pub since: DateTime<Utc>,
    /// User name on the host, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// A cordon: the instance is not started, and is drained first if there are too many.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cordon {
    /// Time of the order.
    pub since: DateTime<Utc>,
    /// User name on the host, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Whether the instance is drained now, even if it is needed.
    #[serde(default)]
    pub drain: bool,
}

/// Why the orders cannot be read or written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {problem}", .file.display())]
pub struct BadOrders {
    /// The file.
    pub file: PathBuf,
    /// What is wrong, and what would be right.
    pub problem: String,
}

impl Operator {
    /// The order that pauses a pool, if any.
    pub fn paused(&self, pool: &str) -> Option<&Order> {
        self.paused.get(pool).or(self.all_paused.as_ref())
    }

    /// Whether an instance must not be started.
    pub fn is_cordoned(&self, instance: &str) -> bool {
        self.cordoned.contains_key(instance)
    }

    /// Whether an instance must be drained now.
    pub fn drains(&self, instance: &str) -> bool {
        self.cordoned.get(instance).is_some_and(|cordon| cordon.drain)
    }
}

impl Order {
    /// Makes an order of a user.
    pub fn new(by: Option<String>, since: DateTime<Utc>) -> Self {
        Self { since, by }
    }
}

impl fmt::Display for Order {
    /// Formats it like `by alice, since 2026-02-03 04:05:06 UTC`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by = self.by.as_deref().unwrap_or("an unknown user");
        write!(f, "by {by}, since {}", self.since.format("%F %T UTC"))
    }
}

/// The content of the file.
#[derive(Serialize, Deserialize)]
struct Written {
    version: u32,
    orders: Operator,
}

/// Reads the orders of a state folder. Without a file there are none.
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

/// Changes the orders of a state folder under its lock, and returns the new orders.
pub fn change(state: &Path, change: impl FnOnce(&mut Operator)) -> Result<Operator, BadOrders> {
    let file = state.join(FILE);
    let failed = |error: std::io::Error| BadOrders {
        file: file.clone(),
        problem: format!("cannot be written: {error}"),
    };
    let lock = File::create(state.join(LOCK)).map_err(failed)?;
    // The lock is held for a few milliseconds at a time.
    lock.lock().map_err(failed)?;
    let mut orders = read(state)?;
    change(&mut orders);
    state_file::write(&file, &Written { version: VERSION, orders: orders.clone() }).map_err(failed)?;
    Ok(orders)
}

/// Whether a name has no path, no control characters and a bounded length.
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
    fn orders_are_read_back_and_a_pool_is_paused_by_name_or_with_all() {
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
    fn no_concurrent_change_is_lost() {
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
    fn an_invalid_file_is_reported_in_one_sentence_and_not_overwritten() {
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
