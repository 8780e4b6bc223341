//! Starts the real programs of EIRS for tests, each in a folder of its own, and talks plain HTTP to
//! them. Whatever goes wrong fails the test, with a sentence.

#![allow(clippy::print_stderr, reason = "a test says why it failed, and where")]

mod http;
mod process;
mod site;
mod web;

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

pub use self::{
    http::{Answer, ask, form, read_answer, request, upload},
    process::{Process, is_gone},
    site::Site,
    web::Web,
};

/// How long anything may take on a busy machine before it counts as never.
pub const NEVER: Duration = Duration::from_secs(60);

/// From zero to three instances, that go after a second of silence.
pub const POLICY: &str = "
[pool]
model = \"default\"
min = 0
max = 3
[[rule]]
kind = \"backlog\"
per_instance = 10
[instance]
billing_minimum = \"0s\"
[scale_in]
idle = \"1s\"
window = \"1s\"
drain_deadline = \"5s\"
";

/// Polls until there is a value.
pub fn eventually<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    eventually_within(NEVER, what, look)
}

/// The same for what by its nature takes longer.
#[expect(
    clippy::disallowed_methods,
    reason = "between two looks at another process there is nothing to wait on"
)]
pub fn eventually_within<T>(within: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + within;
    loop {
        if let Some(value) = look() {
            return value;
        }
        assert!(Instant::now() < deadline, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A small image that no other call gives: a bitmap of one pixel, and a number behind it.
pub fn image(number: u32) -> Vec<u8> {
    let mut file = b"BM\x3a\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0\x01\0\0\0\x01\0\0\0\x01\0\x18\0".to_vec();
    file.resize(0x36, 0);
    file.extend_from_slice(&number.to_le_bytes());
    file
}

/// A file of the built-in model's samples.
pub fn sample(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/shapes/samples").join(name);
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
