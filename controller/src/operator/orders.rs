//! The orders in force in a running controller: the last good version of a file that changes under
//! it.

use std::path::{Path, PathBuf};

use eirs_platform::state_folder::Stamp;

use super::{Cordon, FILE, Operator, Order, read};

/// The orders in force, and what is wrong with the file.
#[derive(Debug)]
pub struct Orders {
    state: PathBuf,
    operator: Operator,
    complaint: Option<String>,
    read: Option<Stamp>,
}

impl Orders {
    /// Of a state folder. `last` is in force where the file cannot be read now: what an earlier
    /// controller last obeyed.
    pub fn open(state: &Path, last: Operator) -> Self {
        let mut orders = Self { state: state.to_owned(), operator: last, complaint: None, read: None };
        orders.look();
        orders
    }

    /// What is in force.
    pub fn operator(&self) -> &Operator {
        &self.operator
    }

    /// What is wrong with the file as it is on disk.
    pub fn complaint(&self) -> Option<&str> {
        self.complaint.as_deref()
    }

    /// The folder of the file.
    pub fn folder(&self) -> &Path {
        &self.state
    }

    /// Reads the file again if it is another one now, and logs what is new.
    pub fn look(&mut self) {
        // Taken before the file is read: a change in between is seen by the next look.
        let stamp = Stamp::now(&self.state.join(FILE));
        if self.read.replace(stamp) == Some(stamp) {
            return;
        }
        match read(&self.state) {
            Ok(now) => {
                if self.complaint.take().is_some() {
                    tracing::info!("the operator's orders can be read again");
                }
                tell(&self.operator, &now);
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

/// One line for each order that was given or taken back.
fn tell(before: &Operator, now: &Operator) {
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
    fn a_change_is_seen_and_a_broken_file_leaves_the_last_good_one_in_force() {
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
    fn a_controller_that_starts_on_a_broken_file_obeys_what_the_last_one_obeyed() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(FILE), "{").unwrap();
        let last =
            Operator { all_paused: Some(Order::new(None, DateTime::UNIX_EPOCH)), ..Operator::default() };
        let orders = Orders::open(folder.path(), last.clone());
        assert_eq!(orders.operator(), &last);
        assert!(orders.complaint().is_some());
    }
}
