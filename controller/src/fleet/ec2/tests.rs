//! The fleet against the emulator: the contract, and what EC2 and SSM do to a fleet that a contract
//! knows nothing of.

use std::sync::atomic::{AtomicU32, Ordering};

use aws_sdk_ec2::types::{ResourceType, TagSpecification};
use aws_sdk_ssm::types::{DocumentFormat, DocumentType};
use eirs_platform::{
    clock::SystemClock,
    testing::{
        emulator::Emulator,
        replay::{Answer, Replay},
    },
};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::*;
use crate::{
    fleet::{SharedFleet, Tier, contract, ssm},
    policy::{Launch, Market},
};

/// How long anything may take on a busy machine before it counts as never.
const NEVER: Duration = Duration::from_secs(60);
/// Fast machines that register with SSM at once.
const QUICK: [&str; 8] =
    ["--pending", "0.1", "--stopping", "0.1", "--ssm-delay", "0", "--invocation-lag", "0.1"];

static ACCOUNTS: AtomicU32 = AtomicU32::new(1);

/// An account with parked machines, and a document that does nothing: the rig plays the machine's
/// part.
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
        // On a busy machine its answer may be late, and the SDK asks again.
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
        ec2.stop_instances().set_instance_ids(Some(ids.clone())).send().await.expect("they stop");
        self.until(&ids, "stopped").await;
        let tagged =
            ec2.create_tags().set_resources(Some(ids)).tags(tag(tag::HANDED_OVER, tag::YES)).send().await;
        tagged.expect("they are handed over");
    }

    async fn until(&self, ids: &[String], state: &str) {
        let deadline = Instant::now() + NEVER;
        loop {
            let call = self.fleet.client.describe_instances().set_instance_ids(Some(ids.to_vec()));
            let answer = call.send().await.expect("a description");
            let mut instances = answer.reservations().iter().flat_map(|reservation| reservation.instances());
            if instances.all(|i| i.state().and_then(|s| s.name()).is_some_and(|name| name.as_str() == state))
            {
                return;
            }
            assert!(Instant::now() < deadline, "{ids:?} should be {state}: {answer:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn pools(&self) -> [PoolSpec; 1] {
        [PoolSpec { name: "p".into(), model: "default".into(), max: 3, launch: Launch::default() }]
    }

    async fn list(&self) -> Vec<Instance> {
        self.fleet.list(&self.pools()).await.expect("a list")
    }

    /// Lists until this holds.
    async fn until_listed(&self, what: &str, holds: impl Fn(&[Instance]) -> bool) -> Vec<Instance> {
        let deadline = Instant::now() + NEVER;
        loop {
            let listed = self.list().await;
            if holds(&listed) {
                return listed;
            }
            assert!(Instant::now() < deadline, "{what}; last seen: {listed:#?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Starts one machine and waits until it runs and SSM knows it.
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

/// The pools of the contract have one, two or three machines.
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
async fn many_machines_are_started_by_one_call_and_described_by_few() {
    let emulator = Emulator::start(&QUICK);
    let Some(rig) = rig(&emulator).await else { return };
    let ids: Vec<_> = rig.list().await.into_iter().map(|instance| instance.id).collect();
    let before = (rig.emulator.calls("StartInstances"), rig.emulator.calls("CreateTags"));
    assert!(rig.fleet.start(&ids).await.is_empty());
    assert_eq!(rig.emulator.calls("StartInstances") - before.0, 1);
    assert_eq!(rig.emulator.calls("CreateTags") - before.1, 1, "and by one call for their generation");
    rig.until(&ids, "running").await;
    let before = rig.emulator.calls("DescribeInstances");
    let listed = rig.list().await;
    assert!(listed.iter().all(|instance| instance.state == State::Running), "{listed:?}");
    assert_eq!(rig.emulator.calls("DescribeInstances") - before, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_place_is_told_from_a_broken_machine_and_rests() {
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
    assert_eq!(rig.fleet.start(&ids).await.len(), 3, "it rests, though it would give again");
    assert_eq!(rig.emulator.calls("StartInstances"), before, "and is not even asked");
    assert!(rig.list().await.iter().all(|instance| instance.state == State::Stopped));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_machine_in_between_two_states_does_not_keep_the_others() {
    let emulator = Emulator::start(&QUICK);
    let Some(rig) = rig(&emulator).await else { return };
    let ids: Vec<_> = rig.list().await.into_iter().map(|instance| instance.id).collect();
    let why = format!("The instance '{}' is not in a state from which it can be started.", ids[1]);
    rig.emulator.fault(&json!({
        "op": "StartInstances", "code": "IncorrectInstanceState", "message": why, "times": 100, "match": ids[1],
    }));
    let refused = rig.fleet.start(&ids).await;
    assert_eq!(refused.iter().map(|refusal| &refusal.id).collect::<Vec<_>>(), [&ids[1]]);
    assert!(refused[0].error.is_transient(), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_that_fails_is_no_empty_fleet() {
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
async fn a_machine_that_was_terminated_under_the_controller_is_left_out_and_the_others_are_seen() {
    let emulator = Emulator::start(&QUICK);
    let Some(rig) = rig(&emulator).await else { return };
    let instance = rig.started().await;
    rig.fleet.client.terminate_instances().instance_ids(&instance.id).send().await.expect("it goes");
    let listed = rig.until_listed("it is gone", |listed| listed.len() == 2).await;
    assert!(listed.iter().all(|other| other.id != instance.id));
    rig.emulator.fault(&json!({
        "op": "DescribeInstances", "code": "InvalidInstanceID.NotFound", "times": 1, "match": "i-",
        "message": format!("The instance ID '{}' does not exist", instance.id),
    }));
    assert_eq!(rig.list().await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_names_its_generation_and_is_told_again_until_the_machine_has_it() {
    let emulator = Emulator::start(&QUICK);
    let Some(rig) = rig(&emulator).await else { return };
    let instance = rig.started().await;
    // The agent is silent at first.
    rig.emulator.harness(
        "POST",
        &format!("instance/{}/agent", instance.id),
        &json!({ "up": false }).to_string(),
    );
    rig.fleet.drain(&instance.id, Duration::from_secs(60)).await.expect("it drains from now on");
    let draining = rig.list().await.into_iter().find(|i| i.id == instance.id).expect("listed");
    assert_eq!((draining.state, draining.generation), (State::Draining, instance.generation.clone()));
    rig.emulator.harness(
        "POST",
        &format!("instance/{}/agent", instance.id),
        &json!({ "up": true }).to_string(),
    );
    let drains = rig.fleet.drains.clone().expect("a fleet that acts");
    let deadline = Instant::now() + NEVER;
    while !drains.has_arrived(&instance.id) {
        assert!(Instant::now() < deadline, "the drain arrives");
        rig.list().await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let told = rig.emulator.calls("SendCommand");
    rig.list().await;
    assert_eq!(rig.emulator.calls("SendCommand"), told, "and is not told any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_controller_tells_a_drain_that_the_last_one_may_not_have_told() {
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
    let deadline = Instant::now() + NEVER;
    while rig.emulator.calls("SendCommand") == before {
        assert!(Instant::now() < deadline, "it is reported");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_lost_starts_nobody_twice_and_the_start_is_found() {
    let emulator = Emulator::start(&QUICK);
    let Some(rig) = rig(&emulator).await else { return };
    let id = rig.list().await[0].id.clone();
    // Done, and then reported as failed, for as often as the SDK tries.
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
    assert_eq!(running[0].generation, tagged, "the generation that the machine reads");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_only_looks_tells_nobody_anything() {
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

async fn replayed(answers: impl IntoIterator<Item = Answer>) -> (Ec2Fleet, Replay) {
    let replay = Replay::new(answers);
    let fleet = Ec2Fleet::of(&replay.config().await, &Aws::default(), Arc::new(SystemClock));
    (fleet, replay)
}

/// A page of DescribeInstances with these stopped machines.
fn page(ids: &[&str], next: Option<&str>) -> Answer {
    let item = |id: &&str| {
        format!(
            "<item><instancesSet><item><instanceId>{id}</instanceId><instanceState><code>80</code><name>stopped</name>\
             </instanceState><tagSet><item><key>eirs:pool</key><value>p</value></item></tagSet></item></instancesSet></item>"
        )
    };
    let items: String = ids.iter().map(item).collect();
    let next = next.map_or_else(String::new, |next| format!("<nextToken>{next}</nextToken>"));
    let text = format!("<reservationSet>{items}</reservationSet>{next}");
    Answer::new(200, format!("<DescribeInstancesResponse>{text}</DescribeInstancesResponse>"))
}

fn refused(code: &str, message: &str) -> Answer {
    let error = format!("<Error><Code>{code}</Code><Message>{message}</Message></Error>");
    Answer::new(400, format!("<Response><Errors>{error}</Errors><RequestID>0</RequestID></Response>"))
}

#[tokio::test]
async fn a_listing_asks_for_what_is_tagged_ours_and_handed_over_and_goes_on_to_the_last_page() {
    let (fleet, replay) = replayed([page(&["i-1", "i-2"], Some("more")), page(&["i-3"], None)]).await;
    let pools = [PoolSpec { name: "p".into(), model: "default".into(), max: 3, launch: Launch::default() }];
    assert_eq!(fleet.list(&pools).await.unwrap().len(), 3);
    let requests = replay.requests();
    for asked in
        ["Filter.1.Name=tag%3Aeirs%3Ainstallation", "Filter.1.Value.1=eirs", "handed-over", "MaxResults=1000"]
    {
        assert!(requests[0].body.contains(asked), "{asked}: {}", requests[0].body);
    }
    assert!(!requests[0].body.contains("InstanceId"), "ids and a page size exclude each other");
    assert!(requests[1].body.contains("NextToken=more"));
    // At rest, nothing is asked until a listing is due again.
    fleet.list(&pools).await.unwrap();
    assert_eq!(replay.requests().len(), 2);
}

#[tokio::test]
async fn ids_that_do_not_exist_are_left_out_of_the_next_call() {
    let (fleet, replay) = replayed([
        refused("InvalidInstanceID.NotFound", "The instance IDs 'i-1, i-3' do not exist"),
        page(&["i-2"], None),
    ])
    .await;
    let ids = ["i-1", "i-2", "i-3"].map(str::to_owned).to_vec();
    let described = describe::some(&fleet.client, ids).await.unwrap();
    assert_eq!((described.gone, described.machines.len()), (vec!["i-1".to_owned(), "i-3".to_owned()], 1));
    let second = &replay.requests()[1].body;
    assert!(second.contains("InstanceId.1=i-2") && !second.contains("InstanceId.2"), "{second}");
    // One that EC2 does not name is no reason to go on.
    let (fleet, _replay) = replayed([refused("InvalidInstanceID.NotFound", "something else")]).await;
    assert!(describe::some(&fleet.client, vec!["i-1".to_owned()]).await.is_err());
}

#[tokio::test]
async fn many_machines_are_described_two_hundred_at_a_time() {
    let (fleet, replay) = replayed([page(&[], None), page(&[], None), page(&[], None)]).await;
    let ids = (0..450).map(|number| format!("i-{number:017x}")).collect();
    describe::some(&fleet.client, ids).await.unwrap();
    let sizes: Vec<_> = replay.requests().iter().map(|r| r.body.matches("InstanceId.").count()).collect();
    assert_eq!(sizes, [200, 200, 50]);
}

#[tokio::test]
async fn a_start_is_tagged_first_and_a_refused_tag_starts_nobody() {
    let (fleet, replay) = replayed([page(&["i-1"], None), refused("UnauthorizedOperation", "no")]).await;
    fleet
        .list(&[PoolSpec { name: "p".into(), model: "dogs".into(), max: 1, launch: Launch::default() }])
        .await
        .unwrap();
    let refusals = fleet.start(&["i-1".to_owned()]).await;
    assert!(matches!(refusals[0].error, Error::Broken { .. }), "{refusals:?}");
    let requests = replay.requests();
    assert_eq!(requests.len(), 2, "no start was tried");
    let tags = &requests[1].body;
    assert!(tags.starts_with("Action=CreateTags"), "{tags}");
    assert!(
        tags.contains("eirs%3Ageneration") && tags.contains("eirs%3Amodel") && tags.contains("dogs"),
        "{tags}"
    );
}

#[tokio::test]
async fn a_drain_is_one_order_of_our_document_that_waits_half_a_minute_and_names_its_generation() {
    let command = json!({ "Command": { "CommandId": "c" } }).to_string();
    let replay = Replay::new([Answer::new(200, command)]);
    let drains = ssm::Drains::new(&replay.config().await, &Aws::default());
    let delivery = drains.tell("i-1", "20260101T000000.000000Z", chrono::Utc::now()).await;
    assert_eq!(delivery, ssm::Delivery::UnderWay);
    let order: Value = serde_json::from_str(&replay.requests()[0].body).unwrap();
    assert_eq!(
        order,
        json!({
            "DocumentName": "eirs-drain",
            "InstanceIds": ["i-1"],
            "Parameters": { "Generation": ["20260101T000000.000000Z"] },
            "TimeoutSeconds": 30,
        })
    );
}

/// Three parked machines, and a policy by which thirty may be launched.
fn launching(types: &[&str], market: Market) -> [PoolSpec; 1] {
    let types = types.iter().map(|kind| (*kind).to_owned()).collect();
    let launch = Launch { most: 30, types, market, ..Launch::default() };
    [PoolSpec { name: "p".into(), model: "default".into(), max: 3, launch }]
}

#[tokio::test(flavor = "multi_thread")]
async fn thirty_are_launched_in_one_call_when_the_parked_ones_do_not_suffice_and_are_gone_again() {
    let emulator = Emulator::start(&QUICK);
    let Some(rig) = rig(&emulator).await else { return };
    let pools = launching(&["t3.small", "t3a.small"], Market::OnDemand);
    let listed = rig.fleet.list(&pools).await.unwrap();
    let places = listed.iter().filter(|instance| instance.tier == Tier::Launched);
    let places: Vec<_> = places.map(|place| place.id.clone()).collect();
    assert_eq!((listed.len(), places.len()), (33, 30));
    let before = rig.emulator.calls("RunInstances");
    assert!(rig.fleet.start(&places).await.is_empty());
    assert_eq!(rig.emulator.calls("RunInstances") - before, 1);

    let listed = rig.fleet.list(&pools).await.unwrap();
    let launched: Vec<_> = listed.iter().filter(|instance| instance.tier == Tier::Launched).collect();
    assert!(launched.len() == 30 && launched.iter().all(|it| it.state == State::Running), "{launched:#?}");
    let machines: Vec<_> = launched.iter().filter_map(|it| it.machine.clone()).collect();
    rig.until(&machines, "running").await;
    let call = rig.fleet.client.describe_instances().set_instance_ids(Some(machines.clone()));
    let described = call.send().await.unwrap();
    for instance in described.reservations().iter().flat_map(|reservation| reservation.instances()) {
        let tag =
            |key: &str| instance.tags().iter().find(|tag| tag.key() == Some(key)).and_then(|tag| tag.value());
        let (pool, tier) = (tag(tag::POOL), tag(tag::TIER));
        assert_eq!((tag(tag::HANDED_OVER), pool, tier), (Some(tag::YES), Some("p"), Some(tag::LAUNCHED)));
        assert_eq!(
            tag(tag::GENERATION),
            launched[0].generation.as_deref(),
            "it is tagged from its first moment"
        );
        assert_eq!(instance.instance_type().map(|kind| kind.as_str()), Some("t3.small"));
    }

    // Another controller finds them, under the same names or others.
    let another = Ec2Fleet::of(&rig.config, &rig.settings, Arc::new(SystemClock));
    let found = another.list(&pools).await.unwrap();
    let names = |listed: &[Instance]| {
        let launched = listed.iter().filter(|it| it.machine.is_some());
        launched.map(|it| it.id.clone()).collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(names(&found), names(&listed));
    for id in names(&found) {
        another.stop(&id).await.unwrap();
    }
    rig.until(&machines, "terminated").await;
    let deadline = Instant::now() + NEVER;
    while another.list(&pools).await.unwrap().iter().any(|it| it.machine.is_some()) {
        assert!(Instant::now() < deadline, "the places are empty");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(another.start(&places[..1]).await.is_empty(), "and can be filled again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_type_without_capacity_is_followed_by_the_next_and_rests() {
    let emulator = Emulator::start(&QUICK);
    let Some(rig) = rig(&emulator).await else { return };
    let pools = launching(&["t3.small", "t3a.small"], Market::Spot);
    let fault = |kind: &str| {
        let code = "InsufficientInstanceCapacity";
        rig.emulator
            .fault(&json!({ "op": "RunInstances", "code": code, "times": 1000, "instance_type": kind }));
    };
    fault("t3.small");
    let listed = rig.fleet.list(&pools).await.unwrap();
    let places: Vec<_> =
        listed.iter().filter(|it| it.tier == Tier::Launched).map(|it| it.id.clone()).collect();
    assert!(rig.fleet.start(&places[..2]).await.is_empty());
    let listed = rig.fleet.list(&pools).await.unwrap();
    let machines: Vec<_> = listed.iter().filter_map(|it| it.machine.clone()).collect();
    let described =
        rig.fleet.client.describe_instances().set_instance_ids(Some(machines)).send().await.unwrap();
    let kinds = described.reservations().iter().flat_map(|reservation| reservation.instances());
    assert!(
        kinds.clone().count() == 2
            && kinds.clone().all(|it| it.instance_type().unwrap().as_str() == "t3a.small")
    );
    fault("t3a.small");
    let refused = rig.fleet.start(&places[2..4]).await;
    assert!(
        refused.len() == 2 && refused.iter().all(|r| matches!(r.error, Error::NoCapacity { .. })),
        "{refused:?}"
    );
    let before = rig.emulator.calls("RunInstances");
    assert_eq!(rig.fleet.start(&places[2..4]).await.len(), 2);
    assert_eq!(rig.emulator.calls("RunInstances"), before, "they rest, and nobody is asked");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_whose_machine_is_taken_back_rests_and_is_filled_again() {
    let emulator = Emulator::start(&QUICK);
    let Some(rig) = rig(&emulator).await else { return };
    let pools = launching(&[], Market::Spot);
    rig.fleet.list(&pools).await.unwrap();
    let place = "p-launched-1".to_owned();
    assert!(rig.fleet.start(std::slice::from_ref(&place)).await.is_empty());
    let machine = async || {
        let listed = rig.fleet.list(&pools).await.unwrap();
        listed.into_iter().find(|it| it.id == place).expect("its place")
    };
    let id = machine().await.machine.expect("a machine");
    rig.until(std::slice::from_ref(&id), "running").await;
    machine().await;
    let died = json!({ "code": "Server.SpotInstanceTermination", "terminate": true }).to_string();
    rig.emulator.harness("POST", &format!("instance/{id}/die"), &died);
    let deadline = Instant::now() + NEVER;
    let empty = loop {
        let now = machine().await;
        if now.machine.is_none() {
            break now;
        }
        assert!(Instant::now() < deadline, "{now:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!((empty.state, empty.crashes), (State::Stopped, 1));
    assert!(empty.last_error.is_some(), "{empty:?}");
}
