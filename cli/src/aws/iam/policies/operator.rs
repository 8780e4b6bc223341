//! The permissions of the person who sets an installation up, updates, inspects and deletes it.

use serde_json::{Value, json};

use super::{Scope, allow, conditional, document};
use crate::aws::document::Kind;

/// The permissions that `eirs setup`, `check` and `cleanup` need.
pub(crate) fn operator(scope: &Scope) -> Value {
    let roles = scope.roles_and_profiles();
    let buckets = [&scope.input_bucket, &scope.output_bucket]
        .map(|bucket| [scope.bucket(bucket), scope.objects(bucket, "*")])
        .concat();
    let machines = [scope.arn("ec2", "*"), image_arn(scope)];
    let made = ["RunInstances", "CreateImage", "CreateSecurityGroup", "CreateKeyPair"];
    let mut statements = vec![
        allow("Buckets", &["s3:*"], &buckets),
        allow("Queues", &["sqs:*"], &[scope.queue("*")]),
        allow("ListQueues", &["sqs:ListQueues"], &["*".to_owned()]),
        allow(
            "Roles",
            &[
                "iam:CreateRole",
                "iam:GetRole",
                "iam:DeleteRole",
                "iam:TagRole",
                "iam:ListRoleTags",
                "iam:PutRolePolicy",
                "iam:GetRolePolicy",
                "iam:ListRolePolicies",
                "iam:DeleteRolePolicy",
                "iam:CreateInstanceProfile",
                "iam:GetInstanceProfile",
                "iam:DeleteInstanceProfile",
                "iam:TagInstanceProfile",
                "iam:AddRoleToInstanceProfile",
                "iam:RemoveRoleFromInstanceProfile",
            ],
            &roles,
        ),
        conditional(
            "HandRolesToInstances",
            &["iam:PassRole"],
            &scope.roles("role"),
            json!({
                "StringEquals": { "iam:PassedToService": "ec2.amazonaws.com" }
            }),
        ),
        // Describing knows no resources.
        allow(
            "LookAround",
            &["ec2:Describe*", "ssm:DescribeInstanceInformation", "sts:GetCallerIdentity"],
            &["*".to_owned()],
        ),
        allow(
            "MakeInstancesImagesGroupsAndKeys",
            &["ec2:RunInstances", "ec2:CreateImage", "ec2:CreateSecurityGroup", "ec2:CreateKeyPair"],
            &["*".to_owned()],
        ),
        // What is somebody else's cannot be made ours by a tag.
        conditional(
            "TagWhatIsMade",
            &["ec2:CreateTags"],
            &machines,
            json!({ "StringEquals": { "ec2:CreateAction": made } }),
        ),
        conditional("TagOurs", &["ec2:CreateTags"], &machines, scope.ours()),
        conditional(
            "ChangeAndDeleteOurs",
            &[
                "ec2:AuthorizeSecurityGroupIngress",
                "ec2:RevokeSecurityGroupIngress",
                "ec2:DeleteSecurityGroup",
                "ec2:DeleteKeyPair",
                "ec2:DeregisterImage",
                "ec2:DeleteSnapshot",
                "ec2:StartInstances",
                "ec2:StopInstances",
                "ec2:TerminateInstances",
            ],
            &["*".to_owned()],
            scope.ours(),
        ),
        allow(
            "Documents",
            &[
                "ssm:CreateDocument",
                "ssm:UpdateDocument",
                "ssm:UpdateDocumentDefaultVersion",
                "ssm:GetDocument",
                "ssm:DescribeDocument",
                "ssm:DeleteDocument",
                "ssm:AddTagsToResource",
                "ssm:ListTagsForResource",
            ],
            &Kind::ALL.map(|kind| scope.document(kind)),
        ),
        allow("UpgradeByThisDocumentOnly", &["ssm:SendCommand"], &[scope.document(Kind::Upgrade)]),
        // Two statements, as for a web host's drains.
        conditional("UpgradeOurs", &["ssm:SendCommand"], &[scope.arn("ec2", "instance/*")], scope.ours()),
        conditional(
            "UpgradeOursBySsm",
            &["ssm:SendCommand"],
            &[scope.arn("ec2", "instance/*")],
            scope.tagged("ssm:resourceTag"),
        ),
        allow("BaseImages", &["ssm:GetParameter", "ssm:GetParameters"], &scope.public_parameters()),
    ];
    statements.extend(scope.use_of_the_key());
    document(statements)
}

fn image_arn(scope: &Scope) -> String {
    format!("arn:{}:ec2:{}::*", scope.partition, scope.region)
}
