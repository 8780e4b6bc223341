//! `eirs cleanup` in an AWS account: deletes all resources with the tag of this installation, in a
//! possible order. The next run finds the rest after an interruption.

use std::time::Duration;

use aws_sdk_ec2::types::{InstanceStateName as State, SecurityGroup};
use bytesize::ByteSize;
use eirs_platform::{
    aws::tag,
    backend::{requests_name, responses_name},
    settings::Settings,
    state_folder::{self, CONTROLLER_LOCK},
};
use serde_json::json;
use tokio::time::Instant;

use super::{Cleanup, Mode};
use crate::{
    Exit, Stop,
    aws::{
        Account, LOOK_EVERY,
        address::{self, Address},
        buckets::{Bucket, Contents},
        document::{self, Document},
        iam,
        image::{self, Baked},
        instances::{self, Instance},
        key_pair, network, queues, stack,
    },
    show::{Progress, count},
};

/// Time limit for instances to terminate.
const GONE_WITHIN: Duration = Duration::from_secs(900);
/// Time limit until the resources of terminated instances can be deleted.
const FREE_WITHIN: Duration = Duration::from_secs(300);

/// Runs the command for the installation that these settings describe.
pub(super) async fn run(cleanup: &Cleanup, settings: Settings) -> Result<Exit, Stop> {
    if let Some(holder) = state_folder::holder(&settings.local.state, CONTROLLER_LOCK) {
        let who = holder.who();
        return Err(Stop::Failed(anyhow::anyhow!(
            "the controller is running on this machine{who} and would start the workers again; \
            stop it first: `systemctl stop eirs.target`"
        )));
    }
    let account = Account::open(settings).await?;
    let found = Found::of(&account, cleanup.mode).await?;
    let report = json!({
        "installation": account.prefix(),
        "region": account.region,
        "account": account.id,
        "mode": cleanup.mode,
        "things": found.things(cleanup.mode),
        "done": !cleanup.plan,
    });
    if found.is_nothing() {
        cleanup.voice.show(&report, || {
            let nothing = format!(
                "Nothing to clean up: nothing in {} of account {} has the tag of the installation \
                `{}`.",
                account.region,
                account.id,
                account.prefix()
            );
            found.stack.as_deref().map_or(nothing, rest_of)
        });
        return Ok(Exit::Ok);
    }
    let work = async {
        let progress = Progress::new();
        match cleanup.mode {
            Mode::Clear => found.clear(&account, &progress).await,
            Mode::Delete => found.delete(&account, &progress).await,
        }
    };
    cleanup.carry_out(found.text(&account, cleanup.mode), report, work).await
}

/// The existing resources of the installation.
#[derive(Debug)]
struct Found {
    instances: Vec<Instance>,
    images: Vec<Baked>,
    snapshots: Vec<String>,
    groups: Vec<SecurityGroup>,
    addresses: Vec<Address>,
    has_key_pair: bool,
    documents: Vec<document::Kind>,
    roles: Vec<String>,
    queues: Vec<String>,
    buckets: Vec<(Bucket, Contents)>,
    /// The CloudFormation stack that owns the resources, if there is one, which are then not
    /// deleted here.
    stack: Option<String>,
}

impl Found {
    async fn of(account: &Account, mode: Mode) -> anyhow::Result<Self> {
        let mut documents = Vec::new();
        for kind in document::Kind::ALL {
            if document::look(account, kind).await? != Document::Missing {
                documents.push(kind);
            }
        }
        let mut buckets = Vec::new();
        for bucket in Bucket::both(account) {
            if bucket.is_there(account).await? {
                let contents = bucket.contents(account).await?;
                buckets.push((bucket, contents));
            }
        }
        let found = Self {
            instances: instances::all(account, None).await?,
            images: image::all(account).await?,
            snapshots: image::snapshots(account).await?,
            groups: network::groups(account).await?,
            addresses: address::all(account).await?,
            has_key_pair: key_pair::is_there(account).await?,
            documents,
            roles: iam::all(account).await?,
            queues: queues::all(account).await?,
            buckets,
            stack: stack::of(account).await?,
        };
        Ok(if mode == Mode::Delete && found.stack.is_some() { found.without_the_stacks() } else { found })
    }

    /// Returns what must be deleted here: resources that were launched, baked or stored since the
    /// stack was created. The stack itself deletes queues with their content, but only empty
    /// buckets.
    fn without_the_stacks(self) -> Self {
        let answers = self.queues.into_iter().filter(|name| name.starts_with(&responses_name(""))).collect();
        let full = self.buckets.into_iter().filter(|(_, contents)| *contents != Contents::default());
        let buckets = full.collect();
        Self {
            groups: Vec::new(),
            documents: Vec::new(),
            roles: Vec::new(),
            queues: answers,
            buckets,
            ..self
        }
    }

    fn is_nothing(&self) -> bool {
        self.things(Mode::Delete).is_empty()
    }

    /// Describes the planned actions, one phrase each.
    fn things(&self, mode: Mode) -> Vec<String> {
        let mut things = Vec::new();
        let running: Vec<_> = self.workers_at_work().collect();
        match mode {
            Mode::Clear => {
                if !running.is_empty() {
                    things.push(format!(
                        "stop {}: {}",
                        count(running.len() as u64, "worker"),
                        running.join(", ")
                    ));
                }
                things.extend(self.queues.iter().map(|name| format!("empty the queue {name}")));
                things.extend(self.buckets.iter().map(|(bucket, contents)| {
                    format!("empty the bucket {}: {}", bucket.name, described(contents))
                }));
            }
            Mode::Delete => {
                let instance = |instance: &Instance| {
                    let purpose = instance.tag(tag::ROLE).unwrap_or("instance");
                    format!("terminate {} ({purpose}, {})", instance.id, instance.state.as_str())
                };
                things.extend(self.instances.iter().map(instance));
                things.extend(
                    self.images
                        .iter()
                        .map(|baked| format!("delete the image {} ({})", baked.image.id, baked.name)),
                );
                things.extend(self.snapshots.iter().map(|id| format!("delete the snapshot {id}")));
                let name = |group: &SecurityGroup| group.group_name().unwrap_or_default().to_owned();
                things.extend(
                    self.groups.iter().map(|group| format!("delete the security group {}", name(group))),
                );
                things.extend(self.addresses.iter().map(|it| format!("release the Elastic IP {}", it.ip)));
                things.extend(self.has_key_pair.then(|| "delete the key pair (its file stays)".to_owned()));
                let named = |kind: &document::Kind| format!("delete the SSM document {}", kind.purpose());
                things.extend(self.documents.iter().map(named));
                let role = |name: &String| format!("delete the role and instance profile {name}");
                things.extend(self.roles.iter().map(role));
                things.extend(self.queues.iter().map(|name| format!("delete the queue {name}")));
                let verb = if self.stack.is_some() { "empty" } else { "delete" };
                things.extend(self.buckets.iter().map(|(bucket, contents)| {
                    format!("{verb} the bucket {} with {}", bucket.name, described(contents))
                }));
            }
        }
        things
    }

    fn text(&self, account: &Account, mode: Mode) -> String {
        let mut text = format!(
            "The installation `{}` in {}, account {}:\n\n",
            account.prefix(),
            account.region,
            account.id
        );
        self.things(mode).iter().for_each(|thing| text += &format!("  {thing}\n"));
        if let (Some(stack), Mode::Delete) = (&self.stack, mode) {
            text += &format!("\n{}\n", rest_of(stack));
        }
        text
    }

    fn workers_at_work(&self) -> impl Iterator<Item = String> {
        let at_work = |instance: &&Instance| {
            instance.tag(tag::ROLE) == Some(tag::WORKER)
                && matches!(instance.state, State::Pending | State::Running)
        };
        self.instances.iter().filter(at_work).map(|instance| instance.id.clone())
    }

    async fn clear(&self, account: &Account, progress: &Progress) -> anyhow::Result<()> {
        // Request queues first: as long as they have jobs, a controller elsewhere starts workers.
        let (jobs, others): (Vec<_>, Vec<_>) =
            self.queues.iter().partition(|name| name.starts_with(&requests_name("")));
        for name in jobs.into_iter().chain(others) {
            progress.show(&format!("emptying the queue {name}"));
            account.sqs.open(name, Default::default()).await?.purge().await?;
            progress.done(&format!("emptied the queue {name}"));
        }
        let workers: Vec<_> = self.workers_at_work().collect();
        if !workers.is_empty() {
            progress.show("stopping the workers");
            instances::stop(account, &workers).await?;
            instances::wait_for(account, &workers, &State::Stopped, GONE_WITHIN).await?;
            progress.done(&format!("stopped {}", workers.join(", ")));
        }
        for (bucket, contents) in &self.buckets {
            empty(account, bucket, *contents, progress).await?;
        }
        Ok(())
    }

    async fn delete(&self, account: &Account, progress: &Progress) -> anyhow::Result<()> {
        // Web hosts first, since their controllers would replace missing workers.
        let (hosts, others): (Vec<_>, Vec<_>) =
            self.instances.iter().partition(|instance| instance.tag(tag::ROLE) == Some(tag::WEB));
        for group in [hosts, others] {
            let ids: Vec<_> = group.into_iter().map(|instance| instance.id.clone()).collect();
            instances::terminate(account, &ids).await?;
        }
        let ids: Vec<_> = self.instances.iter().map(|instance| instance.id.clone()).collect();
        if !ids.is_empty() {
            progress.show("waiting for the instances to end");
            wait_until_gone(account, &ids).await?;
            progress.done(&format!("terminated {}", count(ids.len() as u64, "instance")));
        }
        for address in &self.addresses {
            address::release(account, address).await?;
            progress.done(&format!("released the Elastic IP {}", address.ip));
        }
        for baked in &self.images {
            image::delete(account, baked).await?;
            progress.done(&format!("deleted the image {}", baked.image.id));
        }
        image::delete_snapshots(account, &self.snapshots).await?;
        for group in &self.groups {
            let name = group.group_name().unwrap_or_default();
            progress.show(&format!("deleting the security group {name}"));
            delete_group(account, group).await?;
            progress.done(&format!("deleted the security group {name}"));
        }
        if self.has_key_pair {
            key_pair::delete(account).await?;
            progress.done("deleted the key pair");
        }
        for kind in &self.documents {
            document::delete(account, *kind).await?;
            progress.done(&format!("deleted the SSM document {}", kind.purpose()));
        }
        for name in &self.roles {
            iam::delete(account, name).await?;
            progress.done(&format!("deleted the role {name}"));
        }
        // Includes response queues that web hosts created since the inspection.
        for name in queues::all(account).await? {
            if self.stack.is_some() && !name.starts_with(&responses_name("")) {
                continue;
            }
            account.sqs.delete(&name).await?;
            progress.done(&format!("deleted the queue {name}"));
        }
        for (bucket, contents) in &self.buckets {
            empty(account, bucket, *contents, progress).await?;
            if self.stack.is_some() {
                continue;
            }
            bucket.delete(account).await?;
            progress.done(&format!("deleted the bucket {}", bucket.name));
        }
        Ok(())
    }
}

fn rest_of(stack: &str) -> String {
    format!(
        "The stack {stack} keeps the rest: `aws cloudformation delete-stack --stack-name {stack}` deletes it."
    )
}

fn described(contents: &Contents) -> String {
    let Contents { versions, bytes, uploads } = contents;
    let unfinished = match uploads {
        0 => String::new(),
        uploads => format!(" and {}", count(*uploads, "unfinished upload")),
    };
    format!("{} ({}){unfinished}", count(*versions, "blob"), ByteSize(*bytes))
}

async fn empty(
    account: &Account,
    bucket: &Bucket,
    contents: Contents,
    progress: &Progress,
) -> anyhow::Result<()> {
    let mut gone = 0;
    let say = |gone: u64| {
        progress.show(&format!("emptying the bucket {}: {gone} of {}", bucket.name, contents.versions));
    };
    say(gone);
    bucket
        .empty(account, |deleted| {
            gone += deleted;
            say(gone);
        })
        .await?;
    progress.done(&format!("emptied the bucket {}", bucket.name));
    Ok(())
}

async fn wait_until_gone(account: &Account, ids: &[String]) -> anyhow::Result<()> {
    let deadline = Instant::now() + GONE_WITHIN;
    loop {
        let left = instances::described(account, None).await?;
        let mut left = left.iter().filter(|one| ids.contains(&one.id) && one.state != State::Terminated);
        let Some(late) = left.next() else { return Ok(()) };
        anyhow::ensure!(
            Instant::now() < deadline,
            "{} is not gone within {}: it is {}",
            late.id,
            humantime::format_duration(GONE_WITHIN),
            late.state.as_str()
        );
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Deletes a security group, which remains in use for some time after its instances have ended.
async fn delete_group(account: &Account, group: &SecurityGroup) -> anyhow::Result<()> {
    let deadline = Instant::now() + FREE_WITHIN;
    loop {
        match network::delete_group(account, group).await {
            Err(error)
                if format!("{error:#}").contains("DependencyViolation") && Instant::now() < deadline =>
            {
                tokio::time::sleep(LOOK_EVERY).await;
            }
            ended => return ended,
        }
    }
}
