//! Against the emulator: an account as setup makes it, and what can be wrong with it.

mod rig;

use std::collections::HashMap;

use aws_sdk_ec2::types::{IpPermission, IpRange, ResourceType, Tag, TagSpecification};
use bytes::Bytes;
use eirs_platform::{
    aws::tag,
    queue::QueueOptions,
    state_folder::{CONTROLLER_LOCK, Lock},
    testing::emulator::Emulator,
};
use serde_json::json;

use self::rig::{NEVER, QUICK, Rig};
use super::*;
use crate::aws::{
    iam::{Role, policies as permissions},
    network,
};

fn page(report: &Report) -> String {
    console::strip_ansi_codes(&report.text(Utc::now(), 80)).into_owned()
}

/// The row of a table that begins so, whatever the widths of its columns.
fn row(text: &str, begin: &str) -> String {
    let row = text.lines().find(|line| line.starts_with(begin)).unwrap_or_default();
    row.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn has(sentences: &[String], part: &str) -> bool {
    sentences.iter().any(|sentence| sentence.contains(part))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_is_shown_as_it_is_and_what_setup_made_does_not_drift() {
    let Some(emulator) = Emulator::start(&QUICK) else { return };
    let rig = Rig::new(&emulator).await;
    let report = rig.report().await;
    assert_eq!(report.drift, ["nothing of the installation eirs exists here; `eirs setup` makes it"]);

    let rig = Rig::set_up(&emulator, 2).await;
    rig.result("fish.jpg", "tench").await;
    let input = rig.account.s3.put_object().bucket(rig.account.input_bucket()).key("images/1");
    input.body(Bytes::from("image").into()).send().await.unwrap();
    let queue = rig.account.sqs.open("requests-default", QueueOptions::default()).await.unwrap();
    queue.send(vec![Bytes::from("job")]).await.unwrap();
    // Another installation whose prefix begins as ours does.
    let other = eirs_platform::queue::sqs::SqsQueues::new(
        eirs_platform::queue::sqs::client(&rig.account.config, &rig.account.settings.aws),
        "eirs-requests",
    );
    other.create("x", QueueOptions::default(), &[]).await.unwrap();
    // The web host is elsewhere, and alive.
    let alive = Utc::now().to_rfc3339();
    let responses = [(tag::ALIVE_AT, alive.as_str())];
    rig.account.sqs.create("responses-web-1", QueueOptions::default(), &responses).await.unwrap();

    let report = rig.report().await;
    assert!(report.is_well(), "{:?} {:?}", report.drift, report.problems);
    let text = page(&report);
    let head = format!(
        "The installation eirs in the account {}, eu-central-1.\nNo controller is running on",
        rig.account.id
    );
    assert!(text.starts_with(&head), "{text}");
    assert!(text.contains("pool default: 2 stopped\n"), "{text}");
    assert!(row(&text, "requests-default").ends_with(" 1 0 jobs"), "{text}");
    assert!(
        text.contains(&format!("1 image (5 B) in the bucket eirs-{}-eu-central-1-input\n", rig.account.id)),
        "{text}"
    );
    assert!(text.contains("  (fish.jpg, tench)  ") && text.ends_with("All is well.\n"), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");

    let json = serde_json::to_value(&report).unwrap();
    assert_eq!((&json["account"], &json["region"]), (&json!(rig.account.id), &json!("eu-central-1")));
    assert_eq!(
        (&json["instances"][0]["state"], &json["instances"][0]["pool"]),
        (&json!("stopped"), &json!("default"))
    );
    let queues: HashMap<_, _> = json["queues"]
        .as_array()
        .unwrap()
        .iter()
        .map(|queue| (queue["name"].as_str().unwrap(), &queue["kind"]))
        .collect();
    let wanted = [
        ("dead-default", json!("dead_letters")),
        ("events", json!("events")),
        ("requests-default", json!("requests")),
        ("responses-web-1", json!("responses")),
        ("trial-default", json!("trial")),
    ];
    assert_eq!(queues, wanted.iter().map(|(name, kind)| (*name, kind)).collect());
}

#[tokio::test(flavor = "multi_thread")]
async fn each_change_of_what_setup_made_is_a_sentence() {
    let Some(emulator) = Emulator::start(&QUICK) else { return };
    let mut rig = Rig::set_up(&emulator, 2).await;
    let dogs = rig.account.settings.models["default"].clone();
    rig.account.settings.models.insert("dogs".into(), dogs);
    let Account { s3, ec2, sqs, ssm, .. } = &rig.account;
    let (input, output) = (rig.account.input_bucket(), rig.account.output_bucket());
    sqs.delete("events").await.unwrap();
    sqs.delete("requests-default").await.unwrap();
    // Made by hand, for a model that came later.
    let by_hand = QueueOptions { retention: Duration::from_secs(3600), ..QueueOptions::default() };
    for queue in ["dead-dogs", "requests-dogs"] {
        sqs.create(queue, by_hand.clone(), &[]).await.unwrap();
    }
    s3.delete_bucket_lifecycle().bucket(input).send().await.unwrap();
    s3.delete_bucket_encryption().bucket(input).send().await.unwrap();
    s3.delete_public_access_block().bucket(output).send().await.unwrap();
    s3.delete_bucket_tagging().bucket(output).send().await.unwrap();
    ssm.delete_document().name("eirs-drain").send().await.unwrap();
    let group = network::group(&rig.account, Role::Worker).await.unwrap().unwrap();
    let world = IpRange::builder().cidr_ip("0.0.0.0/0").build();
    let door = IpPermission::builder().ip_protocol("tcp").from_port(22).to_port(22).ip_ranges(world).build();
    let call =
        ec2.authorize_security_group_ingress().group_id(group.group_id().unwrap()).ip_permissions(door);
    call.send().await.unwrap();
    rig.policy("default", 3);
    rig.launch(1, tag::WORKER, &[(tag::POOL, "old"), (tag::HANDED_OVER, tag::YES)]).await;
    let of_image = rig.launch(1, tag::BUILDER, &[]).await;
    let tags = TagSpecification::builder().resource_type(ResourceType::Image);
    let tags = tags.tags(Tag::builder().key(tag::INSTALLATION).value("eirs").build()).build();
    let call = ec2.create_image().instance_id(&of_image[0]).name("eirs-worker-new").tag_specifications(tags);
    let image = call.send().await.unwrap().image_id.unwrap();
    let deadline = Instant::now() + NEVER;
    let report = loop {
        let report = rig.report().await;
        if has(&report.drift, &image) {
            break report;
        }
        assert!(Instant::now() < deadline, "the image is available some time: {:?}", report.drift);
    };
    let expected = [
        "the queue eirs-events is missing; `eirs setup` makes it".to_owned(),
        "the queue eirs-requests-default is missing".to_owned(),
        "the queue eirs-requests-dogs keeps messages for 1h, and the settings say 4d".to_owned(),
        "the queue eirs-requests-dogs has no redrive policy".to_owned(),
        format!("the bucket {input} is not encrypted"),
        format!("the bucket {input} never deletes anything, and the settings say 30 days"),
        format!("the bucket {output} is not tagged as this installation's"),
        format!("the bucket {output} is not blocked for the public"),
        "the security group eirs-worker lets the whole world try to log in (port 22)".to_owned(),
        "the security group eirs-worker lets 0.0.0.0/0 in on port 22, and the settings do not".to_owned(),
        "the SSM document eirs-drain is missing".to_owned(),
        "the pool default may run 3 instances and has 2; `eirs setup` adds the rest".to_owned(),
        "1 instance of the pool old, which has no policy".to_owned(),
        format!("2 instances of the pool default: made from an older image than {image}"),
    ];
    for sentence in &expected {
        assert!(has(&report.drift, sentence), "{sentence}: {:#?}", report.drift);
    }
    assert!(!report.is_well());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_costs_or_waits_with_nobody_to_look_after_it_is_wrong() {
    let Some(emulator) = Emulator::start(&QUICK) else { return };
    let rig = Rig::set_up(&emulator, 2).await;
    let machine = instances::list(&rig.account).await.unwrap().remove(0).id;
    rig.start(&machine).await;
    let silent = (Utc::now() - Duration::from_secs(7200)).to_rfc3339();
    let dead = [(tag::ALIVE_AT, silent.as_str())];
    rig.account.sqs.create("responses-web-1", QueueOptions::default(), &dead).await.unwrap();
    let queue = async |name: &str| rig.account.sqs.open(name, QueueOptions::default()).await.unwrap();
    queue("requests-default").await.send(vec![Bytes::from("job")]).await.unwrap();
    queue("dead-default").await.send(vec![Bytes::from("job")]).await.unwrap();
    let report = rig.report().await;
    let expected = [
        format!("1 instance of a pool ({machine}) cost money and no controller would stop them"),
        "1 job in requests-default, and no controller is running to start a worker".to_owned(),
        "1 dead letter in dead-default; `eirs dead-letters list` says why".to_owned(),
        "the web host of responses-web-1 was last alive 2h ago; another running one would delete \
        the queue"
            .to_owned(),
    ];
    for sentence in &expected {
        assert!(report.problems.contains(sentence), "{sentence}: {:#?}", report.problems);
    }
    assert_eq!(report.problems.len(), expected.len(), "{:#?}", report.problems);
    assert!(report.drift.is_empty(), "{:?}", report.drift);
    let text = page(&report);
    assert!(text.contains("pool default: 1 running, 1 stopped\n"), "{text}");
    assert!(row(&text, "responses-web-1").ends_with(" 0 0 answers, no host"), "{text}");

    // A controller on this machine is one that looks after them.
    let state = &rig.account.settings.local.state;
    let _controller = Lock::take(state, CONTROLLER_LOCK).unwrap();
    let report = rig.report().await;
    assert!(
        !has(&report.problems, "cost money") && !has(&report.problems, "1 job in"),
        "{:?}",
        report.problems
    );
    assert!(page(&report).contains(" is running, process "), "{}", page(&report));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_fails_is_a_sentence_and_everything_else_is_shown() {
    let Some(emulator) = Emulator::start(&QUICK) else { return };
    let rig = Rig::set_up(&emulator, 1).await;
    for (operation, code) in [
        ("DescribeInstances", "UnauthorizedOperation"),
        ("ListQueues", "AccessDenied"),
        ("GetDocument", "AccessDeniedException"),
        ("GetBucketLifecycleConfiguration", "AccessDenied"),
    ] {
        rig.emulator.fault(
            &json!({ "op": operation, "code": code, "http": 403, "times": 100, "account": rig.account.id }),
        );
    }
    let report = rig.report().await;
    for sentence in [
        "the instances cannot be listed: listing the instances: UnauthorizedOperation",
        "the queues cannot be listed: listing the queues: AccessDenied",
        "these credentials may not inspect the buckets, the drain document, so that drift there is \
        unknown",
    ] {
        assert!(has(&report.problems, sentence), "{sentence}: {:#?}", report.problems);
    }
    assert_eq!(report.problems.len(), 3, "{:#?}", report.problems);
    assert_eq!(report.images.as_ref().map(|images| images.stored.count), Some(0));
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["instances"], serde_json::Value::Null);
    assert!(page(&report).contains("0 images (0 B) in the bucket"), "{}", page(&report));

    // Nobody there at all: what this machine knows is shown all the same.
    let mut settings = rig.account.settings.clone();
    settings.aws.endpoint = Some("http://127.0.0.1:1".into());
    let mut nobody = Look::new(settings);
    let report = nobody.look(Utc::now()).await;
    assert!(has(&report.problems, "the account cannot be inspected: "), "{:?}", report.problems);
    assert!(
        page(&report).starts_with("The installation eirs in the account ?, eu-central-1.\n"),
        "{}",
        page(&report)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_counts_the_buckets_now_and_then_and_sees_instances_at_once() {
    let Some(emulator) = Emulator::start(&QUICK) else { return };
    let rig = Rig::set_up(&emulator, 1).await;
    let mut look = rig.look();
    look.look(Utc::now()).await;
    let listed = emulator.calls("ListObjectsV2");
    let machine = instances::list(&rig.account).await.unwrap().remove(0).id;
    rig.start(&machine).await;
    let report = look.look(Utc::now()).await;
    assert_eq!(emulator.calls("ListObjectsV2"), listed);
    assert!(page(&report).contains("pool default: 1 running\n"), "{}", page(&report));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operators_permissions_suffice_and_so_do_a_web_hosts() {
    let Some(emulator) = Emulator::start(&QUICK) else { return };
    for permissions in [permissions::operator, permissions::web] {
        let rig = Rig::set_up(&emulator, 1).await;
        rig.result("fish.jpg", "tench").await;
        rig.account
            .sqs
            .create("responses-web-1", QueueOptions::default(), &[(tag::ALIVE_AT, &Utc::now().to_rfc3339())])
            .await
            .unwrap();
        let Account { settings, id, region, .. } = &rig.account;
        let scope = permissions::Scope::of(settings, id, region);
        let bound = rig.bound(permissions(&scope)).await;
        emulator.harness("POST", "enforce-iam", r#"{"on": true}"#);
        let report = rig.look_as(bound).look(Utc::now()).await;
        emulator.harness("POST", "enforce-iam", r#"{"on": false}"#);
        assert!(page(&report).contains("pool default: 1 stopped\n"), "{}", page(&report));
        assert!(page(&report).contains("  (fish.jpg, tench)  "), "{}", page(&report));
        assert_eq!(report.queues.len(), 5, "{:?}", report.queues);
        assert!(report.drift.is_empty(), "{:?}", report.drift);
        assert!(report.problems.is_empty(), "{:#?}", report.problems);
    }
}
