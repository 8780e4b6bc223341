//! `eirs model fit`

use std::path::{Path, PathBuf};

use anyhow::Context;
use eirs_load::{ImageFile, Truth, images};
use eirs_worker::classify::{
    self,
    fit::{self, Fitted, Known, Trial},
};
use serde::Serialize;
use toml_edit::{DocumentMut, Item, Table};

use super::Which;
use crate::{
    Exit, Global, Stop,
    show::{self, Progress, Voice},
};

/// Number of images; more take longer and add little.
const IMAGES: u64 = 80;
/// Number of lines in the table.
const SHOWN: usize = 10;

/// Find the preprocessing of a model: try the usual ways on images whose labels are known
///
/// All images are classified with each way to prepare an image (order of the colours, scale and
/// mean, crop, filter). The model was most likely trained with the way that labels the most images
/// correctly, with the highest confidence.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
                        eirs model fit pets.onnx --labels pets.txt --images photos/     (photos/cat/1.jpg, \
                        photos/dog/2.jpg)\n  \
                        eirs model fit pets.onnx --images photos/ --truth labels.csv --write eirs.toml")]
pub struct Fit {
    #[command(flatten)]
    which: Which,
    /// A folder of images, in subfolders with the names of the labels
    #[arg(long, value_name = "FOLDER")]
    images: PathBuf,
    /// A file with the name and the correct label of each image, instead of subfolders
    #[arg(long, value_name = "FILE")]
    truth: Option<PathBuf>,
    /// Use at most this many images, spread over the labels
    #[arg(
        long, value_name = "N", default_value_t = IMAGES,
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    most: u64,
    /// Write the settings that were found into this file, which is created if it does not exist;
    /// its other keys stay as they are
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
    #[command(flatten)]
    voice: Voice,
}

/// The result.
#[derive(Debug, Serialize)]
struct Found<'a> {
    trials: &'a [Trial],
    settings: String,
    hints: Vec<String>,
}

impl Fit {
    pub(super) fn run(self, global: &Global) -> Result<Exit, Stop> {
        let settings = self.which.layers(global).load()?;
        let model = global.model(&settings, &self.which.model)?;
        let known = self.known()?;
        let progress = Progress::new();
        let fitted = fit::fit(model, &known, &mut |trial, number, of| {
            progress.show(&format!(
                "{number} of about {of}: {}: {} of {}",
                trial.what, trial.right, trial.images
            ));
        })?;
        drop(progress);
        let Fitted { trials, labels } = fitted;
        let Some(best) = trials.first() else { return Err(anyhow::anyhow!("no way fits this model").into()) };
        let name = &self.which.model;
        let found = Found {
            trials: &trials,
            settings: fit::table(name, &best.model)?,
            hints: hints(&trials, &labels),
        };
        if let Some(file) = &self.write {
            write(file, name, &found.settings)?;
        }
        self.voice.show(&found, || {
            let rows: Vec<_> = trials.iter().take(SHOWN).map(row).collect();
            let mut text = show::table(&["right", "confidence", "how"], &rows);
            text.push('\n');
            text.push_str(&found.settings);
            found.hints.iter().for_each(|hint| text.push_str(&format!("\n{hint}")));
            text.trim_end().to_owned()
        });
        if let Some(file) = &self.write {
            show::aside(format_args!("written to {}", file.display()));
        }
        Ok(Exit::Ok)
    }

    /// Returns the images with their labels, the same number for each label.
    fn known(&self) -> anyhow::Result<Vec<Known>> {
        let folder = images::read_folder(&self.images, None)?;
        let truth = match &self.truth {
            Some(file) => Truth::from_file(file, &folder.images)?,
            None => Truth::from_folders(&folder.images).context(
                "the images are not in sub-folders that are called as their labels are; put them there, or \
                 give --truth",
            )?,
        };
        let mut by_label: std::collections::BTreeMap<&str, Vec<&ImageFile>> =
            std::collections::BTreeMap::new();
        for (image, label) in folder.images.iter().zip(&truth.labels) {
            if let Some(label) = label {
                by_label.entry(&label.text).or_default().push(image);
            }
        }
        let mut known = Vec::new();
        let most = by_label.values().map(Vec::len).max().unwrap_or(0);
        for round in 0..most {
            for (label, images) in &by_label {
                let Some(image) = images.get(round).filter(|_| (known.len() as u64) < self.most) else {
                    continue;
                };
                let image = classify::read_image(Path::new(&image.whole_path()))?;
                known.push(Known { image, label: (*label).to_owned() });
            }
        }
        Ok(known)
    }
}

fn row(trial: &Trial) -> Vec<String> {
    let share = 100.0 * trial.right as f64 / trial.images.max(1) as f64;
    vec![
        format!("{} of {} ({share:.0} %)", trial.right, trial.images),
        format!("{:.3}", trial.confidence),
        trial.what.clone(),
    ]
}

/// Returns hints about the table.
fn hints(trials: &[Trial], labels: &[String]) -> Vec<String> {
    let mut hints = Vec::new();
    let Some(best) = trials.first() else { return hints };
    let other = trials.iter().find_map(|trial| Some((trial, trial.other_order(labels)?)));
    if let Some((trial, order)) = other {
        hints.push(format!(
            "hint: with {} the labels seem to be in another order than the outputs; this order fits the \
             images (`?` where none shows it): {}; write it to the file of the labels and run this again",
            trial.what,
            order.join(", ")
        ));
    } else if best.right * 2 < best.images {
        hints.push(
            "hint: the best way labels less than half of the images correctly; they may show something else, \
             or the labels may be in another order than the outputs"
                .to_owned(),
        );
    }
    let equals = trials.iter().filter(|trial| trial.right == best.right).count();
    if equals > 1 {
        hints.push(format!(
            "hint: {equals} ways label as many images correctly, and their confidence decides; more images \
             would say more"
        ));
    }
    hints
}

/// Sets the keys of one model in a settings file, and leaves all other lines unchanged.
fn write(file: &Path, name: &str, table: &str) -> anyhow::Result<()> {
    let shown = file.display();
    let text = match std::fs::read_to_string(file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        read => read.with_context(|| format!("{shown}: cannot be read"))?,
    };
    let mut document: DocumentMut = text.parse().with_context(|| format!("{shown}: is not TOML"))?;
    let found: DocumentMut = table.parse().context("the settings that were found")?;
    let models = document.entry("models").or_insert_with(|| {
        let mut models = Table::new();
        models.set_implicit(true);
        Item::Table(models)
    });
    let model = models
        .as_table_mut()
        .with_context(|| format!("{shown}: models is not a table"))?
        .entry(name)
        .or_insert_with(|| Item::Table(Table::new()));
    let model =
        model.as_table_like_mut().with_context(|| format!("{shown}: models.{name} is not a table"))?;
    // A preset would override the new keys.
    for key in ["preset", "weights", "preset_file", "resize", "pad_colour", "pad_place"] {
        model.remove(key);
    }
    for (key, value) in found["models"][name].as_table_like().into_iter().flat_map(|table| table.iter()) {
        model.insert(key, value.clone());
    }
    std::fs::write(file, document.to_string()).with_context(|| format!("{shown}: cannot be written"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_result_goes_into_the_table_of_its_model_and_the_rest_stays() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("eirs.toml");
        std::fs::write(
            &file,
            "# mine\n[web]\nlisten = \"127.0.0.1:1\" # here\n\n[models.pets]\nresize = 300\ntop = 3\n",
        )
        .unwrap();
        write(&file, "pets", "[models.pets]\nresize_mode = \"squash\"\nmean = [0.5]\n").unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.contains("# mine\n[web]\nlisten = \"127.0.0.1:1\" # here\n"), "{text}");
        let settings = eirs_platform::settings::Layers::of(Some(&file), &[]).load().unwrap();
        let pets = &settings.models["pets"];
        assert_eq!((pets.top, pets.resize, pets.mean.clone()), (3, None, Some([0.5].into())), "{text}");

        let fresh = folder.path().join("fresh.toml");
        write(&fresh, "default", "[models.default]\nmean = [0.5]\n").unwrap();
        assert_eq!(std::fs::read_to_string(&fresh).unwrap(), "[models.default]\nmean = [0.5]\n");
    }
}
