//! A read-only connection: in WAL mode, readers and writers do not wait for each other.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rusqlite::Connection;

use super::writer::{classified, keep_plans};
use crate::{error::Result, state_folder};

/// A shared handle on the connection.
#[derive(Debug, Clone)]
pub(crate) struct Reader(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    connection: Mutex<Connection>,
    path: PathBuf,
}

impl Reader {
    /// Opens the database in the folder; a writer must have created it.
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        let path = folder.join(state_folder::QUEUE);
        let open = || {
            let connection = Connection::open(&path)?;
            connection.busy_timeout(Duration::from_secs(5))?;
            connection.pragma_update(None, "query_only", true)?;
            keep_plans(&connection)?;
            Ok(connection)
        };
        let connection =
            open().map_err(|error| classified(format!("opening {}", path.display()), &error, &path))?;
        Ok(Self(Arc::new(Inner { connection: Mutex::new(connection), path })))
    }

    /// Reads on the calling thread. The query must use an index, because other readers wait
    /// meanwhile.
    pub(crate) fn read<T>(
        &self,
        what: &str,
        look: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T> {
        let connection = self.0.connection.lock().unwrap_or_else(PoisonError::into_inner);
        look(&connection)
            .map_err(|error| classified(format!("{what} in {}", self.0.path.display()), &error, &self.0.path))
    }
}
