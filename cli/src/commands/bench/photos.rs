//! Compares photos of common sizes with Pillow: speed, memory and labels.

use std::{path::Path, sync::Arc};

use anyhow::{Context, ensure};
use eirs_platform::settings::{Alpha, Colour, Model};
use eirs_worker::{
    classify::{self, Image, bare_loop, read_image},
    image::{Limits, Pixels, View, decode},
};
use tokio::task::spawn_blocking;

use super::{
    board::{Bar, Board},
    cases::Bench,
    yardstick,
};

const MAKE: &str = include_str!("photos.py");
const PILLOW: &str = include_str!("pillow.py");

/// Description, number of photos, columns, rows, kilobytes, and the required speed relative to
/// Python.
type Size = (&'static str, u64, u32, u32, u32, f64);
const SIZES: [Size; 3] = [
    ("110 KB, 500 x 375", 40, 500, 375, 110, 1.35),
    ("400 KB, 2 MP", 20, 1632, 1224, 400, 2.0),
    ("3 MB, 12 MP", 8, 4000, 3000, 3000, 4.0),
];
/// The number of alternating measurements of each loop, and their length in seconds.
const TURNS: usize = 3;
const SECONDS: f64 = 2.5;
/// Number of photos of all sizes whose labels are compared.
const COMPARED: u64 = 1000;

impl Bench {
    /// Measures the loops on photos of three sizes, or prints the reason if there is no Python with
    /// Pillow.
    pub(super) async fn photos(&self, board: &mut Board) -> anyhow::Result<()> {
        let Some(path) = self.model.path.clone() else { return Ok(()) };
        let sources = tempfile::tempdir()?;
        self.write_images(sources.path()).await?;
        if let Err(why) = self.sizes(board, &path, sources.path()).await {
            crate::show::aside(format_args!("photos were not compared with Pillow: {why:#}"));
        }
        Ok(())
    }

    async fn sizes(&self, board: &mut Board, path: &Path, sources: &Path) -> anyhow::Result<()> {
        for (name, count, width, height, kilobytes, bar) in SIZES {
            let folder = tempfile::tempdir()?;
            make(sources, folder.path(), count, [width, height, kilobytes]).await?;
            let files = Arc::new(read_folder(folder.path())?);
            let run = async |rounds| {
                let (model, files, threads) = (self.model.clone(), Arc::clone(&files), self.threads);
                spawn_blocking(move || bare_loop(&model, &files, threads, rounds)).await?
            };
            let mut ours = run(1).await?.per_second;
            let (mut python, mut all) = (0.0, 0.0);
            for _ in 0..TURNS {
                let rounds =
                    |speed: f64| (SECONDS / self.less as f64 * speed / files.len() as f64).ceil() as usize;
                ours = run(rounds(ours)).await?.per_second;
                all += ours;
                let rounds = rounds(ours / 2.0).div_ceil(self.threads);
                python += yardstick::python_loop(path, folder.path(), self.threads, rounds).await?;
            }
            board.table(format!("Photos of {name}"));
            board.row("Python loop (Pillow + onnxruntime)", python / TURNS as f64, "images/s", Bar::None);
            board.row("bare loop", all / TURNS as f64, "images/s", Bar::None);
            board.row("bare loop over Python loop", all / python, "x", Bar::AtLeast(bar));
            let model = self.model.clone();
            let share = spawn_blocking(move || memory(&model, &files)).await??;
            let bar = if width >= 4000 { Bar::AtMost(0.25) } else { Bar::None };
            board.row("decoded pixels over those of the full size", share, "x", bar);
        }
        self.labels(board, path, sources).await
    }

    /// Compares the labels of a thousand photos of all sizes.
    async fn labels(&self, board: &mut Board, path: &Path, sources: &Path) -> anyhow::Result<()> {
        let folder = tempfile::tempdir()?;
        make(sources, folder.path(), COMPARED / self.less, [0, 0, 0]).await?;
        let said = yardstick::python(PILLOW, &[path, folder.path()], &[]).await?;
        let names = self.model.labels_file().map(std::fs::read_to_string).transpose()?.unwrap_or_default();
        let names: Vec<&str> = names.lines().map(str::trim).collect();
        let model = Model { top: usize::MAX, ..self.model.clone() };
        let files = read_folder(folder.path())?;
        let answers = spawn_blocking(move || -> anyhow::Result<_> {
            let mut classifier = classify::load(&model)?.classifier()?;
            Ok(files
                .iter()
                .flat_map(|file| classifier.classify(std::slice::from_ref(file)))
                .collect::<Vec<_>>())
        });
        let (mut same, mut near, mut count) = (0, 0, 0);
        for (guesses, line) in answers.await??.into_iter().zip(said.lines()) {
            let (class, confidence) = line.split_once(' ').context("Python printed another line")?;
            let label = names.get(class.parse::<usize>()?).copied().unwrap_or(class);
            let confidence: f32 = confidence.trim().parse()?;
            let guesses = guesses.map_err(|failure| anyhow::anyhow!("{failure}"))?;
            count += 1;
            same += u32::from(guesses.first().is_some_and(|guess| guess.label == label));
            let own = guesses.iter().find(|guess| guess.label == label).map_or(0.0, |guess| guess.confidence);
            near += u32::from((own - confidence).abs() <= 0.02);
        }
        ensure!(count > 0, "Python said nothing");
        board.table(format!("Labels of {count} photos of 500 x 375 to 4000 x 3000 pixels, beside Pillow's"));
        board.row("the same first label", f64::from(same) / f64::from(count), "x", Bar::AtLeast(0.99));
        board.row("its confidence within 0.02", f64::from(near) / f64::from(count), "x", Bar::AtLeast(0.97));
        Ok(())
    }
}

/// Creates photos from those in a folder.
async fn make(from: &Path, to: &Path, count: u64, numbers: [u32; 3]) -> anyhow::Result<()> {
    let count = [count.to_string()];
    let numbers = count.into_iter().chain(numbers.map(|number| number.to_string())).collect::<Vec<_>>();
    yardstick::python(MAKE, &[from, to], &numbers).await.context("making photos")?;
    Ok(())
}

/// Reads the files of a folder, ordered by name.
fn read_folder(folder: &Path) -> anyhow::Result<Vec<Image>> {
    let mut paths =
        std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<anyhow::Result<Vec<_>>>()?;
    paths.sort();
    paths.iter().map(|path| read_image(path)).collect()
}

/// Returns the bytes of decoded pixels for a model of 224 pixels, relative to three bytes per pixel
/// of the photo.
fn memory(model: &Model, files: &[Image]) -> anyhow::Result<f64> {
    let mut pixels = Pixels::default();
    let mut shares = 0.0;
    for file in files {
        let limits =
            Limits { max_pixels: model.max_pixels, view: None, alpha: Alpha::Drop, colour: Colour::Ignore };
        decode(&file.bytes, limits, &mut pixels)?;
        let full = f64::from(pixels.width()) * f64::from(pixels.height()) * 3.0;
        let view = View { short: 256, cut: Some((224, 224)), fractions: model.scaled_decode };
        decode(&file.bytes, Limits { view: Some(view), ..limits }, &mut pixels)?;
        shares += pixels.samples().len() as f64 / full;
    }
    Ok(shares / files.len() as f64)
}
