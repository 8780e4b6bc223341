//! The permissions of instances: workers and web hosts.

use eirs_platform::{
    aws::tag,
    backend::{dead_letters_name, requests_name, trial_name},
    erased,
};
use serde_json::{Value, json};

use super::{Scope, allow, conditional, document};
use crate::aws::{bundle::LOGS, document::Kind};

const CONSUME: [&str; 3] = ["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:ChangeMessageVisibility"];
const FIND: [&str; 2] = ["sqs:GetQueueUrl", "sqs:GetQueueAttributes"];

/// Returns the permissions of a worker for this model: take jobs, read images, write results,
/// reply, report, and receive drain orders.
pub(crate) fn worker(scope: &Scope, model: &str) -> Value {
    let results = scope.objects(&scope.output_bucket, "results/*");
    let versions = scope.objects(&scope.output_bucket, "versions/*");
    let attempts = scope.objects(&scope.output_bucket, "attempts/*");
    let mut statements = vec![
        // A failed job is sent again.
        allow(
            "Jobs",
            &[&CONSUME[..], &FIND[..], &["sqs:SendMessage"]].concat(),
            &[scope.queue(&requests_name(model)), scope.queue(&trial_name(model))],
        ),
        allow(
            "AnswersAndReports",
            &["sqs:SendMessage", "sqs:GetQueueUrl"],
            &[scope.queue(&dead_letters_name(model)), scope.queue("responses-*"), scope.queue("events")],
        ),
        allow("WhetherThereIsAController", &["sqs:ListQueueTags"], &[scope.queue("events")]),
        // Also the note of recently erased images.
        allow(
            "Images",
            &["s3:GetObject"],
            &[
                scope.objects(&scope.input_bucket, "images/*"),
                scope.objects(&scope.input_bucket, erased::KEY),
            ],
        ),
        allow("Results", &["s3:GetObject"], &[results.clone(), versions.clone()]),
        allow("Versions", &["s3:PutObject"], &[versions]),
        // The notes of started jobs, with which jobs that kill workers are found.
        allow("Attempts", &["s3:GetObject", "s3:PutObject"], &[attempts]),
        // A stored result must not be overwritten without reading it: writes without
        // `If-None-Match` or `If-Match` are refused (S3 user guide, "Enforce conditional writes").
        // A worker that has read "given up" may replace it with a result.
        conditional(
            "NewResults",
            &["s3:PutObject"],
            std::slice::from_ref(&results),
            json!({ "Null": { "s3:if-none-match": "false" } }),
        ),
        conditional(
            "ResultsThatWereRead",
            &["s3:PutObject"],
            std::slice::from_ref(&results),
            json!({ "Null": { "s3:if-match": "false" } }),
        ),
        missing_is_missing(scope),
    ];
    statements.extend(logs(scope));
    statements.push(ssm_agent());
    document(statements)
}

/// Returns the permission to write logs, but not to read them, if machines copy their logs.
fn logs(scope: &Scope) -> Option<Value> {
    let logs = [scope.objects(&scope.output_bucket, &format!("{LOGS}/*"))];
    scope.ship_logs.then(|| allow("Logs", &["s3:PutObject"], &logs))
}

/// Returns the permissions of a web host: accept uploads, and start, drain and stop the instances
/// with the installation's tag.
pub(crate) fn web(scope: &Scope) -> Value {
    let instances = scope.arn("ec2", "instance/*");
    let mut tagging =
        conditional("WriteDown", &["ec2:CreateTags"], std::slice::from_ref(&instances), scope.ours());
    tagging["Condition"]["ForAllValues:StringEquals"] =
        json!({ "aws:TagKeys": [tag::GENERATION, tag::MODEL, tag::DRAIN] });
    let mut statements = vec![
        allow("Jobs", &[&["sqs:SendMessage"], &FIND[..]].concat(), &[scope.queue("requests-*")]),
        allow(
            "OwnAnswers",
            &[
                &["sqs:CreateQueue", "sqs:DeleteQueue", "sqs:TagQueue", "sqs:ListQueueTags"],
                &CONSUME[..],
                &FIND[..],
            ]
            .concat(),
            &[scope.queue("responses-*")],
        ),
        allow(
            "ReportsAndDeadLetters",
            &[&["sqs:SendMessage"], &CONSUME[..], &FIND[..]].concat(),
            &[scope.queue("events"), scope.queue("dead-*"), scope.queue("webhook")],
        ),
        allow("SayThatTheControllerIsHere", &["sqs:TagQueue"], &[scope.queue("events")]),
        allow(
            "TheControllersClaim",
            &["s3:GetObject", "s3:PutObject"],
            &[scope.objects(&scope.input_bucket, "control/*")],
        ),
        allow("PutDeadLettersAway", &["sqs:PurgeQueue"], &[scope.queue("dead-*")]),
        allow("Queues", &["sqs:ListQueues"], &["*".to_owned()]),
        allow(
            "Images",
            &["s3:GetObject", "s3:PutObject", "s3:DeleteObject"],
            &[scope.objects(&scope.input_bucket, "images/*"), scope.objects(&scope.input_bucket, "asked/*")],
        ),
        allow(
            "Results",
            &["s3:GetObject", "s3:DeleteObject"],
            &[scope.objects(&scope.output_bucket, "results/*")],
        ),
        missing_is_missing(scope),
        // EC2 has no narrower permission for describing.
        allow("See", &["ec2:DescribeInstances"], &["*".to_owned()]),
        conditional("StartAndStop", &["ec2:StartInstances", "ec2:StopInstances"], &[instances], scope.ours()),
        tagging,
        allow("DrainByThisDocumentOnly", &["ssm:SendCommand"], &[scope.document(Kind::Drain)]),
        // Two condition keys contain an instance's tags (service authorization reference, "AWS
        // Systems Manager", SendCommand), and the user guide of SSM shows its own one. A single
        // statement would require both.
        conditional("DrainOurs", &["ssm:SendCommand"], &[scope.arn("ec2", "instance/*")], scope.ours()),
        conditional(
            "DrainOursBySsm",
            &["ssm:SendCommand"],
            &[scope.arn("ec2", "instance/*")],
            scope.tagged("ssm:resourceTag"),
        ),
        allow("HowItWent", &["ssm:GetCommandInvocation"], &["*".to_owned()]),
    ];
    if scope.launches {
        statements.extend(launches(scope));
    }
    // The host is upgraded over SSM, and its operator connects with Session Manager.
    statements.push(ssm_agent());
    statements.extend(logs(scope));
    statements.extend(check(scope));
    statements.extend(scope.use_of_the_key());
    document(statements)
}

/// Returns the permissions for a `[launch]` in a policy: to launch machines like those of setup,
/// only with the workers' role, and to terminate only these.
pub(super) fn launches(scope: &Scope) -> Vec<Value> {
    let made = [scope.arn("ec2", "instance/*"), scope.arn("ec2", "volume/*")];
    let instances = &made[..1];
    let mut tagging = conditional("TagLaunched", &["ec2:CreateTags"], &made, scope.made_ours());
    tagging["Condition"]["StringEquals"]["ec2:CreateAction"] = "RunInstances".into();
    let mut terminating =
        conditional("TerminateLaunched", &["ec2:TerminateInstances"], instances, scope.ours());
    terminating["Condition"]["StringEquals"][format!("aws:ResourceTag/{}", tag::TIER)] =
        json!([tag::LAUNCHED, tag::SPOT]);
    vec![
        conditional("Launch", &["ec2:RunInstances"], &made, scope.made_ours()),
        allow(
            "LaunchAnywhere",
            &["ec2:RunInstances"],
            &[
                scope.arn("ec2", "network-interface/*"),
                scope.arn("ec2", "subnet/*"),
                scope.arn("ec2", &format!("key-pair/{}-key", scope.prefix)),
            ],
        ),
        conditional(
            "LaunchOurs",
            &["ec2:RunInstances"],
            &[scope.arn("ec2", "security-group/*"), scope.public_arn("image")],
            scope.ours(),
        ),
        tagging,
        terminating,
        conditional(
            "LaunchWorkers",
            &["iam:PassRole"],
            &scope.roles("role")[..1],
            json!({ "StringEquals": { "iam:PassedToService": "ec2.amazonaws.com" } }),
        ),
    ]
}

/// Returns the permissions of `eirs check` on a web host, for the comparison with what setup made.
fn check(scope: &Scope) -> Vec<Value> {
    let buckets = [scope.bucket(&scope.input_bucket), scope.bucket(&scope.output_bucket)];
    let mut machines = vec!["ec2:DescribeImages", "ec2:DescribeSecurityGroups"];
    machines.extend(scope.elastic_ip.then_some("ec2:DescribeAddresses"));
    vec![
        allow(
            "CheckBuckets",
            &[
                "s3:GetBucketTagging",
                "s3:GetEncryptionConfiguration",
                "s3:GetBucketPublicAccessBlock",
                "s3:GetLifecycleConfiguration",
            ],
            &buckets,
        ),
        allow("CheckQueues", &[&["sqs:ListQueueTags"], &FIND[..]].concat(), &[scope.queue("*")]),
        allow("CheckMachines", &machines, &["*".to_owned()]),
        allow("CheckDocument", &["ssm:GetDocument", "ssm:DescribeDocument"], &[scope.document(Kind::Drain)]),
        allow("CheckSystem", &["ssm:GetParameter"], &scope.public_parameters()),
        allow(
            "CheckRoles",
            &["iam:GetRole", "iam:GetRolePolicy", "iam:GetInstanceProfile"],
            &scope.roles_and_profiles(),
        ),
    ]
}

/// Without permission to list, S3 reports a missing blob as access denied.
fn missing_is_missing(scope: &Scope) -> Value {
    let buckets = [scope.bucket(&scope.input_bucket), scope.bucket(&scope.output_bucket)];
    allow("WhatIsMissingIsMissing", &["s3:ListBucket"], &buckets)
}

/// The actions of AWS's `AmazonSSMManagedInstanceCore`, except reading all parameters of the
/// account.
pub(super) const SSM_AGENT: [&str; 15] = [
    "ssm:UpdateInstanceInformation",
    "ssm:ListAssociations",
    "ssm:ListInstanceAssociations",
    "ssm:GetDocument",
    "ssm:DescribeDocument",
    "ssmmessages:CreateControlChannel",
    "ssmmessages:CreateDataChannel",
    "ssmmessages:OpenControlChannel",
    "ssmmessages:OpenDataChannel",
    "ec2messages:AcknowledgeMessage",
    "ec2messages:DeleteMessage",
    "ec2messages:FailMessage",
    "ec2messages:GetEndpoint",
    "ec2messages:GetMessages",
    "ec2messages:SendReply",
];

fn ssm_agent() -> Value {
    allow("BeTold", &SSM_AGENT, &["*".to_owned()])
}
