//! The orders in force in a running controller: the last valid version of the orders file.

use std::path::{Path, PathBuf};

use eirs_platform::state_folder::Stamp;

use super::{Cordon, FILE, Operator, Order, read};

/// The orders in force, and the complaint about the file, if any.
#[derive(Debug)]
pub struct Orders {
    state: PathBuf,
    operator: Operator,
    complaint: Option<String>,
    read: Option<Stamp>,
}

impl Orders {
    /// Reads the orders of a state folder. If the file cannot be read, `last` is in force: the
    /// orders of the previous controller.
    pub fn open(state: &Path, last: Operator) -> Self {
        let mut orders = Self { state: state.to_owned(), operator: last, complaint: None, read: None };
        orders.look();
        orders
    }

    /// The orders in force.
    pub fn operator(&self) -> &Operator {
        &self.operator
    }

    /// What is wrong with the file on disk, if anything.
    pub fn complaint(&self) -> Option<&str> {
        self.complaint.as_deref()
    }

    /// The folder of the file.
    pub fn folder(&self) -> &Path {
        &self.state
    }

    /// Reads the file again if it changed, and logs the changes of the orders.
    pub fn look(&mut self) {
        // Taken before the file is read, so that the next check sees a change in between.
        let stamp = Stamp::now(&self.state.join(FILE));
        if self.read.replace(stamp) == Some(stamp) {
            return;
        }
        match read(&self.state) {
            Ok(now) => {
                if self.complaint.take().is_some() {
                    tracing::info!("the operator's orders can be read again");
                }
                log_changes(&self.operator, &now);
                self.operator = now;
            }
            Err(error) => {
                let complaint = error.to_string();
                if self.complaint.as_ref() != Some(&complaint) {
                    tracing::error!(%error, "wrong orders, the last good ones stay in force: \
                        {error}");
                }
                self.complaint = Some(complaint);
            }
        }
    }
}

/// Logs a line for each order that was given or cancelled.
fn log_changes(before: &Operator, now: &Operator) {
    let by = |by: &Option<String>| by.clone().unwrap_or_else(|| "an unknown user".to_owned());
    let paused = |what: &str, was: Option<&Order>, is: Option<&Order>| match (was, is) {
        (None, Some(order)) => {
            tracing::warn!(
                by = order.by,
                "{what} paused by {}: nothing is done until `eirs resume`",
                by(&order.by)
            );
        }
        (Some(_), None) => tracing::info!("{what} resumed"),
        _ => {}
    };
    paused("every pool is", before.all_paused.as_ref(), now.all_paused.as_ref());
    let pools =
        before.paused.keys().chain(now.paused.keys().filter(|pool| !before.paused.contains_key(*pool)));
    for pool in pools {
        paused(&format!("the pool {pool} is"), before.paused.get(pool), now.paused.get(pool));
    }
    for (instance, cordon) in &now.cordoned {
        if before.cordoned.get(instance).map(|cordon| cordon.drain) != Some(cordon.drain) {
            let Cordon { by: user, drain, .. } = cordon;
            let and = if *drain { " and drained" } else { "" };
            tracing::info!(instance, by = user, "{instance} is cordoned{and} by {}", by(user));
        }
    }
    for instance in before.cordoned.keys().filter(|instance| !now.cordoned.contains_key(*instance)) {
        tracing::info!(instance, "{instance} is uncordoned");
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use chrono::DateTime;

    use super::{super::change, *};

    fn pause(folder: &Path, pool: &str) {
        let order = Order::new(None, DateTime::UNIX_EPOCH);
        change(folder, |orders| _ = orders.paused.insert(pool.to_owned(), order)).unwrap();
    }

    #[test]
    fn a_change_is_read_and_an_invalid_file_leaves_the_last_orders_in_force() {
        let folder = tempfile::tempdir().unwrap();
        let mut orders = Orders::open(folder.path(), Operator::default());
        pause(folder.path(), "dogs");
        orders.look();
        assert!(orders.operator().paused("dogs").is_some());
        fs::write(folder.path().join(FILE), "{").unwrap();
        orders.look();
        assert!(orders.operator().paused("dogs").is_some());
        let complaint = orders.complaint().unwrap();
        assert!(complaint.contains("operator.json: was not written by"), "{complaint}");
        fs::remove_file(folder.path().join(FILE)).unwrap();
        orders.look();
        assert_eq!((orders.operator(), orders.complaint()), (&Operator::default(), None));
    }

    #[test]
    fn a_controller_that_starts_with_an_invalid_file_keeps_the_last_orders() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(FILE), "{").unwrap();
        let last =
            Operator { all_paused: Some(Order::new(None, DateTime::UNIX_EPOCH)), ..Operator::default() };
        let orders = Orders::open(folder.path(), last.clone());
        assert_eq!(orders.operator(), &last);
        assert!(orders.complaint().is_some());
    }
}
