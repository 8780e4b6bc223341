//! A web server that runs, and what tests ask of it.

use std::net::TcpStream;

use crate::{Answer, NEVER, Process, eventually, request, upload};

/// A running web server.
pub struct Web {
    /// Its process.
    pub process: Process,
    /// Where it listens, as `127.0.0.1:PORT`.
    pub address: String,
    /// The address of the operator's side, where it has a listener of its own.
    pub admin: Option<String>,
}

impl Web {
    /// The pids of the running instances, as `/status` has them.
    pub fn workers(&self) -> Vec<i32> {
        let pools = self.get("/status").json()["controller"]["pools"].as_array().cloned().unwrap_or_default();
        let instances =
            pools.iter().flat_map(|pool| pool["instances"].as_array().cloned().unwrap_or_default());
        instances.filter_map(|instance| instance["pid"].as_i64()).map(|pid| pid as i32).collect()
    }

    /// A new connection.
    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).expect("the web server accepts");
        stream.set_read_timeout(Some(NEVER)).expect("a time-out");
        stream
    }

    /// Asks where it is: status and metrics are on the operator's side.
    pub fn get(&self, path: &str) -> Answer {
        let admin = self.admin.as_ref().filter(|_| matches!(path, "/status" | "/metrics"));
        request(admin.unwrap_or(&self.address), "GET", path, &[], b"").expect("an answer")
    }

    /// Uploads one image as a form and wants JSON.
    pub fn upload(&self, query: &str, name: &str, image: &[u8]) -> Answer {
        upload(&self.address, query, name, image).expect("an answer")
    }

    /// Uploads the bare image and wants text.
    pub fn upload_bare(&self, image: &[u8]) -> Answer {
        request(&self.address, "POST", "/upload", &[("content-type", "image/jpeg")], image)
            .expect("an answer")
    }

    /// The result of an image; waits for it.
    pub fn result(&self, id: &str) -> Answer {
        eventually("the result", || {
            Some(self.get(&format!("/results/{id}"))).filter(|answer| answer.status != 202)
        })
    }
}
