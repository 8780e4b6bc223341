//! The calls to EC2 and SSM, against recorded answers.

use eirs_platform::testing::replay::{Answer, Replay};

use super::*;

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
async fn a_listing_filters_by_tags_and_reads_all_pages() {
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
    // Without changes, nothing is called until the next listing is due.
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
    // If the error names no id, the call is not repeated.
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
async fn a_start_is_tagged_first_and_a_refused_tag_starts_no_machine() {
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
async fn a_drain_is_one_command_that_expires_after_30_s_and_names_its_generation() {
    let command = json!({ "Command": { "CommandId": "c" } }).to_string();
    let replay = Replay::new([Answer::new(200, command)]);
    let drains = ssm::Drains::new(&replay.config().await, &Aws::default());
    let delivery = drains.send("i-1", "20260101T000000.000000Z", chrono::Utc::now()).await;
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
