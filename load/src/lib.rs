//! A load generator for services that classify images, in particular EIRS: it uploads images over
//! HTTP, and reports throughput, latency, accuracy, and whether goals were met.
//!
//! In a *closed* loop, each connection uploads an image, waits for its label and continues with the
//! next one, so the load adapts to the service. In an *open* loop ([`OpenLoop`]), uploads are sent
//! at the times of a [`Schedule`], independent of the service. Each latency counts from the time
//! when the upload was due, so that a stalled service cannot hide its delays.
//!
//! A `202` with a `Location` is polled until the label is available. `Retry-After` of `202`, `429`
//! and `503` is respected. [`Expect`] finds the label in the responses of other services.
//!
//! ```
//! # use std::io::{Read, Write};
//! # fn serve() -> std::net::SocketAddr {
//! #     let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
//! #     let address = listener.local_addr().unwrap();
//! #     std::thread::spawn(move || {
//! #         for stream in listener.incoming() {
//! #             let mut stream = stream.unwrap();
//! #             std::thread::spawn(move || {
//! #                 let mut seen = Vec::new();
//! #                 let mut buffer = [0; 4096];
//! #                 while let Ok(1..) = stream.read(&mut buffer).map(|read| {
//! #                     seen.extend_from_slice(&buffer[..read]);
//! #                     read
//! #                 }) {
//! #                     if seen.ends_with(b"--\r\n") {
//! #                         seen.clear();
//! #                         let answer = "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\ncat";
//! #                         let _ = stream.write_all(answer.as_bytes());
//! #                     }
//! #                 }
//! #             });
//! #         }
//! #     });
//! #     address
//! # }
//! use std::{sync::Arc, time::Duration};
//!
//! use eirs_load::{ImageFile, OpenLoop, Options, Slo, Truth};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let address = serve();
//! // From a folder, use `eirs_load::images::read_folder`.
//! let images = vec![ImageFile::in_memory("cat/1.jpg", b"\xff\xd8\xff...".as_slice().into())];
//! let options = Options {
//!     requests: None,
//!     // 50 uploads per second for 200 ms.
//!     open: Some("50@200ms".parse::<OpenLoop>()?),
//!     truth: Some(Truth { labels: vec![Some("cat".into())], ..Truth::default() }),
//!     slo: Slo { p95: Some(Duration::from_secs(10)), ..Slo::default() },
//!     ..Options::new(format!("http://{address}").parse()?, images)
//! };
//! let report = eirs_load::run(options, Arc::new(())).await?;
//! assert!(report.is_well());
//! assert_eq!((report.results, report.accuracy.unwrap().correct), (10, 10));
//! # Ok(())
//! # }
//! ```
//!
//! A [`Watch`] receives each label and the progress during a run. A [`Report`] is formatted as text
//! by `Display`, as JSON by `serde`, and as an HTML page by [`page()`].

pub mod axis;
pub mod http;
pub mod images;
pub mod report;
pub mod truth;
pub mod words;

mod crew;
mod error;
mod expect;
mod failure;
mod fleet;
mod histogram;
mod options;
mod pace;
mod page;
mod run;
mod schedule;
mod slo;
mod tally;
mod timeline;
mod upload;
mod watch;

pub use self::{
    error::Error,
    expect::Expect,
    http::Url,
    images::ImageFile,
    options::{OpenLoop, Options},
    page::page,
    report::Report,
    run::run,
    schedule::{Arrivals, Schedule},
    slo::{Share, Slo},
    tally::Tally,
    truth::Truth,
    watch::{State, Watch},
};
