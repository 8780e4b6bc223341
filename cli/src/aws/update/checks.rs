//! The images with which a new image of the machines is checked: those of the operator with known
//! labels; recent uploads with stored results; and a grey image if there is neither.

use std::cmp::Reverse;

use anyhow::Context;
use eirs_load::{
    images,
    truth::{Label, Truth},
};
use eirs_platform::{
    backend::Backend,
    job::{self, JobId, Reply},
    settings::{Model, Settings},
};

/// Number of recent uploads that are classified again.
const LATELY: usize = 20;
/// Number of results that are searched for them.
const LISTED: usize = 1000;
/// Maximum number of images of the operator; more take longer and add little.
const MOST: u64 = 200;

/// An image with the known facts.
#[derive(Debug, Clone)]
pub(crate) struct Check {
    pub(crate) id: JobId,
    pub(crate) name: String,
    /// The known label.
    pub(crate) expected: Option<Label>,
    /// The stored result of the previous model.
    pub(crate) before: Option<Before>,
}

/// A stored result.
#[derive(Debug, Clone)]
pub(crate) struct Before {
    pub(crate) label: String,
    /// Milliseconds from the receipt to the result.
    pub(crate) ms: f64,
}

/// Returns the checks for a model. The operator's images are stored like uploads.
pub(crate) async fn of(settings: &Settings, backend: &Backend, model: &str) -> anyhow::Result<Vec<Check>> {
    let mut checks = lately(backend, model).await?;
    // They belong to one model, but the settings do not say to which.
    if model == Model::DEFAULT || settings.models.len() == 1 {
        checks.extend(own(settings, backend).await?);
    }
    if checks.is_empty() {
        let grey = eirs_worker::grey();
        let id = JobId::of(&grey);
        backend.images().put(&id.image_key(), grey).await?;
        checks.push(Check { id, name: "grey.bmp".to_owned(), expected: None, before: None });
    }
    Ok(checks)
}

async fn own(settings: &Settings, backend: &Backend) -> anyhow::Result<Vec<Check>> {
    let update = &settings.setup.update;
    let Some(folder) = &update.check_images else { return Ok(Vec::new()) };
    let found = images::read_folder(folder, Some(MOST)).context("setup.update.check_images")?.images;
    let truth = match &update.check_labels {
        Some(sheet) => Some(Truth::from_file(sheet, &found).context("setup.update.check_labels")?),
        None => Truth::from_folders(&found),
    };
    let mut labels = truth.map(|truth| truth.labels).unwrap_or_default().into_iter();
    let mut checks = Vec::new();
    for image in &found {
        let bytes =
            image.bytes().await.with_context(|| format!("setup.update.check_images: {}", image.name))?;
        let id = JobId::of(&bytes);
        backend.images().put(&id.image_key(), bytes).await?;
        let (name, expected) = (image.file_name().to_owned(), labels.next().flatten());
        checks.push(Check { id, name, expected, before: None });
    }
    Ok(checks)
}

/// Returns the newest results of the latest version, if their images are still stored.
async fn lately(backend: &Backend, model: &str) -> anyhow::Result<Vec<Check>> {
    let (results, images) = (backend.results(), backend.images());
    let prefix = format!("versions/{model}/");
    let notes = results.list(&prefix, None, LISTED).await?;
    let newest = notes.iter().max_by_key(|note| note.modified);
    let version = newest.and_then(|note| note.key.strip_prefix(&prefix)?.strip_suffix(".json"));
    let Some(version) = version else { return Ok(Vec::new()) };
    let mut stored = results.list(&format!("results/{model}/{version}/"), None, LISTED).await?;
    stored.sort_by_key(|blob| Reverse(blob.modified));
    let mut checks = Vec::new();
    for blob in stored.iter().take(2 * LATELY) {
        let Some(body) = results.get(&blob.key).await? else { continue };
        let Ok(reply) = job::decode::<Reply>(&body) else { continue };
        let Some(label) = reply.label().map(str::to_owned) else { continue };
        if checks.len() < LATELY && images.exists(&reply.id.image_key()).await? {
            let before = Some(Before { label, ms: reply.classify_ms });
            checks.push(Check { id: reply.id, name: reply.name, expected: None, before });
        }
    }
    Ok(checks)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use eirs_platform::{
        clock::SystemClock,
        job::{Guess, Outcome},
        results, testing,
    };

    use super::*;

    #[tokio::test]
    async fn checks_are_operator_images_and_recent_uploads_or_a_grey_image() {
        let mut settings = Settings::default();
        let backend = Backend::in_memory(&settings, Arc::new(SystemClock));
        let grey = of(&settings, &backend, "default").await.unwrap();
        assert!(grey.len() == 1 && backend.images().exists(&grey[0].id.image_key()).await.unwrap());

        let folder = tempfile::tempdir().unwrap();
        for label in ["cat", "dog"] {
            std::fs::create_dir(folder.path().join(label)).unwrap();
            let image = [&eirs_worker::grey()[..], label.as_bytes()].concat();
            std::fs::write(folder.path().join(label).join("1.bmp"), image).unwrap();
        }
        settings.setup.update.check_images = Some(folder.path().to_owned());
        for (number, outcome) in [
            Outcome::Classified { top: vec![Guess { label: "cat".into(), confidence: 1.0 }] },
            Outcome::Rejected { reason: "cut short".into() },
        ]
        .into_iter()
        .enumerate()
        {
            let id = JobId::of(&[number as u8]);
            backend.images().put(&id.image_key(), vec![number as u8].into()).await.unwrap();
            let reply = Reply { id, classify_ms: 7.0, ..testing::reply("x", outcome) };
            results::note_version(&**backend.results(), "default", "1").await.unwrap();
            results::put(&**backend.results(), &reply, false).await.unwrap();
        }
        let checks = of(&settings, &backend, "default").await.unwrap();
        let known = |check: &Check| check.before.as_ref().map(|before| before.label.clone());
        assert_eq!(checks.iter().map(known).collect::<Vec<_>>(), [Some("cat".into()), None, None]);
        let labels: Vec<_> = checks.iter().filter_map(|check| check.expected.clone()).collect();
        assert_eq!(labels, [Label::from("cat"), Label::from("dog")]);
    }
}
