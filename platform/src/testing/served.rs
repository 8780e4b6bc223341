//! An external server for a test: a process that writes its address to a file, and ends when its
//! stdin is closed.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// Maximum time for the start, on a busy machine.
const NEVER: Duration = Duration::from_secs(120);

/// A running server. It ends with this value, and with the process that holds it.
#[derive(Debug)]
pub struct Served {
    child: Child,
    /// Its address, `127.0.0.1:PORT`.
    pub address: String,
    _folder: tempfile::TempDir,
}

impl Served {
    /// Starts the command made for this file, and waits until the file has the address.
    pub fn start(command: impl FnOnce(&Path) -> Command) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("address");
        // With stdin closed it ends, even if this process is killed.
        let mut child = command(&file).stdin(Stdio::piped()).spawn().expect("it starts");
        let deadline = Instant::now() + NEVER;
        let address = loop {
            if let Ok(address) = std::fs::read_to_string(&file) {
                break address.trim().to_owned();
            }
            let gone = child.try_wait().expect("its status");
            assert!(gone.is_none() && Instant::now() < deadline, "it does not start: {gone:?}");
            std::thread::park_timeout(Duration::from_millis(20));
        };
        Self { child, address, _folder: folder }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // Its own children end with it, which takes a moment.
        drop(self.child.stdin.take());
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}
