//! The image that the workers are launched from: a machine is launched, gets the archive, passes a
//! test of itself, powers off and becomes an image. The digest of the archive and the system's
//! image are tagged on it, so that one that was baked before is found again, and a run that was
//! interrupted goes on where it ended.

use std::time::Duration;

use anyhow::Context;
use aws_sdk_ec2::types::{Filter, ImageState, InstanceStateName as State, ResourceType};
use eirs_platform::aws::{self, tag};
use tokio::time::Instant;

use super::{
    Account, LOOK_EVERY, base_image,
    bundle::Bundle,
    instances,
    launch::{Image, Launch},
    network::Subnet,
    scripts,
};

/// The digest of the archive that an image, or a machine, was made from.
pub(crate) const BUNDLE_TAG: &str = "eirs:bundle";
/// The system's image that it was made on.
pub(crate) const BASE_TAG: &str = "eirs:base-image";

/// A machine must have tested itself and powered off by then, and an image must be made by then.
pub(crate) const BAKED_WITHIN: Duration = Duration::from_secs(20 * 60);
const IMAGED_WITHIN: Duration = Duration::from_secs(40 * 60);

/// An image of ours.
#[derive(Debug, Clone)]
pub(crate) struct Baked {
    pub(crate) image: Image,
    pub(crate) name: String,
    pub(crate) is_available: bool,
    /// EC2 could not make it, and never will.
    pub(crate) has_failed: bool,
    pub(crate) made_at: String,
    pub(crate) bundle: Option<String>,
    pub(crate) base: Option<String>,
    /// The copies of its disks, which cost.
    pub(crate) snapshots: Vec<String>,
}

/// Where and from what to bake.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Oven<'a> {
    pub(crate) bundle: &'a Bundle,
    pub(crate) base: &'a Image,
    pub(crate) subnets: &'a [Subnet],
    pub(crate) group: &'a str,
}

/// The images of the installation, the newest first.
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

/// The image that is made from this archive on this system's image, if there is one.
pub(crate) async fn of_bundle(account: &Account, digest: &str, base: &str) -> anyhow::Result<Option<Baked>> {
    let is_it =
        |image: &Baked| image.bundle.as_deref() == Some(digest) && image.base.as_deref() == Some(base);
    Ok(all(account).await?.into_iter().find(is_it))
}

impl Oven<'_> {
    /// Twelve digits of a digest are enough to tell the archives of one installation apart; what
    /// they are unpacked on counts, too.
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

    /// Bakes the image, or finds it; `tell` hears what is going on.
    pub(crate) async fn bake(&self, account: &Account, tell: &dyn Fn(&str)) -> anyhow::Result<Image> {
        let id = match of_bundle(account, &self.bundle.digest, &self.base.id).await? {
            Some(baked) if !baked.has_failed => baked.image.id,
            Some(failed) => {
                tell(&format!("EC2 could not make the image {}; it is made again", failed.image.id));
                delete(account, &failed).await?;
                self.make(account, tell).await?
            }
            None => self.make(account, tell).await?,
        };
        tell(&format!("waiting for the image {id}"));
        let image = wait_for(account, &id).await?;
        self.clear(account).await?;
        Ok(image)
    }

    async fn make(&self, account: &Account, tell: &dyn Fn(&str)) -> anyhow::Result<String> {
        tell("uploading the archive for the machines");
        scripts::upload(account, self.bundle).await?;
        let builder = self.builder(account, tell).await?;
        tell(&format!("waiting for {builder} to install and test it"));
        if let Err(error) = self.wait_for_builder(account, &builder).await {
            // It would only cost; what it had to say is said.
            instances::terminate(account, std::slice::from_ref(&builder)).await?;
            scripts::forget_report(account, &self.name()).await?;
            return Err(error);
        }
        tell(&format!("making an image of {builder}"));
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

    /// The machine that is baked: the one of an interrupted run, or a new one.
    async fn builder(&self, account: &Account, tell: &dyn Fn(&str)) -> anyhow::Result<String> {
        let builders = instances::all(account, Some(tag::BUILDER)).await?;
        let (usable, stale): (Vec<_>, Vec<_>) =
            builders.into_iter().partition(|builder| self.is_for_this(builder));
        instances::terminate(account, &stale.into_iter().map(|builder| builder.id).collect::<Vec<_>>())
            .await?;
        if let Some(builder) = usable.into_iter().next() {
            return Ok(builder.id);
        }
        scripts::forget_report(account, &self.name()).await?;
        tell("launching the machine for the image");
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
        let deadline = Instant::now() + BAKED_WITHIN;
        let report = loop {
            if let Some(report) = scripts::report(account, &self.name()).await? {
                break report;
            }
            anyhow::ensure!(
                Instant::now() < deadline,
                "{builder} reported nothing within {}; does its subnet reach the internet?",
                humantime::format_duration(BAKED_WITHIN)
            );
            tokio::time::sleep(LOOK_EVERY).await;
        };
        anyhow::ensure!(
            report.went_well,
            "the machine for the image failed; its output:\n{}",
            last_lines(&report.said, 15)
        );
        instances::wait_for(account, &[builder.to_owned()], &State::Stopped, BAKED_WITHIN).await?;
        Ok(())
    }

    /// What baking needed and nothing else does.
    async fn clear(&self, account: &Account) -> anyhow::Result<()> {
        let builders = instances::all(account, Some(tag::BUILDER)).await?;
        instances::terminate(account, &builders.into_iter().map(|builder| builder.id).collect::<Vec<_>>())
            .await?;
        scripts::forget_report(account, &self.name()).await
    }
}

async fn wait_for(account: &Account, id: &str) -> anyhow::Result<Image> {
    let deadline = Instant::now() + IMAGED_WITHIN;
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
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Takes an image away, and the copies of its disks.
pub(crate) async fn delete(account: &Account, baked: &Baked) -> anyhow::Result<()> {
    let (id, ec2) = (&baked.image.id, &account.ec2);
    let gone = ec2.deregister_image().image_id(id).send().await;
    gone.map_err(|error| aws::error(format!("deregistering the image {id}"), &error))?;
    delete_snapshots(account, &baked.snapshots).await
}

/// Takes those images away that no machine is of, but for the newest `kept` of them and those that
/// are named.
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

/// Copies of disks that are tagged ours; those whose image an interrupted run took away already are
/// left.
pub(crate) async fn snapshots(account: &Account) -> anyhow::Result<Vec<String>> {
    let ours = Filter::builder().name(format!("tag:{}", tag::INSTALLATION)).values(account.prefix()).build();
    let found = account.ec2.describe_snapshots().owner_ids("self").filters(ours).send().await;
    let found = found.map_err(|error| aws::error("listing the snapshots", &error))?;
    Ok(found.snapshots().iter().filter_map(|snapshot| snapshot.snapshot_id.clone()).collect())
}

/// Takes copies of disks away.
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
