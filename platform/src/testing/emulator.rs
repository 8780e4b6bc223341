//! Starts the emulator of AWS (`testing/aws`) for a test, as a process of its own, with separate
//! accounts.

use std::{
    io::{Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::Command,
};

use aws_config::{BehaviorVersion, Region, SdkConfig, sts::AssumeRoleProvider};
use aws_sdk_sqs::config::{Credentials, SharedCredentialsProvider};

use super::served::Served;
use crate::{settings::Aws, testing};

/// The region of every test.
pub const REGION: &str = "eu-central-1";

/// A running emulator. It ends with this value, and with the process that holds it.
#[derive(Debug)]
pub struct Emulator {
    /// Its address, `127.0.0.1:PORT`.
    pub address: String,
    _process: Served,
}

/// Returns the folder of the emulator, from any crate of the workspace.
fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../testing/aws")
}

impl Emulator {
    /// Starts it with additional arguments; `None` if it is not available, which was reported.
    pub fn start(arguments: &[&str]) -> Option<Self> {
        let Some(python) = testing::python() else {
            testing::not_run("there is no Python with moto", "make test");
            return None;
        };
        let process = Served::start(|file| {
            let mut command = Command::new(python);
            command.args(["-m", "emulator", "--address-file"]).arg(file).args(arguments);
            command.current_dir(folder());
            command
        });
        Some(Self { address: process.address.clone(), _process: process })
    }

    /// `http://127.0.0.1:PORT`
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns settings for this emulator.
    pub fn settings(&self) -> Aws {
        Aws { endpoint: Some(self.url()), region: Some(REGION.to_owned()), ..Aws::default() }
    }

    /// Returns an SDK configuration for the administrator of a separate account, so that tests that
    /// share an emulator do not affect each other.
    pub async fn account(&self, number: u32) -> SdkConfig {
        let config = self.config().await;
        let role = AssumeRoleProvider::builder(format!("arn:aws:iam::{:012}:role/administrator", number));
        let role = role.session_name("test").configure(&config).build().await;
        config.into_builder().credentials_provider(SharedCredentialsProvider::new(role)).build()
    }

    /// Calls the emulator's test interface, `/harness/…`; returns the body.
    pub fn harness(&self, method: &str, path: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).expect("the emulator listens");
        let head = format!(
            "{method} /harness/{path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\
             content-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            self.address,
            body.len()
        );
        stream.write_all(head.as_bytes()).expect("a request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        let (head, body) = answer.split_once("\r\n\r\n").expect("an answer with a body");
        assert!(head.contains(" 200 "), "{method} {path}: {answer}");
        body.to_owned()
    }

    /// Arms a fault, see `testing/aws/README.md`.
    pub fn fault(&self, fault: &serde_json::Value) {
        self.harness("POST", "fault", &fault.to_string());
    }

    /// Returns the number of calls of an operation.
    pub fn calls(&self, operation: &str) -> u64 {
        let calls: serde_json::Value = serde_json::from_str(&self.harness("GET", "calls", "")).expect("JSON");
        calls[operation].as_u64().unwrap_or(0)
    }

    /// Returns an SDK configuration for this emulator, with an administrator's credentials.
    pub async fn config(&self) -> SdkConfig {
        let loader = aws_config::defaults(BehaviorVersion::latest())
            .region(Region::new(REGION))
            .endpoint_url(self.url())
            .credentials_provider(Credentials::new("test", "test", None, None, "test"));
        loader.load().await
    }
}
