//! Tests the fleet against the emulator: the contract, and behaviour of EC2 and SSM beyond the
//! contract.

mod launched;
mod replayed;

use std::sync::atomic::{AtomicU32, Ordering};

use aws_sdk_ec2::types::{ResourceType, TagSpecification};
use aws_sdk_ssm::types::{DocumentFormat, DocumentType};
use eirs_platform::{clock::SystemClock, testing::emulator::Emulator};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::*;
use crate::{
    fleet::{SharedFleet, Tier, contract, ssm},
    policy::Launch,
};

/// Time after which a condition counts as never reached, even on a busy machine.
const NEVER: Duration = Duration::from_secs(60);
/// Fast machines that register with SSM at once.
const QUICK: [&str; 8] =
    ["--pending", "0.1", "--stopping", "0.1", "--ssm-delay", "0", "--invocation-lag", "0.1"];

/// Polls a condition until a deadline.
struct Poll(Instant);

impl Poll {
    fn new() -> Self {
        Self(Instant::now() + NEVER)
    }

    /// Waits before the next attempt; panics after the deadline. The emulator is a separate program
    /// and does not announce changes.
    async fn retry(&self, what: impl std::fmt::Debug) {
        assert!(Instant::now() < self.0, "never: {what:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

static ACCOUNTS: AtomicU32 = AtomicU32::new(1);

/// An account with parked machines and a document that does nothing: the rig simulates the
/// machines.
struct Rig<'a> {
    emulator: &'a Emulator,
    config: SdkConfig,
    settings: Aws,
    fleet: Ec2Fleet,
}

impl<'a> Rig<'a> {
    async fn new(emulator: &'a Emulator, machines: i32) -> Self {
        let config = emulator.account(ACCOUNTS.fetch_add(1, Ordering::Relaxed)).await;
        let settings = emulator.settings();
        let ssm = ssm::client(&config, &settings);
        let step =
            json!({ "action": "aws:runShellScript", "name": "drain", "inputs": { "runCommand": ["true"] } });
        let content = json!({
            "schemaVersion": "2.2",
            "parameters": { ssm::GENERATION_PARAMETER: { "type": "String" } },
            "mainSteps": [step],
        });
        let call = ssm.create_document().name(ssm::document_name("eirs")).content(content.to_string());
        let call = call.document_type(DocumentType::Command).document_format(DocumentFormat::Json);
        // On a busy machine the answer may be late, and the SDK repeats the call.
        if let Err(error) = call.send().await {
            assert_eq!(aws::code(&error), Some("DocumentAlreadyExists"), "{error:?}");
        }
        let fleet = Ec2Fleet::of(&config, &settings, Arc::new(SystemClock));
        let rig = Self { emulator, config, settings, fleet };
        rig.park(machines, "p").await;
        rig
    }

    async fn park(&self, machines: i32, pool: &str) {
        let (ec2, ssm) = (&self.fleet.client, ssm::client(&self.config, &self.settings));
        let name = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64";
        let image = ssm.get_parameter().name(name).send().await.expect("an image");
        let image = image.parameter.and_then(|parameter| parameter.value).expect("its id");
        let tag = |key: &str, value: &str| Tag::builder().key(key).value(value).build();
        let tags = TagSpecification::builder().resource_type(ResourceType::Instance);
        let tags = tags
            .tags(tag(tag::INSTALLATION, "eirs"))
            .tags(tag(tag::ROLE, tag::WORKER))
            .tags(tag(tag::POOL, pool));
        let call = ec2.run_instances().image_id(image).min_count(machines).max_count(machines);
        let made = call.tag_specifications(tags.build()).send().await.expect("instances");
        let ids: Vec<_> = made.instances().iter().filter_map(|i| i.instance_id.clone()).collect();
        self.until(&ids, "running").await;
        ec2.stop_instances().set_instance_ids(Some(ids.clone())).send().await.expect("stopped");
        self.until(&ids, "stopped").await;
        let tagged =
            ec2.create_tags().set_resources(Some(ids)).tags(tag(tag::HANDED_OVER, tag::YES)).send().await;
        tagged.expect("tagged as handed over");
    }

    async fn until(&self, ids: &[String], state: &str) {
        let poll = Poll::new();
        loop {
            let call = self.fleet.client.describe_instances().set_instance_ids(Some(ids.to_vec()));
            let answer = call.send().await.expect("a description");
            let mut instances = answer.reservations().iter().flat_map(|reservation| reservation.instances());
            if instances.all(|i| i.state().and_then(|s| s.name()).is_some_and(|name| name.as_str() == state))
            {
                return;
            }
            poll.retry((state, answer)).await;
        }
    }

    fn pools(&self) -> [PoolSpec; 1] {
        [PoolSpec { name: "p".into(), model: "default".into(), max: 3, launch: Launch::default() }]
    }

    async fn list(&self) -> Vec<Instance> {
        self.fleet.list(&self.pools()).await.expect("a list")
    }

    /// Lists until `holds` returns true.
    async fn until_listed(&self, what: &str, holds: impl Fn(&[Instance]) -> bool) -> Vec<Instance> {
        let poll = Poll::new();
        loop {
            let listed = self.list().await;
            if holds(&listed) {
                return listed;
            }
            poll.retry((what, listed)).await;
        }
    }

    /// Starts one machine and waits until it runs.
    async fn started(&self) -> Instance {
        let id = self.list().await[0].id.clone();
        assert!(self.fleet.start(std::slice::from_ref(&id)).await.is_empty());
        self.until(std::slice::from_ref(&id), "running").await;
        let listed = self.list().await;
        listed.into_iter().find(|instance| instance.id == id).expect("listed")
    }

    fn die(&self, id: &str, code: &str) {
        self.emulator.harness("POST", &format!("instance/{id}/die"), &json!({ "code": code }).to_string());
    }
}

#[async_trait]
impl contract::Rig for Rig<'_> {
    fn fleet(&self) -> SharedFleet {
        Arc::new(self.fleet.clone())
    }

    async fn reopen(&mut self) {
        self.fleet = Ec2Fleet::of(&self.config, &self.settings, Arc::new(SystemClock));
    }

    async fn ready(&self, instance: &Instance) {
        self.until(std::slice::from_ref(&instance.id), "running").await;
    }

    async fn kill(&self, instance: &Instance) {
        self.die(&instance.id, "Server.SpotInstanceShutdown");
    }

    async fn leave(&self, instance: &Instance) {
        self.die(&instance.id, "Client.InstanceInitiatedShutdown");
    }
}

/// The contract uses pools of one, two or three machines.
#[tokio::test(flavor = "multi_thread")]
async fn the_fleet_of_ec2_keeps_the_contract() {
    let Some(emulator) = Emulator::start(&QUICK) else { return };
    contract::suite(&async || Rig::new(&emulator, 3).await).await;
}

async fn rig<'a>(emulator: &'a Option<Emulator>) -> Option<Rig<'a>> {
    match emulator {
        Some(emulator) => Some(Rig::new(emulator, 3).await),
        None => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_machines_are_started_by_one_call_and_described_by_one() {
    let emulator = Emulator::start(&QUICK);
    let Some(rig) = rig(&emulator).await else { return };
    let ids: Vec<_> = rig.list().await.into_iter().map(|instance| instance.id).collect();
    let before = (rig.emulator.calls("StartInstances"), rig.emulator.calls("CreateTags"));
    assert!(rig.fleet.start(&ids).await.is_empty());
    assert_eq!(rig.emulator.calls("StartInstances") - before.0, 1);
    assert_eq!(rig.emulator.calls("CreateTags") - before.1, 1, "one call tags their generation");
    rig.until(&ids, "running").await;
    let before = rig.emulator.calls("DescribeInstances");
    let listed = rig.list().await;
    assert!(listed.iter().all(|instance| instance.state == State::Running), "{listed:?}");
    assert_eq!(rig.emulator.calls("DescribeInstances") - before, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_place_is_distinguished_from_a_broken_machine_and_left_alone() {
    let emulator = Emulator::start(&QUICK);
    let Some(rig) = rig(&emulator).await else { return };
    let ids: Vec<_> = rig.list().await.into_iter().map(|instance| instance.id).collect();
    let fault = json!({ "op": "StartInstances", "code": "InsufficientInstanceCapacity", "times": 1000 });
    rig.emulator.fault(&fault);
    let refused = rig.fleet.start(&ids).await;
    assert_eq!(refused.len(), 3);
    assert!(refused.iter().all(|r| matches!(r.error, Error::NoCapacity { .. })), "{refused:?}");
    rig.emulator.harness("DELETE", "faults", "");
    let before = rig.emulator.calls("StartInstances");
    assert_eq!(
        rig.fleet.start(&ids).await.len(),
        3,
        "the place is left alone although it has capacity again"
    );
    assert_eq!(rig.emulator.calls("StartInstances"), before, "no call is made");
    assert!(rig.list().await.iter().all(|instance| instance.state == State::Stopped));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_machine_between_two_states_does_not_block_the_others() {
    let emulator = Emulator::start(&QUICK);
    let Some(rig) = rig(&emulator).await else { return };
    let ids: Vec<_> = rig.list().await.into_iter().map(|instance| instance.id).collect();
    let why = format!("The instance '{}' is not in a state from which it can be started.", ids[1]);
    rig.emulator.fault(&json!({
        "op": "StartInstances", "code": "IncorrectInstanceState", "message": why, "times": 100,
        "match": ids[1],
    }));
    let refused = rig.fleet.start(&ids).await;
    assert_eq!(refused.iter().map(|refusal| &refusal.id).collect::<Vec<_>>(), [&ids[1]]);
    assert!(refused[0].error.is_transient(), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_listing_is_an_error_and_not_an_empty_fleet() {
    let emulator = Emulator::start(&QUICK);
    let Some(rig) = rig(&emulator).await else { return };
    rig.started().await;
    rig.emulator
        .fault(&json!({ "op": "DescribeInstances", "code": "InternalError", "http": 500, "times": 50 }));
    assert!(rig.fleet.list(&rig.pools()).await.is_err());
    rig.emulator.harness("DELETE", "faults", "");
    assert_eq!(rig.list().await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_terminated_by_someone_else_disappears_and_the_others_stay() {
    let emulator = Emulator::start(&QUICK);
    let Some(rig) = rig(&emulator).await else { return };
    let instance = rig.started().await;
    rig.fleet.client.terminate_instances().instance_ids(&instance.id).send().await.expect("terminated");
    let listed = rig.until_listed("it is gone", |listed| listed.len() == 2).await;
    assert!(listed.iter().all(|other| other.id != instance.id));
    rig.emulator.fault(&json!({
        "op": "DescribeInstances", "code": "InvalidInstanceID.NotFound", "times": 1, "match": "i-",
        "message": format!("The instance ID '{}' does not exist", instance.id),
    }));
    assert_eq!(rig.list().await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_names_its_generation_and_is_sent_until_the_machine_has_received_it() {
    let emulator = Emulator::start(&QUICK);
    let Some(rig) = rig(&emulator).await else { return };
    let instance = rig.started().await;
    // The agent does not answer at first.
    rig.emulator.harness(
        "POST",
        &format!("instance/{}/agent", instance.id),
        &json!({ "up": false }).to_string(),
    );
    rig.fleet.drain(&instance.id, Duration::from_secs(60)).await.expect("it drains");
    let draining = rig.list().await.into_iter().find(|i| i.id == instance.id).expect("listed");
    assert_eq!((draining.state, draining.generation), (State::Draining, instance.generation.clone()));
    rig.emulator.harness(
        "POST",
        &format!("instance/{}/agent", instance.id),
        &json!({ "up": true }).to_string(),
    );
    let drains = rig.fleet.drains.clone().expect("a fleet that acts");
    rig.until_listed("the drain arrives", |_| drains.has_arrived(&instance.id)).await;
    let sent = rig.emulator.calls("SendCommand");
    rig.list().await;
    assert_eq!(rig.emulator.calls("SendCommand"), sent, "it is not sent again");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_controller_sends_a_drain_that_the_last_one_may_not_have_sent() {
    let emulator = Emulator::start(&QUICK);
    let Some(mut rig) = rig(&emulator).await else { return };
    let instance = rig.started().await;
    rig.emulator
        .fault(&json!({ "op": "SendCommand", "code": "InternalServerError", "http": 500, "times": 3 }));
    rig.fleet.drain(&instance.id, Duration::from_secs(60)).await.expect("it is tagged");
    contract::Rig::reopen(&mut rig).await;
    rig.emulator.harness("DELETE", "faults", "");
    let before = rig.emulator.calls("SendCommand");
    rig.until_listed("it drains", |listed| listed.iter().any(|i| i.state == State::Draining)).await;
    let poll = Poll::new();
    while rig.emulator.calls("SendCommand") == before {
        poll.retry("the next controller sends it").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_starts_no_machine_twice_and_the_start_is_found() {
    let emulator = Emulator::start(&QUICK);
    let Some(rig) = rig(&emulator).await else { return };
    let id = rig.list().await[0].id.clone();
    // Carried out, but reported as failed in each attempt of the SDK.
    rig.emulator.fault(
        &json!({ "op": "StartInstances", "code": "InternalError", "http": 500, "times": 3, "after": true }),
    );
    let refused = rig.fleet.start(std::slice::from_ref(&id)).await;
    assert!(refused.iter().all(|refusal| refusal.error.is_transient()), "{refused:?}");
    let listed = rig.until_listed("it runs", |listed| listed.iter().any(|i| i.state == State::Running)).await;
    let running: Vec<_> = listed.iter().filter(|instance| instance.is_alive()).collect();
    assert_eq!(running.len(), 1);
    let described = describe::all(&rig.fleet.client, "eirs").await.expect("a listing");
    let tagged =
        described.into_iter().find(|machine| machine.id == id).and_then(|machine| machine.generation);
    assert_eq!(running[0].generation, tagged, "it has the generation that the machine reads");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_fleet_gives_no_orders() {
    let emulator = Emulator::start(&QUICK);
    let Some(rig) = rig(&emulator).await else { return };
    let instance = rig.started().await;
    rig.emulator
        .fault(&json!({ "op": "SendCommand", "code": "InternalServerError", "http": 500, "times": 3 }));
    rig.fleet.drain(&instance.id, Duration::from_secs(60)).await.expect("it is tagged");
    rig.emulator.harness("DELETE", "faults", "");
    let looking =
        Ec2Fleet { drains: None, ..Ec2Fleet::of(&rig.config, &rig.settings, Arc::new(SystemClock)) };
    let before: Value = serde_json::from_str(&rig.emulator.harness("GET", "calls", "")).expect("JSON");
    let seen = looking.list(&rig.pools()).await.expect("a list");
    assert!(seen.iter().any(|instance| instance.state == State::Draining));
    let after: Value = serde_json::from_str(&rig.emulator.harness("GET", "calls", "")).expect("JSON");
    for call in ["SendCommand", "StartInstances", "StopInstances", "CreateTags"] {
        assert_eq!(before[call], after[call], "{call}");
    }
}
