//! Refuses at the start what AWS would refuse in the middle of a setup, or hours later. Emulators
//! do not show this, because each accepts something that AWS does not; the tests below contain
//! AWS's own limits.

use std::time::Duration;

use super::Settings;
use crate::names;

/// "The maximum is 12 hours", also for all extensions of a lease together, counted from its receive
/// (SQS developer guide, "Amazon SQS visibility timeout"; API reference, SetQueueAttributes).
const LONGEST_VISIBILITY: Duration = Duration::from_secs(12 * 3600);
/// "An integer representing seconds, from 60 (1 minute) to 1,209,600 (14 days)" (API reference,
/// SetQueueAttributes).
const RETENTION: [Duration; 2] = [Duration::from_secs(60), Duration::from_secs(14 * 24 * 3600)];
/// "The maximum long polling wait time is 20 seconds" (SQS developer guide, "Standard queue
/// quotas"); 0 is a short poll.
const LONGEST_POLL: Duration = Duration::from_secs(20);
/// "A number between 1 and 1000" (SQS developer guide, "Configure a dead-letter queue").
const MOST_RECEIVES: u32 = 1000;
/// Maximum length of a queue's name (SQS developer guide, "Standard queue quotas").
const LONGEST_NAME: usize = 80;
/// A longer linger costs more time than the saved calls are worth.
const LONGEST_LINGER: Duration = Duration::from_secs(1);

/// Reserved beginnings of names, and the kind of resource. All names of an installation begin with
/// its prefix.
const RESERVED: [(&str, &str); 7] = [
    // S3 user guide, "General purpose bucket naming rules".
    ("xn--", "buckets"),
    ("sthree-", "buckets"),
    ("amzn-s3-demo-", "buckets"),
    // SSM API reference, CreateDocument: reserved regardless of what follows.
    ("aws", "documents of SSM"),
    ("amazon", "documents of SSM"),
    ("amzn", "documents of SSM"),
    // EC2 API reference, CreateSecurityGroup.
    ("sg-", "security groups"),
];

/// Reserved ends of bucket names (S3 user guide, "General purpose bucket naming rules").
const RESERVED_ENDS: [&str; 5] = ["-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3"];

/// Returns what AWS would refuse in these settings, as `key: what is wrong`.
pub(super) fn complaints(settings: &Settings) -> Vec<String> {
    let (queue, aws) = (&settings.queue, &settings.aws);
    let second = Duration::from_secs(1);
    let durations = [
        ("queue.visibility", queue.visibility, [second, LONGEST_VISIBILITY]),
        ("queue.retention", queue.retention, RETENTION),
        ("worker.poll", settings.worker.poll, [second, LONGEST_POLL]),
    ];
    let mut complaints: Vec<_> =
        durations.into_iter().filter_map(|(key, value, range)| seconds(key, value, range)).collect();
    if queue.visibility >= queue.retention {
        complaints.push(
            "queue.retention: must be more than queue.visibility, or SQS deletes jobs in flight".into(),
        );
    }
    // A worker must give up a job before the queue does.
    let most = MOST_RECEIVES - 3;
    if queue.max_receives > most {
        complaints.push(format!("queue.max_receives: must be at most {most} with backend = \"aws\""));
    }
    for (key, value) in [("aws.linger", aws.linger), ("aws.ack_linger", aws.ack_linger)] {
        if value > LONGEST_LINGER {
            complaints.push(format!("{key}: must be at most 1s"));
        }
    }
    if let Some((reserved, whose)) =
        RESERVED.iter().find(|(start, _)| format!("{}-", aws.prefix).starts_with(*start))
    {
        complaints.push(format!(
            "aws.prefix: AWS reserves names of {whose} that begin with `{reserved}`; choose \
            another prefix"
        ));
    }
    for (key, name) in [("input_bucket", &aws.input_bucket), ("output_bucket", &aws.output_bucket)] {
        if let Some(why) = name.as_deref().and_then(bucket) {
            complaints.push(format!("aws.{key}: {why}"));
        }
    }
    let longest = |model: &String| names::requests_name(model).len() + aws.prefix.len() + 1;
    let long_names = settings.models.keys().filter(|model| longest(model) > LONGEST_NAME);
    complaints.extend(long_names.map(|model| {
        let begins = format!("{}-{}", aws.prefix, names::requests_name(""));
        format!(
            "models.{model}: the name is too long for a queue of SQS, which begins with \
            `{begins}`"
        )
    }));
    complaints
}

/// SQS only has whole seconds: fractions would be cut off.
fn seconds(key: &str, value: Duration, [least, most]: [Duration; 2]) -> Option<String> {
    let is_whole = value.subsec_nanos() == 0;
    (!is_whole || value < least || value > most).then(|| {
        let shown = humantime::format_duration;
        let (least, most) = (shown(least), shown(most));
        format!(
            "{key}: must be whole seconds from {least} to {most} with backend = \"aws\": SQS \
            accepts no others"
        )
    })
}

/// Returns what is wrong with a bucket's name (S3 user guide, "General purpose bucket naming
/// rules").
fn bucket(name: &str) -> Option<String> {
    let ends_well = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if !(3..=63).contains(&name.len()) {
        return Some("must have 3 to 63 characters".into());
    }
    if !name.chars().all(|c| ends_well(c) || matches!(c, '.' | '-')) || name.contains("..") {
        return Some("must be lower-case letters, digits, dashes and single dots".into());
    }
    if !name.starts_with(ends_well) || !name.ends_with(ends_well) {
        return Some("must begin and end with a lower-case letter or a digit".into());
    }
    if name.parse::<std::net::Ipv4Addr>().is_ok() {
        return Some("must not look like an IP address".into());
    }
    let whose = |(start, whose): &&(&str, &str)| *whose == "buckets" && name.starts_with(*start);
    let reserved = RESERVED.iter().find(whose).map(|(start, _)| *start);
    let reserved = reserved.or_else(|| RESERVED_ENDS.into_iter().find(|end| name.ends_with(*end)));
    reserved.map(|part| format!("S3 accepts no name with `{part}` at that end"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{BackendKind, BadSettings, Layers, Queue};

    /// Limits in AWS's documentation as of 2026-11-29: a setting, accepted and refused values, and
    /// the source, which names the attribute or call.
    const DOCUMENTED: [(&str, &[&str], &[&str], &str); 8] = [
        (
            "queue.visibility",
            &["\"21s\"", "\"12h\""],
            &["\"12h 1s\"", "\"30s 500ms\"", "\"2days\""],
            "VisibilityTimeout, 0 to 43,200 seconds: API reference, SetQueueAttributes; 0 would hide nothing",
        ),
        (
            "queue.retention",
            &["\"60s\"", "\"14days\""],
            &["\"59s\"", "\"14days 1s\"", "\"90s 1ms\""],
            "MessageRetentionPeriod, 60 to 1,209,600 seconds: API reference, SetQueueAttributes",
        ),
        (
            "worker.poll",
            &["\"1s\"", "\"20s\""],
            &["\"0s\"", "\"500ms\"", "\"1s 500ms\"", "\"21s\""],
            "WaitTimeSeconds, at most 20 seconds: developer guide, Standard queue quotas; 0 is a short poll",
        ),
        (
            "queue.max_receives",
            &["1", "997"],
            &["998", "1000", "100000"],
            "maxReceiveCount, 1 to 1,000: developer guide, Configure a dead-letter queue; EIRS adds 3",
        ),
        (
            "aws.prefix",
            &["\"eirs\"", "\"sgx\"", "\"x-aws\"", "\"sthree2\"", "\"a\""],
            &[
                "\"aws\"",
                "\"aws-eirs\"",
                "\"awsome\"",
                "\"amazon\"",
                "\"amzn-s3-demo\"",
                "\"sthree\"",
                "\"sthree-x\"",
                "\"xn--x\"",
                "\"sg\"",
                "\"sg-x\"",
                "\"Eirs\"",
                "\"eirs_2\"",
                "\"\"",
            ],
            "SSM API reference, CreateDocument; S3 user guide, General purpose bucket naming rules; EC2 API \
             reference, CreateSecurityGroup",
        ),
        (
            "aws.input_bucket",
            &["\"abc\"", "\"my.bucket-1\"", "\"1-2\""],
            &[
                "\"ab\"",
                "\"My-bucket\"",
                "\"my_bucket\"",
                "\"-bucket\"",
                "\"bucket-\"",
                "\"a..b\"",
                "\"192.168.5.4\"",
                "\"xn--bucket\"",
                "\"sthree-bucket\"",
                "\"amzn-s3-demo-bucket\"",
                "\"bucket-s3alias\"",
                "\"bucket--ol-s3\"",
                "\"bucket.mrap\"",
                "\"bucket--x-s3\"",
                "\"bucket--table-s3\"",
                "\"a123456789012345678901234567890123456789012345678901234567890123\"",
            ],
            "S3 user guide, General purpose bucket naming rules",
        ),
        (
            "models.a2345678901234567890123456789012345678901234567890123456789.classifier",
            &[],
            &["\"noop\""],
            "80 characters of a queue's name: developer guide, Standard queue quotas; with the prefix of \
             twenty below",
        ),
        (
            "models.a234567890123456789012345678901234567890123456789x.classifier",
            &["\"noop\""],
            &[],
            "80 characters of a queue's name: the longest that fits",
        ),
    ];

    fn load(key: &str, value: &str, backend: &str) -> Result<Settings, BadSettings> {
        let mut values = vec![
            ("aws.input_bucket", "\"images-bucket\""),
            ("aws.output_bucket", "\"results-bucket\""),
            ("aws.prefix", "\"a2345678901234567890\""),
            ("backend", backend),
        ];
        // Another test checks the relation between the two.
        if key == "queue.retention" {
            values.push(("queue.visibility", "\"25s\""));
        }
        values.retain(|(other, _)| *other != key);
        values.push((key, value));
        let lines: String = values.iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("eirs.toml");
        std::fs::write(&file, lines).unwrap();
        Layers::of(Some(file.as_path()), &[]).load()
    }

    #[test]
    fn values_that_aws_accepts_are_accepted_and_others_refused_at_the_start() {
        for (key, taken, refused, source) in DOCUMENTED {
            for value in taken {
                let loaded = load(key, value, "\"aws\"");
                assert!(loaded.is_ok(), "{key} = {value} is fine ({source}): {:?}", loaded.err());
            }
            for value in refused {
                let Err(BadSettings(complaints)) = load(key, value, "\"aws\"") else {
                    panic!("{key} = {value} is refused by AWS ({source})");
                };
                let [complaint] = complaints.as_slice() else { panic!("{key} = {value}: {complaints:#?}") };
                let named = key.trim_end_matches(".classifier");
                assert!(complaint.contains(&format!("{named}: ")), "{key} = {value}: {complaint}");
            }
        }
    }

    #[test]
    fn a_single_machine_accepts_what_only_aws_refuses() {
        for (key, value) in [
            ("queue.visibility", "\"13h\""),
            ("queue.retention", "\"15days\""),
            ("worker.poll", "\"500ms\""),
            ("queue.max_receives", "5000"),
            ("aws.prefix", "\"aws\""),
        ] {
            let loaded = load(key, value, "\"local\"");
            assert!(loaded.is_ok(), "{key} = {value}: {:?}", loaded.err());
        }
    }

    #[test]
    fn the_retention_must_exceed_the_visibility() {
        let Err(BadSettings(complaints)) =
            load("queue.visibility", "\"60s\"\nqueue.retention = \"60s\"", "\"aws\"")
        else {
            panic!("the retention is too short");
        };
        assert!(
            complaints[0].contains("queue.retention: must be more than queue.visibility"),
            "{complaints:?}"
        );
    }

    /// Checks the options of queues that are not settings.
    #[test]
    fn every_queue_of_an_installation_has_options_that_sqs_accepts() {
        let settings = Settings { backend: BackendKind::Aws, ..Settings::default() };
        for options in [
            crate::backend::requests_options(&settings.queue, "default"),
            crate::backend::dead_letters_options(&settings.queue),
            crate::backend::responses_options(&settings.queue),
            crate::backend::events_options(&settings.queue),
            crate::backend::webhook_options(),
        ] {
            assert_eq!(seconds("retention", options.retention, RETENTION), None);
            assert_eq!(seconds("visibility", options.visibility, [Duration::ZERO, LONGEST_VISIBILITY]), None);
            let receives = options.dead_letters.map_or(1, |rule| rule.max_receives);
            assert!((1..=MOST_RECEIVES).contains(&receives));
        }
        assert!(
            Queue::default().retention < RETENTION[1],
            "dead letters keep the date of their first sending"
        );
    }
}
