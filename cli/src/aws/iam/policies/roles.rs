//! What instances may do: workers and web hosts.

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

/// What the instance of a worker of this model may do: take jobs, read images, write results,
/// answer, report, and be told to drain.
pub(crate) fn worker(scope: &Scope, model: &str) -> Value {
    let results = scope.objects(&scope.output_bucket, "results/*");
    let versions = scope.objects(&scope.output_bucket, "versions/*");
    let attempts = scope.objects(&scope.output_bucket, "attempts/*");
    let mut statements = vec![
        // A job that failed is sent once more.
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
        // And what was erased lately.
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
        // What was begun and never ended, by which a job that kills its workers is known.
        allow("Attempts", &["s3:GetObject", "s3:PutObject"], &[attempts]),
        // A result that is stored is not written over by who does not know it: a write without
        // `If-None-Match` or `If-Match` is refused (S3 user guide, "Enforce conditional writes").
        // One that was given up is replaced by a verdict, when it was read.
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

/// What a machine that copies its logs needs: to write them, and to read none.
fn logs(scope: &Scope) -> Option<Value> {
    let logs = [scope.objects(&scope.output_bucket, &format!("{LOGS}/*"))];
    scope.ship_logs.then(|| allow("Logs", &["s3:PutObject"], &logs))
}

/// What a web host may do: take uploads in, and start, drain and stop the instances that are tagged
/// ours.
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
        // EC2 knows no narrower permission to look.
        allow("See", &["ec2:DescribeInstances"], &["*".to_owned()]),
        conditional("StartAndStop", &["ec2:StartInstances", "ec2:StopInstances"], &[instances], scope.ours()),
        tagging,
        allow("DrainByThisDocumentOnly", &["ssm:SendCommand"], &[scope.document(Kind::Drain)]),
        // Two keys carry an instance's tags (service authorization reference, "AWS Systems
        // Manager", SendCommand), and SSM's own is the one that its user guide shows. In one
        // statement both would have to be there.
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
    // It is upgraded over SSM, and its operator comes in by the Session Manager.
    statements.push(ssm_agent());
    statements.extend(logs(scope));
    statements.extend(check(scope));
    statements.extend(scope.use_of_the_key());
    document(statements)
}

/// What a `[launch]` in a policy needs: to make machines like those of setup, with the workers'
/// role and no other, and to terminate those again, and no others.
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

/// What `eirs check` looks at on a web host, to tell whether all is as setup made it.
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

/// Without the permission to list, S3 says of a blob that is not there that one may not read it.
fn missing_is_missing(scope: &Scope) -> Value {
    let buckets = [scope.bucket(&scope.input_bucket), scope.bucket(&scope.output_bucket)];
    allow("WhatIsMissingIsMissing", &["s3:ListBucket"], &buckets)
}

/// What AWS's own `AmazonSSMManagedInstanceCore` allows, without reading every parameter of the
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
