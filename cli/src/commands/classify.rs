//! `eirs classify`

use std::path::{Path, PathBuf};

use anyhow::Context;
use eirs_load::http::{Connection, Pieces, Url, header_pair};
use eirs_platform::{
    job::Guess,
    settings::{BadSettings, Model},
};
use eirs_worker::classify::{self, Classifier, Image};
use hyper::{
    Method,
    header::{self, HeaderMap, HeaderValue},
};
use serde::Serialize;

use crate::{Exit, Global, Stop, bearer, show};

/// Classify images, in this process or with a service
///
/// Without --url, the model is loaded into this process, with the settings that workers use.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  eirs classify photo.jpg --top 3\n  \
        eirs classify photo.jpg --url http://127.0.0.1:8000")]
pub struct Classify {
    /// The image files
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,
    /// Send the images to this service instead
    #[arg(long)]
    url: Option<Url>,
    /// A file with the token of the service [default: $EIRS_TOKEN]
    #[arg(long, value_name = "FILE", requires = "url")]
    token_file: Option<PathBuf>,
    /// The model of the settings
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// Show this many guesses per image [default: the best one]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    top: Option<u16>,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

/// The result for an image, as it is shown.
#[derive(Debug, Serialize)]
struct Answer {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    label: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    confidence: Option<f32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    top: Vec<Guess>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl Classify {
    /// Runs the command; it fails if any image fails.
    pub async fn run(self, global: &Global) -> Result<Exit, Stop> {
        let mut failed = false;
        let mut show = |answer: Answer| {
            failed |= answer.error.is_some();
            self.show(&answer);
        };
        match &self.url {
            Some(url) => {
                let mut service = Service::connect(url, self.model.as_deref(), self.top).await?;
                service.token = bearer::header(self.token_file.as_deref())?;
                for path in &self.images {
                    show(Answer::of(path, service.ask(path).await?));
                }
            }
            None => {
                let name = self.model.as_deref().unwrap_or(Model::DEFAULT);
                let layers = global.layers().flag(&format!("models.{name}.top"), self.top);
                let settings = layers.load()?;
                let mut classifier = classifier(global.model(&settings, name)?)?;
                for path in &self.images {
                    let answer = read(path).and_then(|image| {
                        let answer = classifier
                            .classify(&[image])
                            .into_iter()
                            .next()
                            .context("the model returned nothing")?;
                        Ok(answer?)
                    });
                    show(Answer::of(path, answer.map_err(|error| format!("{error:#}"))));
                }
            }
        }
        Ok(if failed { Exit::Failed } else { Exit::Ok })
    }

    fn show(&self, answer: &Answer) {
        if self.json {
            show::out(serde_json::json!(answer));
            return;
        }
        let Answer { name, label, confidence, top, error } = answer;
        match (label, error) {
            (Some(label), _) => {
                let sure = confidence.map_or_else(String::new, |confidence| format!(" ({confidence:.2})"));
                show::out(format_args!("{name}: {label}{sure}"));
                let others = top.iter().skip(1).take(usize::from(self.top.unwrap_or(1)) - 1);
                others.for_each(|Guess { label, confidence }| {
                    show::out(format_args!("    {label} ({confidence:.2})"))
                });
            }
            (None, error) => show::aside(format_args!("{name}: {}", error.as_deref().unwrap_or("no answer"))),
        }
    }
}

impl Answer {
    fn of(path: &Path, answer: Result<Vec<Guess>, String>) -> Self {
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        let (top, error) = match answer {
            Ok(top) => (top, None),
            Err(error) => (Vec::new(), Some(error)),
        };
        let best = top.first();
        Self {
            name,
            label: best.map(|best| best.label.clone()),
            confidence: best.map(|best| best.confidence),
            top,
            error,
        }
    }
}

/// Loads a model; one that cannot be loaded is a mistake in the settings, as it is for a worker.
fn classifier(model: &Model) -> Result<Box<dyn Classifier>, BadSettings> {
    let loaded = classify::load(model).and_then(|loaded| loaded.classifier());
    loaded.map_err(|error| BadSettings(vec![format!("{error:#}")]))
}

/// The file, which must not be empty. The caller names it.
fn read(path: &Path) -> anyhow::Result<Image> {
    let bytes = classify::read_file(path).context("cannot be read")?;
    anyhow::ensure!(!bytes.is_empty(), "the file is empty");
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Image { name, bytes: bytes.into() })
}

/// A service that classifies one image after the other.
struct Service<'a> {
    url: &'a Url,
    path: String,
    connection: Option<Connection>,
    token: Option<HeaderValue>,
}

impl<'a> Service<'a> {
    async fn connect(url: &'a Url, model: Option<&str>, top: Option<u16>) -> anyhow::Result<Self> {
        let model = match model {
            Some(name) if !eirs_platform::settings::is_name(name) => {
                anyhow::bail!("`{name}` is not a valid model name")
            }
            Some(name) => Some(format!("model={name}")),
            None => None,
        };
        let query: Vec<_> = model.into_iter().chain(top.map(|top| format!("top={top}"))).collect();
        let connection = Connection::open(url).await.map_err(|lost| anyhow::anyhow!(lost.at(url)))?;
        Ok(Self { url, path: url.upload_path(&query.join("&")), connection: Some(connection), token: None })
    }

    /// Returns the guesses, or a sentence about this image; an error means that the service is
    /// unreachable.
    async fn ask(&mut self, path: &Path) -> anyhow::Result<Result<Vec<Guess>, String>> {
        let Image { name, bytes } = match read(path) {
            Ok(image) => image,
            Err(error) => return Ok(Err(format!("{error:#}"))),
        };
        let accept = header_pair(header::ACCEPT, "application/json");
        let token = self.token.clone().map(|token| (header::AUTHORIZATION, token));
        let always = HeaderMap::from_iter([accept].into_iter().chain(token));
        let mut headers = always.clone();
        // The body is the bare image; its name is in a header, if a header can contain it.
        if let Ok(disposition) =
            HeaderValue::from_str(&format!("attachment; filename=\"{}\"", name.replace('"', "_")))
        {
            headers.insert(header::CONTENT_DISPOSITION, disposition);
        }
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        let mut body = Pieces::of([
            bytes,
            Default::default(),
            Default::default(),
            Default::default(),
            Default::default(),
        ]);
        let (mut method, mut path) = (Method::POST, self.path.clone());
        loop {
            let mut connection = match self.connection.take().filter(|kept| !kept.is_closed()) {
                Some(kept) => kept,
                None => {
                    Connection::open(self.url).await.map_err(|lost| anyhow::anyhow!(lost.at(self.url)))?
                }
            };
            let request = self.url.request(method.clone(), &path, &headers, body.clone());
            let answer = connection.ask(request).await.map_err(|lost| anyhow::anyhow!(lost.at(self.url)))?;
            self.connection = Some(connection);
            match answer.status.as_u16() {
                200 => {
                    let mut result = answer.json();
                    let top = result.get_mut("top").map(serde_json::Value::take).unwrap_or_default();
                    return Ok(serde_json::from_value(top)
                        .map_err(|_| format!("not a response of EIRS: {}", answer.detail())));
                }
                202 => {
                    path = answer.location().context("a 202 without a Location")?;
                    (method, body) = (Method::GET, Pieces::default());
                    headers = always.clone();
                }
                429 | 503 => {}
                status => return Ok(Err(format!("{status}: {}", answer.detail()))),
            }
            tokio::time::sleep(answer.retry_after()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_has_the_best_guess_and_a_failure_has_none() {
        let top = vec![
            Guess { label: "cat".into(), confidence: 0.5 },
            Guess { label: "dog".into(), confidence: 0.25 },
        ];
        let json = serde_json::json!(Answer::of(Path::new("a/b.jpg"), Ok(top))).to_string();
        assert_eq!(
            json,
            r#"{"confidence":0.5,"label":"cat","name":"b.jpg","top":[{"confidence":0.5,"label":"cat"},{"confidence":0.25,"label":"dog"}]}"#
        );
        let json = serde_json::json!(Answer::of(Path::new("b.jpg"), Err("cut short".into()))).to_string();
        assert_eq!(json, r#"{"error":"cut short","name":"b.jpg"}"#);
    }

    #[test]
    fn what_is_missing_or_empty_or_no_file_is_called_so_without_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let said = |name: &str| format!("{:#}", read(&folder.path().join(name)).unwrap_err());
        std::fs::write(folder.path().join("empty.jpg"), b"").unwrap();
        assert_eq!(said("empty.jpg"), "the file is empty");
        assert!(said("none.jpg").starts_with("cannot be read: No such file"), "{}", said("none.jpg"));
        assert_eq!(said(""), "cannot be read: it is a folder; name an image file");
        let fifo = std::process::Command::new("mkfifo").arg(folder.path().join("fifo")).status();
        assert!(fifo.unwrap().success());
        assert_eq!(said("fifo"), "cannot be read: it is a FIFO; name an image file");
        let device = read(Path::new("/dev/zero")).unwrap_err();
        assert_eq!(format!("{device:#}"), "cannot be read: it is a device; name an image file");
    }
}
