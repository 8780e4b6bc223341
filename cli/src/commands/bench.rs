//! `eirs bench`: measures this machine with the real executables and the load generator. All
//! figures come from one run, so that ratios hold on a busy machine.

mod board;
mod cases;
mod endurance;
mod feeder;
mod generator;
mod page;
mod peer;
mod photos;
mod service;
mod siege;
mod simulation;
mod tick;
mod yardstick;

use std::path::PathBuf;

use eirs_load::images;
use eirs_platform::settings::{Layers, Model};
use tokio_util::sync::CancellationToken;

use self::{board::Board, cases::Bench};
use crate::{Exit, Global, Stop, show};

/// The parts, in order of execution.
const PARTS: [&str; 17] = [
    "bare",
    "noop",
    "single",
    "cached",
    "cold",
    "doorbell",
    "memory",
    "growth",
    "idle",
    "page",
    "peer",
    "siege",
    "generator",
    "decide",
    "tick",
    "simulate",
    "endurance",
];
/// Parts that take so long that they only run if they are named.
const LONG: [&str; 1] = ["endurance"];

/// Measure this machine, and print tables
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  \
        eirs bench --model-file mobilenet-v2.onnx --image-folder photos --only bare,memory")]
pub(crate) struct BenchCommand {
    /// The ONNX model to measure with [default: the built-in one]
    #[arg(long, value_name = "FILE", alias = "model_file")]
    model_file: Option<PathBuf>,
    /// The labels of the model
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,
    /// The images to measure with
    #[arg(long, value_name = "FOLDER", alias = "image_folder", default_value = "models/shapes/samples")]
    image_folder: PathBuf,
    /// Only these parts [default: all but endurance, which takes a quarter of an hour]
    #[arg(long, value_name = "PARTS", value_delimiter = ',', value_parser = PARTS)]
    only: Vec<String>,
    /// More arrivals to compare policies with: a CSV file, or the controller's recording
    #[arg(long, value_name = "TRACE")]
    trace: Option<PathBuf>,
    /// A tenth of the work: a check, not a measurement
    #[arg(long)]
    quick: bool,
    /// Also write the tables as JSON to this folder
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Print the JSON instead of tables
    #[arg(long)]
    json: bool,
}

impl BenchCommand {
    pub(crate) async fn run(self, global: &Global) -> Result<Exit, Stop> {
        let layers = Layers::of_process(global.config.as_deref())
            .flag("models.default.path", self.model_file.as_ref().map(|path| path.display()))
            .flag("models.default.labels", self.labels.as_ref().map(|path| path.display()));
        let settings = layers.load()?;
        let model = global.model(&settings, Model::DEFAULT)?.clone();
        let images = images::read_folder(&self.image_folder, Some(1000))?.images;
        let mut board = Board::new(self.json);
        let mut bench = Bench::new(model, images, if self.quick { 10 } else { 1 })?;
        // Results from before an error or a signal are shown, too. Dropping a part ends its
        // services, and `bench` deletes their folders.
        let stop = CancellationToken::new();
        show::stop_on_signal(stop.clone());
        let measuring = stop.run_until_cancelled(self.measure(&mut bench, &mut board)).await;
        let measured = measuring.unwrap_or_else(|| Err(anyhow::anyhow!("interrupted by a signal")));
        board.finish();
        measured?;
        if let Some(folder) = self.out {
            board.write(&folder)?;
        }
        Ok(Exit::Ok)
    }

    async fn measure(&self, bench: &mut Bench, board: &mut Board) -> anyhow::Result<()> {
        let is_wanted = |part: &&str| {
            self.only.iter().any(|only| only == part) || self.only.is_empty() && !LONG.contains(part)
        };
        for part in PARTS.into_iter().filter(is_wanted) {
            show::aside(format_args!("measuring: {part} ..."));
            let less = if self.quick { 10 } else { 1 };
            match part {
                "page" => page::measure(&bench.folder()?, board, less).await?,
                "peer" => peer::measure(bench, board, less).await?,
                "siege" => siege::measure(&bench.folder()?, board, less).await?,
                "generator" => generator::measure(board, less)?,
                "decide" => simulation::decision(board, less)?,
                "tick" => tick::tick(board, less).await?,
                "endurance" => endurance::measure(bench, board, less).await?,
                "simulate" => simulation::simulated(board, self.trace.as_ref(), less)?,
                _ => bench.measure(part, board).await?,
            }
        }
        Ok(())
    }
}
