//! Who this worker is, where it runs on an instance of EC2: the instance's metadata tells, with the
//! tags that setup and the controller have written.

use std::time::Duration;

use aws_config::imds::{Client, client::error::ImdsError};
use eirs_platform::{
    aws::tag,
    backoff::Backoff,
    error::{Error, Result},
    settings::Model,
};

use crate::Identity;

/// The metadata are a service of the machine itself; right after a boot its network may not be up
/// yet.
const ATTEMPTS: u32 = 10;

/// What an instance is to a worker on it.
#[derive(Debug, Clone)]
pub enum Instance {
    /// The controller's, and the worker serves; or one that an update tries.
    HandedOver(Identity),
    /// Being built or parked: a job taken here would never be done.
    NotHandedOver {
        /// The instance.
        id: String,
    },
}

/// Reads the metadata of the instance.
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

/// Which start of the instance this is.
pub async fn generation() -> Result<String> {
    Metadata(Client::builder().max_attempts(3).build()).generation().await
}

#[derive(Debug)]
struct Metadata(Client);

impl Metadata {
    async fn generation(&self) -> Result<String> {
        Ok(self.tag(tag::GENERATION).await?.unwrap_or_else(|| tag::BY_HAND.to_owned()))
    }

    /// A tag of the instance. Where none is readable, `InstanceMetadataTags` is not enabled, or
    /// there is none.
    async fn tag(&self, key: &str) -> Result<Option<String>> {
        let value = self.get(&format!("tags/instance/{key}")).await?;
        Ok(value.filter(|value| !value.is_empty()))
    }

    async fn must(&self, path: &str) -> Result<String> {
        self.get(path).await?.ok_or_else(|| Error::broken(reading(path), "there is none"))
    }

    /// What is not there is `None`.
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
