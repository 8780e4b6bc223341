//! The self-test: `eirs setup` runs it on a machine image before it launches a fleet from it.

use bytes::Bytes;
use eirs_platform::{settings::Settings, trace::Scope};

use crate::{
    classify::Image,
    pool::{Answer, Pool},
};

/// Loads every model of the settings and classifies a grey image with each; returns one sentence
/// per model.
pub async fn self_test(settings: &Settings) -> anyhow::Result<Vec<String>> {
    let mut sentences = Vec::new();
    for (name, model) in &settings.models {
        let loaded = model.clone();
        let pool = tokio::task::spawn_blocking(move || Pool::start(&loaded, 1)).await?;
        let pool = pool.map_err(|error| error.context(format!("models.{name}")))?;
        let image = Image { name: "grey.bmp".to_owned(), bytes: grey() };
        let why = match pool.classify(image, &Scope::silent(), None).await.0 {
            Answer::Given(Ok(top)) => {
                let label = top.into_iter().next().map(|guess| guess.label).unwrap_or_default();
                sentences.push(format!("models.{name}: {} labels a grey image `{label}`", pool.engine()));
                continue;
            }
            Answer::Given(Err(failure)) => failure.to_string(),
            Answer::Stuck(why) => why,
            Answer::LeftAlone => "no thread is free".to_owned(),
        };
        anyhow::bail!("models.{name}: a grey image could not be classified: {why}");
    }
    Ok(sentences)
}

/// Creates a BMP image of 64 x 64 grey pixels.
pub fn grey() -> Bytes {
    const SIDE: u32 = 64;
    const HEAD: u32 = 54;
    let pixels = SIDE * SIDE * 3;
    let mut file = b"BM".to_vec();
    let words = [HEAD + pixels, 0, HEAD, 40, SIDE, SIDE, 1 | 24 << 16, 0, pixels, 2835, 2835, 0, 0];
    words.iter().for_each(|word: &u32| file.extend_from_slice(&word.to_le_bytes()));
    file.resize((HEAD + pixels) as usize, 0x80);
    file.into()
}

#[cfg(test)]
mod tests {
    use eirs_platform::settings::{Classifier, Model};

    use super::*;

    #[tokio::test]
    async fn the_built_in_model_passes_and_a_broken_one_is_named() {
        let mut settings = Settings::default();
        let passed = self_test(&settings).await.unwrap();
        assert!(passed[0].starts_with("models.default: "), "{passed:?}");
        let command = vec!["false".to_owned()];
        let broken = Model { classifier: Classifier::Script, command, ..Model::default() };
        settings.models.insert("broken".into(), broken);
        let error = self_test(&settings).await.unwrap_err();
        assert!(error.to_string().starts_with("models.broken: "), "{error}");
    }
}
