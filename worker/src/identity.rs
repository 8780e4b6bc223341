//! The identity of a worker on an EC2 instance, from the instance's metadata and the tags that
//! setup and the controller write.

use std::time::Duration;

use aws_config::imds::{Client, client::error::ImdsError};
use eirs_platform::{
    aws::tag,
    backoff::Backoff,
    error::{Error, Result},
    settings::Model,
};

use crate::Identity;

/// Attempts to read the metadata. Right after a boot, the network may not be up yet.
const ATTEMPTS: u32 = 10;

/// The state of an instance, as seen by a worker on it.
#[derive(Debug, Clone)]
pub enum Instance {
    /// The worker serves: the instance belongs to the controller, or an update tries it.
    HandedOver(Identity),
    /// The instance is being built or parked: a job taken here would not be completed.
    NotHandedOver {
        /// The id of the instance.
        id: String,
    },
}

/// Reads the identity from the metadata of this instance.
pub async fn of_instance() -> Result<Instance> {
    let metadata = Metadata(Client::builder().max_attempts(3).build());
    let id = metadata.must("instance-id").await?;
    let is_tried = match metadata.tag(tag::HANDED_OVER).await?.as_deref() {
        Some(tag::YES) => false,
        Some(tag::TRIAL) => true,
        _ => return Ok(Instance::NotHandedOver { id }),
    };
    let model = metadata.tag(tag::MODEL).await?.unwrap_or_else(|| Model::DEFAULT.to_owned());
    let generation = metadata.generation().await?;
    Ok(Instance::HandedOver(Identity { instance: id, generation, model, is_tried }))
}

/// Returns the generation (boot) of this instance.
pub async fn generation() -> Result<String> {
    Metadata(Client::builder().max_attempts(3).build()).generation().await
}

#[derive(Debug)]
struct Metadata(Client);

impl Metadata {
    async fn generation(&self) -> Result<String> {
        Ok(self.tag(tag::GENERATION).await?.unwrap_or_else(|| tag::BY_HAND.to_owned()))
    }

    /// Returns a tag of the instance. `None` if there is no such tag, or if `InstanceMetadataTags`
    /// is not enabled.
    async fn tag(&self, key: &str) -> Result<Option<String>> {
        let value = self.get(&format!("tags/instance/{key}")).await?;
        Ok(value.filter(|value| !value.is_empty()))
    }

    async fn must(&self, path: &str) -> Result<String> {
        self.get(path).await?.ok_or_else(|| Error::broken(reading(path), "there is none"))
    }

    /// Returns `None` for a path that does not exist.
    async fn get(&self, path: &str) -> Result<Option<String>> {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        let mut attempt = 1;
        loop {
            match self.0.get(format!("/latest/meta-data/{path}")).await {
                Ok(value) => return Ok(Some(value.into())),
                Err(error) if is_not_found(&error) => return Ok(None),
                Err(error) if attempt >= ATTEMPTS => {
                    let why = format!("the instance's metadata cannot be read: {}", innermost(&error));
                    return Err(Error::unavailable(reading(path), why));
                }
                Err(_) => {
                    attempt += 1;
                    backoff.wait().await;
                }
            }
        }
    }
}

fn reading(path: &str) -> String {
    format!("reading {path} of this instance (outside EC2, use --instance)")
}

fn is_not_found(error: &ImdsError) -> bool {
    matches!(error, ImdsError::ErrorResponse(answer) if answer.response().status().as_u16() == 404)
}

fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    std::iter::successors(Some(error), |error| error.source())
        .last()
        .map_or_else(String::new, ToString::to_string)
}
