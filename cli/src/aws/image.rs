//! Bakes the image of the workers: a machine is launched, unpacks the archive, passes its
//! self-test, powers off and becomes an image. The image is tagged with the digest of the archive
//! and the base image, so that an existing image is found again, and an interrupted run continues.

use std::time::Duration;

use anyhow::Context;
use aws_sdk_ec2::types::{Filter, ImageState, InstanceStateName as State, ResourceType};
use eirs_platform::aws::{self, tag};
use tokio::time::Instant;

use super::{
    Account, Poll, base_image,
    bundle::Bundle,
    instances,
    launch::{Image, Launch},
    network::Subnet,
    scripts,
};

/// The tag with the digest of the archive from which an image or a machine was made.
pub(crate) const BUNDLE_TAG: &str = "eirs:bundle";
/// The tag with the base image.
pub(crate) const BASE_TAG: &str = "eirs:base-image";

/// Time limits for a machine to pass its self-test and power off, and for an image to be created.
pub(crate) const BAKED_WITHIN: Duration = Duration::from_secs(20 * 60);
const IMAGED_WITHIN: Duration = Duration::from_secs(40 * 60);

/// An image of the installation.
#[derive(Debug, Clone)]
pub(crate) struct Baked {
    pub(crate) image: Image,
    pub(crate) name: String,
    pub(crate) is_available: bool,
    /// Whether EC2 failed to create it.
    pub(crate) has_failed: bool,
    pub(crate) made_at: String,
    pub(crate) bundle: Option<String>,
    pub(crate) base: Option<String>,
    /// The snapshots of its disks, which cost money.
    pub(crate) snapshots: Vec<String>,
}

/// The parameters of baking.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Oven<'a> {
    pub(crate) bundle: &'a Bundle,
    pub(crate) base: &'a Image,
    pub(crate) subnets: &'a [Subnet],
    pub(crate) group: &'a str,
}

/// Returns the images of the installation, newest first.
pub(crate) async fn all(account: &Account) -> anyhow::Result<Vec<Baked>> {
    let ours = Filter::builder().name(format!("tag:{}", tag::INSTALLATION)).values(account.prefix()).build();
    let found = account.ec2.describe_images().owners("self").filters(ours).send().await;
    let found = found.map_err(|error| aws::error("listing the images", &error))?;
    let baked = |image: &aws_sdk_ec2::types::Image| {
        let tagged = |key: &str| {
            image
                .tags()
                .iter()
                .find(|tag| tag.key() == Some(key))
                .and_then(|tag| tag.value())
                .map(str::to_owned)
        };
        let disks = image.block_device_mappings().iter().filter_map(|disk| disk.ebs()?.snapshot_id());
        let id = image.image_id()?;
        Some(Baked {
            image: base_image::of(image, id),
            name: image.name().unwrap_or_default().to_owned(),
            is_available: image.state() == Some(&ImageState::Available),
            has_failed: matches!(
                image.state(),
                Some(ImageState::Failed | ImageState::Error | ImageState::Invalid)
            ),
            made_at: image.creation_date().unwrap_or_default().to_owned(),
            bundle: tagged(BUNDLE_TAG),
            base: tagged(BASE_TAG),
            snapshots: disks.map(str::to_owned).collect(),
        })
    };
    let mut images: Vec<_> = found.images().iter().filter_map(baked).collect();
    images.sort_by(|a, b| (&b.made_at, &b.name).cmp(&(&a.made_at, &a.name)));
    Ok(images)
}

/// Returns the image of this archive on this base image, if it exists.
pub(crate) async fn of_bundle(account: &Account, digest: &str, base: &str) -> anyhow::Result<Option<Baked>> {
    let is_it =
        |image: &Baked| image.bundle.as_deref() == Some(digest) && image.base.as_deref() == Some(base);
    Ok(all(account).await?.into_iter().find(is_it))
}

impl Oven<'_> {
    /// Returns a digest of the archive, of which twelve digits are enough, and of the base image.
    fn digest(&self) -> String {
        format!("{}-{}", &self.bundle.digest[..12], self.base.id.trim_start_matches("ami-"))
    }

    fn name(&self) -> String {
        format!("image-{}", self.digest())
    }

    fn is_for_this(&self, builder: &instances::Instance) -> bool {
        builder.tag(BUNDLE_TAG) == Some(self.bundle.digest.as_str())
            && builder.tag(BASE_TAG) == Some(self.base.id.as_str())
    }

    /// Bakes the image, or finds an existing one; `say` is called with each step.
    pub(crate) async fn bake(&self, account: &Account, say: &dyn Fn(&str)) -> anyhow::Result<Image> {
        let id = match of_bundle(account, &self.bundle.digest, &self.base.id).await? {
            Some(baked) if !baked.has_failed => baked.image.id,
            Some(failed) => {
                say(&format!("EC2 could not make the image {}; it is made again", failed.image.id));
                delete(account, &failed).await?;
                self.make(account, say).await?
            }
            None => self.make(account, say).await?,
        };
        say(&format!("waiting for the image {id}"));
        let image = wait_for(account, &id).await?;
        self.clear(account).await?;
        Ok(image)
    }

    async fn make(&self, account: &Account, say: &dyn Fn(&str)) -> anyhow::Result<String> {
        say("uploading the archive for the machines");
        scripts::upload(account, self.bundle).await?;
        let builder = self.builder(account, say).await?;
        say(&format!("waiting for {builder} to install and test it"));
        if let Err(error) = self.wait_for_builder(account, &builder).await {
            // The machine would only cost money; its report has been read.
            instances::terminate(account, std::slice::from_ref(&builder)).await?;
            scripts::forget_report(account, &self.name()).await?;
            return Err(error);
        }
        say(&format!("making an image of {builder}"));
        let tags = [(BUNDLE_TAG, self.bundle.digest.as_str()), (BASE_TAG, self.base.id.as_str())];
        let call = account
            .ec2
            .create_image()
            .instance_id(&builder)
            .name(format!("{}-worker-{}", account.prefix(), self.digest()))
            .description("EIRS worker")
            .tag_specifications(instances::tags(account, ResourceType::Image, &tags))
            .tag_specifications(instances::tags(account, ResourceType::Snapshot, &tags));
        let made =
            call.send().await.map_err(|error| aws::error(format!("making an image of {builder}"), &error))?;
        made.image_id.context("EC2 made an image without an id")
    }

    /// Returns the machine to bake: that of an interrupted run, or a new one.
    async fn builder(&self, account: &Account, say: &dyn Fn(&str)) -> anyhow::Result<String> {
        let builders = instances::all(account, Some(tag::BUILDER)).await?;
        let (usable, stale): (Vec<_>, Vec<_>) =
            builders.into_iter().partition(|builder| self.is_for_this(builder));
        instances::terminate(account, &stale.into_iter().map(|builder| builder.id).collect::<Vec<_>>())
            .await?;
        if let Some(builder) = usable.into_iter().next() {
            return Ok(builder.id);
        }
        scripts::forget_report(account, &self.name()).await?;
        say("launching the machine for the image");
        let launch = Launch {
            purpose: tag::BUILDER,
            image: self.base,
            kind: &account.settings.setup.worker_type,
            subnet: "",
            group: self.group,
            profile: None,
            user_data: Some(scripts::builder(account, self.bundle, &self.name()).await?),
            tags: &[(BUNDLE_TAG, &self.bundle.digest), (BASE_TAG, &self.base.id)],
            count: 1,
        };
        launch.run_in_one_of(account, self.subnets).await?.pop().context("EC2 launched nothing")
    }

    async fn wait_for_builder(&self, account: &Account, builder: &str) -> anyhow::Result<()> {
        let (deadline, mut poll) = (Instant::now() + BAKED_WITHIN, Poll::new());
        let report = loop {
            if let Some(report) = scripts::report(account, &self.name()).await? {
                break report;
            }
            anyhow::ensure!(
                Instant::now() < deadline,
                "{builder} reported nothing within {}; does its subnet reach the internet?",
                humantime::format_duration(BAKED_WITHIN)
            );
            poll.wait().await;
        };
        anyhow::ensure!(
            report.went_well,
            "the machine for the image failed; its output:\n{}",
            last_lines(&report.said, 15)
        );
        instances::wait_for(account, &[builder.to_owned()], &State::Stopped, BAKED_WITHIN).await?;
        Ok(())
    }

    /// Deletes resources that only baking needs.
    async fn clear(&self, account: &Account) -> anyhow::Result<()> {
        let builders = instances::all(account, Some(tag::BUILDER)).await?;
        instances::terminate(account, &builders.into_iter().map(|builder| builder.id).collect::<Vec<_>>())
            .await?;
        scripts::forget_report(account, &self.name()).await
    }
}

async fn wait_for(account: &Account, id: &str) -> anyhow::Result<Image> {
    let (deadline, mut poll) = (Instant::now() + IMAGED_WITHIN, Poll::new());
    loop {
        let found = all(account).await?.into_iter().find(|baked| baked.image.id == id);
        match found {
            Some(baked) if baked.is_available => return Ok(baked.image),
            Some(failed) if failed.has_failed => {
                delete(account, &failed).await?;
                anyhow::bail!(
                    "EC2 could not make the image {id}, and it was taken away; the next run makes it again"
                );
            }
            _ => {}
        }
        anyhow::ensure!(
            Instant::now() < deadline,
            "the image {id} is not available within {}",
            humantime::format_duration(IMAGED_WITHIN)
        );
        poll.wait().await;
    }
}

/// Deletes an image and its snapshots.
pub(crate) async fn delete(account: &Account, baked: &Baked) -> anyhow::Result<()> {
    let (id, ec2) = (&baked.image.id, &account.ec2);
    let gone = ec2.deregister_image().image_id(id).send().await;
    gone.map_err(|error| aws::error(format!("deregistering the image {id}"), &error))?;
    delete_snapshots(account, &baked.snapshots).await
}

/// Deletes the images without machines, except the newest `kept` of them and those in `named`.
pub(crate) async fn prune(account: &Account, kept: usize, named: &[&str]) -> anyhow::Result<Vec<String>> {
    let used = instances::all(account, None).await?;
    let is_free = |baked: &Baked| {
        let id = baked.image.id.as_str();
        baked.is_available && !named.contains(&id) && !used.iter().any(|machine| machine.image == id)
    };
    let free: Vec<_> = all(account).await?.into_iter().filter(is_free).collect();
    let mut gone = Vec::new();
    for baked in free.iter().skip(kept) {
        delete(account, baked).await?;
        gone.push(baked.image.id.clone());
    }
    Ok(gone)
}

/// Returns the snapshots with the installation's tag, including those of images that an interrupted
/// run deleted.
pub(crate) async fn snapshots(account: &Account) -> anyhow::Result<Vec<String>> {
    let ours = Filter::builder().name(format!("tag:{}", tag::INSTALLATION)).values(account.prefix()).build();
    let found = account.ec2.describe_snapshots().owner_ids("self").filters(ours).send().await;
    let found = found.map_err(|error| aws::error("listing the snapshots", &error))?;
    Ok(found.snapshots().iter().filter_map(|snapshot| snapshot.snapshot_id.clone()).collect())
}

/// Deletes snapshots.
pub(crate) async fn delete_snapshots(account: &Account, ids: &[String]) -> anyhow::Result<()> {
    for id in ids {
        let deleted = account.ec2.delete_snapshot().snapshot_id(id).send().await;
        if let Err(error) = deleted {
            let error = aws::error(format!("deleting the snapshot {id}"), &error);
            if !error.is_missing() {
                return Err(error.into());
            }
        }
    }
    Ok(())
}

fn last_lines(text: &str, most: usize) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(most)..].join("\n")
}
