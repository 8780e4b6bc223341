//! Orders and views of an operator on AWS: the real `eirs` and the real controller, with the
//! emulator.

#![cfg(feature = "aws")]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test says what it could not run, and why it failed"
)]

use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_ec2::types::{ResourceType, Tag, TagSpecification};
use bytes::Bytes;
use chrono::Utc;
use eirs_platform::{
    aws::tag,
    backend::{dead_letters_name, dead_letters_options, events_options, requests_name, requests_options},
    blobs::{BlobStore, s3, s3::S3Blobs},
    job::{self, Job, Outcome, Reply, encode},
    queue::{
        Depth, SharedQueue,
        sqs::{self, SqsQueues},
    },
    settings::{self, Aws},
    testing::{
        self,
        emulator::{Emulator, REGION},
    },
};
use rustix::process::Signal;
use serde_json::Value;

use eirs_harness::{Site, eventually};

const BUCKETS: [&str; 2] = ["eirs-test-input", "eirs-test-output"];
/// Machines that change their state at once.
const QUICK: [&str; 4] = ["--pending", "0.05", "--stopping", "0.05"];
const POLICY: &str =
    "[pool]\nmodel = \"default\"\nmax = 2\n[[rule]]\nkind = \"backlog\"\nper_instance = 10\n";

/// An installation: the resources in the account, and a host whose settings refer to them.
struct Rig {
    site: Site,
    config: SdkConfig,
    aws: Aws,
    queue: settings::Queue,
    queues: SqsQueues,
    images: S3Blobs,
    results: S3Blobs,
    runtime: tokio::runtime::Runtime,
    // The last field, so that it outlives its clients.
    emulator: Emulator,
}

impl Rig {
    fn start() -> Option<Self> {
        let emulator = Emulator::start(&QUICK)?;
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let (config, aws) = (runtime.block_on(emulator.config()), emulator.settings());
        let queues = SqsQueues::new(sqs::client(&config, &aws), &aws.prefix);
        let queue = settings::Queue { visibility: Duration::from_secs(2), ..settings::Queue::default() };
        let s3 = s3::client(&config, &aws);
        runtime.block_on(async {
            for bucket in BUCKETS {
                let place = aws_sdk_s3::types::CreateBucketConfiguration::builder();
                let place = place.location_constraint(REGION.into()).build();
                let made = s3.create_bucket().bucket(bucket).create_bucket_configuration(place).send().await;
                made.expect("a bucket");
            }
            let all = [
                (dead_letters_name("default"), dead_letters_options(&queue)),
                (requests_name("default"), requests_options(&queue, "default")),
                ("events".to_owned(), events_options(&queue)),
            ];
            for (name, options) in all {
                queues.create(&name, options, &[]).await.expect("a queue");
            }
        });
        let site = Site::new()
            .set("EIRS_BACKEND", "aws")
            .set("EIRS_AWS__ENDPOINT", &emulator.url())
            .set("EIRS_AWS__REGION", REGION)
            .set("EIRS_AWS__INPUT_BUCKET", BUCKETS[0])
            .set("EIRS_AWS__OUTPUT_BUCKET", BUCKETS[1])
            .set("EIRS_CONTROLLER__TICK", "200ms")
            .set("AWS_ACCESS_KEY_ID", "test")
            .set("AWS_SECRET_ACCESS_KEY", "test");
        let [images, results] = BUCKETS.map(|bucket| S3Blobs::new(s3.clone(), bucket));
        Some(Self { site, config, aws, queue, queues, images, results, runtime, emulator })
    }

    /// Runs `eirs`: returns the exit code and the output.
    fn eirs(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.site.command("eirs").args(arguments).output().expect("eirs runs");
        let printed = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        (output.status.code().expect("an exit code"), printed.concat())
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let output = self.site.command("eirs").args(arguments).output().expect("eirs runs");
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
    }

    /// Launches parked machines of the pool `default`.
    fn park(&self, count: i32) -> Vec<String> {
        let ec2 = eirs_controller::fleet::ec2::client(&self.config, &self.aws);
        let ssm = eirs_controller::fleet::ssm::client(&self.config, &self.aws);
        let ids: Vec<_> = self.runtime.block_on(async {
            let image = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64";
            let image = ssm.get_parameter().name(image).send().await.expect("an image");
            let image = image.parameter.and_then(|parameter| parameter.value).expect("its id");
            let tags = [
                (tag::INSTALLATION, "eirs"),
                (tag::ROLE, tag::WORKER),
                (tag::POOL, "default"),
                (tag::HANDED_OVER, tag::YES),
            ];
            let tags = tags.map(|(key, value)| Tag::builder().key(key).value(value).build()).to_vec();
            let tags = TagSpecification::builder()
                .resource_type(ResourceType::Instance)
                .set_tags(Some(tags))
                .build();
            let call = ec2.run_instances().image_id(image).min_count(count).max_count(count);
            let made = call.tag_specifications(tags).send().await.expect("instances");
            made.instances().iter().filter_map(|instance| instance.instance_id.clone()).collect()
        });
        let all_are = |state: &str| {
            let instances = self.instances();
            ids.iter()
                .all(|id| instances.iter().any(|i| i["id"] == **id && i["state"] == state))
                .then_some(())
        };
        eventually("they run", || all_are("running"));
        let stop = ec2.stop_instances().set_instance_ids(Some(ids.clone()));
        self.runtime.block_on(stop.send()).expect("they stop");
        eventually("they are parked", || all_are("stopped"));
        ids
    }

    /// As listed by `eirs check`.
    fn instances(&self) -> Vec<Value> {
        self.json(&["check", "--json"])["instances"].as_array().cloned().unwrap_or_default()
    }

    fn open(&self, name: &str) -> SharedQueue {
        self.runtime.block_on(self.queues.open(name, dead_letters_options(&self.queue))).expect("the queue")
    }

    fn depth(&self, name: &str) -> Depth {
        self.runtime.block_on(self.open(name).depth()).expect("its depth")
    }

    /// An image whose job was given up, as a worker leaves it.
    fn given_up(&self, content: &str) -> Job {
        let job = testing::job(content);
        let reply = Reply {
            version: String::new(),
            ..testing::reply(
                content,
                Outcome::GaveUp { reason: "it was tried 5 times without an answer".into() },
            )
        };
        self.runtime.block_on(async {
            self.images.put(&job.id.image_key(), Bytes::from(content.to_owned())).await.expect("an image");
            self.results.put(&job.id.result_key("default", ""), encode(&reply)).await.expect("a result");
            let queue = self.queues.open("dead-default", dead_letters_options(&self.queue)).await;
            queue.expect("the dead letters").send(vec![encode(&job)]).await.expect("a letter");
        });
        job
    }

    fn letters(&self) -> Vec<Value> {
        self.json(&["dead-letters", "list", "--json"])["letters"].as_array().expect("letters").clone()
    }
}

#[test]
fn dead_letters_of_sqs_are_listed_without_side_effects_redriven_and_purged() {
    let Some(rig) = Rig::start() else { return };
    // More than SQS returns in one call.
    let jobs: Vec<_> = (0..25).map(|number| rig.given_up(&number.to_string())).collect();
    rig.runtime.block_on(rig.open("dead-default").send(vec![Bytes::from("no job")])).expect("a letter");
    let letters = rig.letters();
    assert_eq!(letters.len(), 26, "{letters:?}");
    assert_eq!(
        letters.iter().filter(|letter| letter["why"] == "it was tried 5 times without an answer").count(),
        25
    );
    assert_eq!(rig.depth("dead-default"), Depth { visible: 26, in_flight: 0 });
    let check = rig.json(&["check", "--json"]);
    assert!(check["problems"].to_string().contains("26 dead letters in dead-default"), "{check}");

    // One job is delivered twice, as SQS may do: it is one letter.
    let duplicates = serde_json::json!({ "op": "ReceiveMessage", "duplicates": true, "times": 5,
        "match": "dead-default" });
    rig.emulator.fault(&duplicates);
    let id = jobs[7].id.to_string();
    let (code, printed) = rig.eirs(&["dead-letters", "redrive", &id[..10], "--yes"]);
    assert!(code == 0 && printed.ends_with("1 redriven.\n"), "{printed}");
    let received = rig.runtime.block_on(rig.open("requests-default").receive(10, Duration::from_secs(5)));
    let received = received.expect("a job");
    assert_eq!(received.len(), 1);
    assert_eq!(job::decode::<Job>(&received[0].body).expect("a job"), jobs[7]);
    let result = rig.runtime.block_on(rig.results.exists(&jobs[7].id.result_key("default", "")));
    assert!(!result.expect("an answer"), "the worker would say it again");

    let (code, printed) = rig.eirs(&["dead-letters", "redrive", "--all", "--yes"]);
    assert!(code == 1 && printed.ends_with("24 redriven, 1 left.\n"), "{printed}");
    assert!(printed.contains("not a known message"), "{printed}");
    eventually("the one that cannot be read is left", || (rig.letters().len() == 1).then_some(()));
    assert_eq!(rig.depth("requests-default").backlog(), 25);
    let (code, printed) = rig.eirs(&["dead-letters", "purge", "--all", "--yes"]);
    assert!(code == 0 && printed.ends_with("Deleted.\n"), "{printed}");
    assert!(rig.letters().is_empty());
}

#[test]
fn orders_need_the_state_folder_of_the_controllers_host() {
    let Some(rig) = Rig::start() else { return };
    let ids = rig.park(2);
    for arguments in [&["status"][..], &["pause"], &["plan"], &["cordon", &ids[0]]] {
        let (code, printed) = rig.eirs(arguments);
        assert!(
            code == 1 && printed.contains("no controller has run here with the state folder"),
            "{arguments:?}: {printed}"
        );
    }
    let mut controller = rig.site.controller(POLICY);
    let state = rig.site.state();
    eventually("the controller has looked", || state.join("status.json").exists().then_some(()));
    assert!(!state.join("layout").exists() && !state.join("queue.db").exists(), "the queue is elsewhere");

    let (code, printed) = rig.eirs(&["pause"]);
    assert!(code == 0 && printed.contains("The controller obeys at once."), "{printed}");
    let job = rig.given_up("cat");
    rig.runtime.block_on(rig.open("requests-default").send(vec![encode(&job)])).expect("a job");
    let would =
        || rig.json(&["status", "--json"])["controller"]["pools"][0]["would"][0].as_str().map(str::to_owned);
    let start = eventually("it would start one", would);
    let plan = rig.json(&["plan", "--json"]);
    assert_eq!(plan["pools"]["default"]["would"], serde_json::json!([start]), "{plan}");
    assert!(plan["controller_at"].is_string() && plan["missing"] == serde_json::json!([]), "{plan}");
    let (code, printed) = rig.eirs(&["check"]);
    assert!(code == 1 && printed.contains("the pool default is paused by"), "{printed}");
    assert!(
        printed.contains("pool default: 2 stopped") && printed.contains(" is running, process "),
        "{printed}"
    );
    assert!(!printed.contains("no controller"), "{printed}");

    let (code, printed) = rig.eirs(&["cordon", "i-0"]);
    assert!(
        code == 2 && printed.contains(&format!("unknown instance `i-0`; known: {}", min(&ids))),
        "{printed}"
    );
    let first = start.trim_start_matches("start ").to_owned();
    let (code, printed) = rig.eirs(&["cordon", &first]);
    assert!(code == 0 && printed.starts_with(&format!("{first} is cordoned")), "{printed}");
    let other = ids.iter().find(|id| **id != first).expect("the other one");
    eventually("it would start the other one", || (would()? == format!("start {other}")).then_some(()));
    let (code, printed) = rig.eirs(&["resume"]);
    assert!(code == 0, "{printed}");
    let running = || rig.instances().into_iter().find(|instance| instance["state"] == "running");
    let running = eventually("the other one runs", running);
    assert_eq!(running["id"], **other);
    assert!(running["generation"].is_string(), "{running}");
    let (code, printed) = rig.eirs(&["status"]);
    assert!(
        code == 0 && printed.contains(&format!("{first}: cordoned by")) && printed.contains(other.as_str()),
        "{printed}"
    );

    // Machines whose controller has ended cost money, and another host knows of no controller.
    controller.signal(Signal::TERM);
    assert!(controller.exit().success(), "{}", controller.log());
    let problems = rig.json(&["check", "--json"])["problems"].to_string();
    assert!(problems.contains(&format!("1 instance of a pool ({other}) cost money")), "{problems}");
    let (code, printed) = rig.eirs(&["plan"]);
    assert!(
        code == 0 && printed.starts_with("No controller is running. The first pass of a new one"),
        "{printed}"
    );
    // A web host that is alive has a controller.
    let alive = [(tag::ALIVE_AT, Utc::now().to_rfc3339())];
    let alive = alive.each_ref().map(|(key, value)| (*key, value.as_str()));
    let made = rig.queues.create("responses-web-1", dead_letters_options(&rig.queue), &alive);
    rig.runtime.block_on(made).expect("its queue");
    let (_, printed) = rig.eirs(&["--state", "elsewhere", "check"]);
    assert!(printed.contains("No controller is running on this machine"), "{printed}");
    assert!(!printed.contains("cost money") && !printed.contains("no controller that"), "{printed}");
}

fn min(ids: &[String]) -> &str {
    ids.iter().min().expect("ids")
}

#[test]
fn a_watch_prints_one_object_per_line_until_it_is_stopped() {
    let Some(rig) = Rig::start() else { return };
    let mut watch = rig.site.start("eirs", &["check", "--watch", "--json"]);
    let lines = eventually("it looks twice", || {
        let log = watch.log();
        Some(log.lines().map(str::to_owned).collect::<Vec<_>>()).filter(|lines| lines.len() >= 2)
    });
    let looks: Vec<Value> =
        lines[..2].iter().map(|line| serde_json::from_str(line).expect("an object")).collect();
    assert!(looks[0]["at"].as_str() < looks[1]["at"].as_str(), "{looks:?}");
    assert_eq!(looks[1]["account"], "123456789012");
    watch.signal(Signal::INT);
    assert!(watch.exit().success(), "{}", watch.log());
}
