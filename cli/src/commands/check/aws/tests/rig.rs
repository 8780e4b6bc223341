//! An account of the emulator, with as much of an installation in it as a test wants.

use std::{
    fs,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use aws_config::sts::AssumeRoleProvider;
use aws_sdk_ec2::types::{ResourceType, Tag, TagSpecification};
use chrono::Utc;
use eirs_platform::{
    aws::tag,
    job::{Guess, Outcome, Reply, encode},
    settings::{BackendKind, Settings},
    testing::{self, emulator::Emulator},
};
use serde_json::json;

use super::super::{Look, Place, Report, instances};
use crate::aws::{
    Account,
    buckets::Bucket,
    document,
    iam::{Profile, Role},
    network, queues,
};

/// How long anything may take on a busy machine before it counts as never.
pub(super) const NEVER: Duration = Duration::from_secs(60);
/// Machines that are where they go at once.
pub(super) const QUICK: [&str; 4] = ["--pending", "0.05", "--stopping", "0.05"];

static ACCOUNTS: AtomicU32 = AtomicU32::new(1);

/// An account, and a host that looks at it.
pub(super) struct Rig<'a> {
    pub(super) emulator: &'a Emulator,
    _folder: tempfile::TempDir,
    pub(super) account: Account,
}

impl<'a> Rig<'a> {
    /// With nothing in it.
    pub(super) async fn new(emulator: &'a Emulator) -> Self {
        let number = ACCOUNTS.fetch_add(1, Ordering::Relaxed);
        let folder = tempfile::tempdir().unwrap();
        let mut settings =
            Settings { backend: BackendKind::Aws, aws: emulator.settings(), ..Settings::default() };
        settings.local.state = folder.path().join("state");
        settings.controller.policies = folder.path().join("policies");
        fs::create_dir_all(&settings.controller.policies).unwrap();
        fs::create_dir_all(&settings.local.state).unwrap();
        let account = Account::of(settings, emulator.account(number).await).await.unwrap();
        Self { emulator, _folder: folder, account }
    }

    /// With everything that setup makes, and `machines` that are parked.
    pub(super) async fn set_up(emulator: &'a Emulator, machines: i32) -> Self {
        let rig = Self::new(emulator).await;
        let account = &rig.account;
        for bucket in Bucket::both(account) {
            bucket.ensure(account).await.unwrap();
        }
        for queue in queues::wanted(&account.settings) {
            queue.ensure(account, &|_| {}).await.unwrap();
        }
        for kind in document::Kind::ALL {
            document::ensure(account, kind).await.unwrap();
        }
        let network = network::find(account).await.unwrap();
        for profile in Profile::all(&account.settings) {
            profile.ensure(account).await.unwrap();
        }
        for role in Role::ALL {
            network::ensure_group(account, &network, role).await.unwrap();
        }
        rig.policy("default", machines);
        rig.launch(machines, tag::WORKER, &[(tag::POOL, "default"), (tag::HANDED_OVER, tag::YES)]).await;
        rig
    }

    pub(super) fn policy(&self, pool: &str, max: i32) {
        let file = self.account.settings.controller.policies.join(format!("{pool}.toml"));
        fs::write(file, format!("[pool]\nmodel = 'default'\nmax = {max}\n")).unwrap();
    }

    /// Machines with these tags, parked; answers their ids.
    pub(super) async fn launch(&self, count: i32, role: &str, tags: &[(&str, &str)]) -> Vec<String> {
        let account = &self.account;
        let image = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64";
        let image = account.ssm.get_parameter().name(image).send().await.unwrap();
        let image = image.parameter.unwrap().value.unwrap();
        let all = [&[(tag::INSTALLATION, account.prefix()), (tag::ROLE, role)], tags].concat();
        let tags = all.iter().map(|(key, value)| Tag::builder().key(*key).value(*value).build()).collect();
        let tags =
            TagSpecification::builder().resource_type(ResourceType::Instance).set_tags(Some(tags)).build();
        let call = account.ec2.run_instances().image_id(image).min_count(count).max_count(count);
        let made = call.tag_specifications(tags).send().await.unwrap();
        let ids: Vec<_> =
            made.instances().iter().filter_map(|instance| instance.instance_id.clone()).collect();
        self.until(&ids, "running").await;
        account.ec2.stop_instances().set_instance_ids(Some(ids.clone())).send().await.unwrap();
        self.until(&ids, "stopped").await;
        ids
    }

    pub(super) async fn start(&self, id: &str) {
        self.account.ec2.start_instances().instance_ids(id).send().await.unwrap();
        self.until(&[id.to_owned()], "running").await;
    }

    pub(super) async fn until(&self, ids: &[String], state: &str) {
        let deadline = Instant::now() + NEVER;
        loop {
            let machines = instances::list(&self.account).await.unwrap();
            let there = machines.iter().filter(|machine| ids.contains(&machine.id) && machine.state == state);
            if there.count() == ids.len() {
                return;
            }
            assert!(Instant::now() < deadline, "{ids:?} should be {state}: {machines:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(super) async fn result(&self, name: &str, label: &str) {
        let outcome = Outcome::Classified { top: vec![Guess { label: label.into(), confidence: 0.5 }] };
        let reply = Reply { name: name.into(), worker: "i-1".into(), ..testing::reply(name, outcome) };
        let key = reply.id.result_key("default", "1");
        let put = self.account.s3.put_object().bucket(self.account.output_bucket()).key(key);
        put.body(encode(&reply).into()).send().await.unwrap();
    }

    pub(super) fn look(&self) -> Look {
        self.look_as(self.account.clone())
    }

    pub(super) fn look_as(&self, account: Account) -> Look {
        Look { settings: account.settings.clone(), place: Some(Place::new(account)) }
    }

    pub(super) async fn report(&self) -> Report {
        self.look().look(Utc::now()).await
    }

    /// The same account, for a role that may do only what this policy allows.
    pub(super) async fn bound(&self, policy: serde_json::Value) -> Account {
        let trust = json!({ "Version": "2012-10-17", "Statement": {
            "Effect": "Allow", "Principal": { "AWS": "*" }, "Action": "sts:AssumeRole",
        } });
        let (iam, name) = (&self.account.iam, "bound");
        iam.create_role()
            .role_name(name)
            .assume_role_policy_document(trust.to_string())
            .send()
            .await
            .unwrap();
        let call = iam.put_role_policy().role_name(name).policy_name("p").policy_document(policy.to_string());
        call.send().await.unwrap();
        let arn = format!("arn:aws:iam::{}:role/{name}", self.account.id);
        let role =
            AssumeRoleProvider::builder(arn).session_name("s").configure(&self.account.config).build().await;
        let config = self.account.config.to_builder();
        let config =
            config.credentials_provider(aws_sdk_sqs::config::SharedCredentialsProvider::new(role)).build();
        Account::of(self.account.settings.clone(), config).await.unwrap()
    }
}
