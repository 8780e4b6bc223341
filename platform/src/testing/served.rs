//! A server of others that a test starts: a process that writes where it listens into a file, and
//! ends when its input does.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// How long it may take to start on a busy machine before it counts as never.
const NEVER: Duration = Duration::from_secs(120);

/// A running server. It ends with this value, and with the process that holds it.
#[derive(Debug)]
pub struct Served {
    child: Child,
    /// Where it listens, `127.0.0.1:PORT`.
    pub address: String,
    _folder: tempfile::TempDir,
}

impl Served {
    /// Starts the command that is made for this file, and waits until it says where it listens.
    pub fn start(command: impl FnOnce(&Path) -> Command) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("address");
        // It ends when its input does: also where this process is killed.
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
        // What it started ends with it, and that needs a moment.
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
