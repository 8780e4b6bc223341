//! A load generator in one screen: uploads the images of a folder to a service, evenly at a rate or
//! by several rates in a row, and prints the report.
//!
//!     cargo run --release --example upload_folder -- http://127.0.0.1:8000 photos 50@30s

use std::{path::Path, process::ExitCode, sync::Arc};

use eirs_load::{OpenLoop, Options, Truth, images::read_folder};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [url, folder, rate] = arguments.as_slice() else {
        return Err("usage: upload_folder URL FOLDER RATE".into());
    };
    let images = read_folder(Path::new(folder), None)?.images;
    let options = Options {
        requests: None,
        open: Some(rate.parse::<OpenLoop>()?),
        // The names of the folders, if the images are in several.
        truth: Truth::from_folders(&images),
        ..Options::new(url.parse()?, images)
    };
    let report = eirs_load::run(options, Arc::new(())).await?;
    #[expect(clippy::print_stdout, reason = "the report is what this program is for")]
    {
        print!("{report}");
    }
    Ok(if report.is_well() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
