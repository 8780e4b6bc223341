//! Creates, finds and deletes queues.

use std::{collections::HashMap, sync::Arc};

use aws_sdk_sqs::types::QueueAttributeName as Attribute;

use super::{SqsQueue, SqsQueues};
use crate::{
    aws,
    error::{Error, Result},
    queue::{QueueOptions, SharedQueue},
};

impl SqsQueues {
    /// Returns the name of a queue in the account, which includes the prefix.
    pub fn full_name(&self, name: &str) -> String {
        format!("{}-{name}", self.prefix)
    }

    /// Returns the URL of a queue.
    pub(super) async fn url(&self, name: &str) -> Result<String> {
        let what = || format!("finding the queue {}", self.full_name(name));
        let found = self.client.get_queue_url().queue_name(self.full_name(name)).send().await;
        let found = found.map_err(|error| aws::error(what(), &error))?;
        found.queue_url.ok_or_else(|| Error::unavailable(what(), "SQS returned no address"))
    }

    /// Creates an encrypted queue, with these tags in addition to the installation's own. A queue
    /// that exists with the same options is left unchanged; with other options it is an error.
    pub async fn create(
        &self,
        name: &str,
        options: QueueOptions,
        tags: &[(&str, &str)],
    ) -> Result<SharedQueue> {
        let full_name = self.full_name(name);
        let what = || format!("making the queue {full_name}");
        let own = [(aws::tag::INSTALLATION, self.prefix.as_str())];
        let tags = own.iter().chain(tags).map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let attributes = self.attributes(&options).await?;
        let call = self.client.create_queue().queue_name(&full_name).set_attributes(Some(attributes));
        let made = call.set_tags(Some(tags.collect())).send().await;
        let made = made.map_err(|error| aws::error(what(), &error))?;
        let url = made.queue_url.ok_or_else(|| Error::unavailable(what(), "SQS returned no address"))?;
        Ok(Arc::new(SqsQueue::new(self, name, url, options)))
    }

    /// Creates a queue, or sets these options on the existing one. A queue without this
    /// installation's tag is an error.
    pub async fn ensure(&self, name: &str, options: QueueOptions) -> Result<()> {
        let url = match self.url(name).await {
            Ok(url) => url,
            Err(error) if error.is_missing() => return self.create(name, options, &[]).await.map(|_| ()),
            Err(error) => return Err(error),
        };
        let what = || format!("changing the queue {}", self.full_name(name));
        if self.tags(name).await?.get(aws::tag::INSTALLATION) != Some(&self.prefix) {
            return Err(Error::broken(
                what(),
                "it does not have this installation's tag, and is \
                left alone",
            ));
        }
        let attributes = self.attributes(&options).await?;
        let call = self.client.set_queue_attributes().queue_url(url).set_attributes(Some(attributes));
        call.send().await.map(|_| ()).map_err(|error| aws::error(what(), &error))
    }

    /// Returns these options as attributes of SQS. The dead letter queue must exist.
    async fn attributes(&self, options: &QueueOptions) -> Result<HashMap<Attribute, String>> {
        let dead_letters = match &options.dead_letters {
            Some(rule) => self.arn(&rule.queue).await?,
            None => String::new(),
        };
        Ok(attributes(options, &dead_letters))
    }

    /// Returns the attributes of a queue that differ from these options.
    pub async fn differences(&self, name: &str, options: &QueueOptions) -> Result<Vec<Difference>> {
        let what = || format!("looking at the queue {}", self.full_name(name));
        let url = self.url(name).await?;
        let call = self.client.get_queue_attributes().queue_url(url).attribute_names(Attribute::All);
        let answer = call.send().await.map_err(|error| aws::error(what(), &error))?;
        let is = answer.attributes.unwrap_or_default();
        let mut differences = Vec::new();
        for (key, should) in self.attributes(options).await? {
            let is = is.get(&key).cloned();
            if is.as_deref().is_none_or(|is| meaning(is) != meaning(&should)) {
                differences.push(Difference { attribute: key.as_str().to_owned(), is, should });
            }
        }
        differences.sort_unstable_by(|a, b| a.attribute.cmp(&b.attribute));
        Ok(differences)
    }

    /// Returns the ARN of an existing queue.
    pub async fn arn(&self, name: &str) -> Result<String> {
        let what = || format!("looking at the queue {}", self.full_name(name));
        let url = self.url(name).await?;
        let call = self.client.get_queue_attributes().queue_url(url).attribute_names(Attribute::QueueArn);
        let answer = call.send().await.map_err(|error| aws::error(what(), &error))?;
        let arn = answer.attributes.unwrap_or_default().remove(&Attribute::QueueArn);
        arn.ok_or_else(|| Error::unavailable(what(), "SQS returned no ARN"))
    }

    /// Deletes a queue; does nothing if it does not exist. Its name cannot be used again for a
    /// minute.
    pub async fn delete(&self, name: &str) -> Result<()> {
        let url = match self.url(name).await {
            Ok(url) => url,
            Err(error) if error.is_missing() => return Ok(()),
            Err(error) => return Err(error),
        };
        match self.client.delete_queue().queue_url(url).send().await {
            Ok(_) => Ok(()),
            Err(error) => {
                let error = aws::error(format!("deleting the queue {}", self.full_name(name)), &error);
                if error.is_missing() { Ok(()) } else { Err(error) }
            }
        }
    }

    /// Lists the names that begin with `start`, without the prefix.
    pub async fn names(&self, start: &str) -> Result<Vec<String>> {
        let full = self.full_name(start);
        let pages = self.client.list_queues().queue_name_prefix(&full).max_results(1000).into_paginator();
        let mut urls = pages.items().send();
        let mut names = Vec::new();
        while let Some(url) = urls.next().await {
            let url = url.map_err(|error| aws::error("listing the queues", &error))?;
            let name =
                url.rsplit('/').next().and_then(|name| name.strip_prefix(&format!("{}-", self.prefix)));
            names.extend(name.map(str::to_owned));
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Sets a tag of a queue.
    pub async fn tag(&self, name: &str, key: &str, value: &str) -> Result<()> {
        let url = self.url(name).await?;
        let call = self.client.tag_queue().queue_url(url).tags(key, value);
        let tagged = call.send().await.map(|_| ());
        tagged.map_err(|error| aws::error(format!("tagging the queue {}", self.full_name(name)), &error))
    }

    /// Returns the tags of a queue.
    pub async fn tags(&self, name: &str) -> Result<HashMap<String, String>> {
        let url = self.url(name).await?;
        let listed = self.client.list_queue_tags().queue_url(url).send().await;
        let listed = listed.map_err(|error| {
            aws::error(format!("reading the tags of the queue {}", self.full_name(name)), &error)
        })?;
        Ok(listed.tags.unwrap_or_default())
    }
}

/// Returns the attributes of a queue with these options. `dead_letters` is the ARN of its dead
/// letter queue.
pub fn attributes(options: &QueueOptions, dead_letters: &str) -> HashMap<Attribute, String> {
    let mut attributes = HashMap::from([
        (Attribute::VisibilityTimeout, options.visibility.as_secs().to_string()),
        (Attribute::MessageRetentionPeriod, options.retention.as_secs().to_string()),
        (Attribute::SqsManagedSseEnabled, "true".to_owned()),
    ]);
    if let Some(rule) = &options.dead_letters {
        let policy =
            serde_json::json!({ "deadLetterTargetArn": dead_letters, "maxReceiveCount": rule.max_receives });
        attributes.insert(Attribute::RedrivePolicy, policy.to_string());
    }
    attributes
}

/// An attribute of a queue that differs from the options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The name in SQS, such as `VisibilityTimeout`.
    pub attribute: String,
    /// The actual value; `None` if it is not set.
    pub is: Option<String>,
    /// The value of the options.
    pub should: String,
}

/// Normalizes the value of an attribute. In a redrive policy, SQS writes the keys in any order, and
/// numbers with or without quotes.
fn meaning(text: &str) -> String {
    let value = serde_json::from_str::<serde_json::Value>(text).map(|value| value.to_string());
    value.unwrap_or_else(|_| text.to_owned()).replace('"', "")
}
