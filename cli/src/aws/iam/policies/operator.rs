//! The permissions of the person who sets up, updates, inspects and deletes an installation.

use serde_json::{Value, json};

use super::{Scope, allow, conditional, document};
use crate::aws::document::Kind;

/// Returns the permissions for `eirs setup`, `check` and `cleanup`. If roles, documents, groups,
/// queues and buckets are given, they are only inspected, filled and emptied, but not created,
/// changed or deleted.
pub(crate) fn operator(scope: &Scope) -> Value {
    let roles = scope.roles_and_profiles();
    let buckets = [&scope.input_bucket, &scope.output_bucket]
        .map(|bucket| [scope.bucket(bucket), scope.objects(bucket, "*")])
        .concat();
    let machines = [scope.arn("ec2", "*"), scope.public_arn("image"), scope.public_arn("snapshot")];
    let ec2 =
        |kinds: &[&str]| kinds.iter().map(|kind| scope.arn("ec2", &format!("{kind}/*"))).collect::<Vec<_>>();
    let key_pair = scope.arn("ec2", &format!("key-pair/{}-key", scope.prefix));
    let mut made = vec!["RunInstances", "CreateImage", "CreateSecurityGroup", "CreateKeyPair"];
    // Allocates the Elastic IP of the web host, associates it, and releases it.
    let address = |actions: &[&'static str]| if scope.elastic_ip { actions.to_vec() } else { Vec::new() };
    made.extend(address(&["AllocateAddress"]));
    // The actions to create resources, in addition to those to inspect them.
    let and = |looking: &[&'static str], making: &[&'static str]| match scope.is_given {
        true => looking.to_vec(),
        false => [looking, making].concat(),
    };
    let mut statements = vec![
        allow("Buckets", if scope.is_given { &OF_GIVEN_BUCKETS } else { &["s3:*"] }, &buckets),
        allow("Queues", &["sqs:*"], &[scope.queue("*")]),
        allow("ListQueues", &["sqs:ListQueues"], &["*".to_owned()]),
        allow(
            "Roles",
            &and(
                &[
                    "iam:GetRole",
                    "iam:ListRoleTags",
                    "iam:GetRolePolicy",
                    "iam:ListRolePolicies",
                    "iam:GetInstanceProfile",
                ],
                // Creates, tags and deletes profiles, and adds and removes their roles.
                &["iam:DeleteRole", "iam:TagRole", "iam:*InstanceProfile"],
            ),
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
        // Describe actions have no resource-level permissions.
        allow(
            "LookAround",
            &["ec2:Describe*", "ssm:DescribeInstanceInformation", "sts:GetCallerIdentity", "iam:ListRoles"],
            &["*".to_owned()],
        ),
        // A launch needs permission for each resource that it creates or uses (service
        // authorization reference, "Amazon EC2", read on 2026-11-30). New resources have the tag
        // from the start.
        conditional("Launch", &["ec2:RunInstances"], &ec2(&["instance", "volume"]), scope.made_ours()),
        allow(
            "LaunchAnywhere",
            &[vec!["ec2:RunInstances"], address(&["ec2:AssociateAddress"])].concat(),
            &[ec2(&["network-interface", "subnet"]), vec![key_pair.clone()]].concat(),
        ),
        conditional(
            "LaunchOurs",
            &["ec2:RunInstances"],
            &[scope.arn("ec2", "security-group/*"), scope.public_arn("image")],
            scope.ours(),
        ),
        conditional("LaunchSystems", &["ec2:RunInstances"], &[scope.public_arn("image")], scope.makers()),
        conditional("BakeOurs", &["ec2:CreateImage"], &ec2(&["instance"]), scope.ours()),
        conditional(
            "Make",
            &[
                and(&["ec2:CreateImage", "ec2:CreateKeyPair"], &["ec2:CreateSecurityGroup"]),
                address(&["ec2:AllocateAddress"]),
            ]
            .concat(),
            &[
                vec![scope.public_arn("image"), scope.public_arn("snapshot"), key_pair],
                ec2(&["security-group"]),
                ec2(&address(&["elastic-ip"])),
            ]
            .concat(),
            scope.made_ours(),
        ),
        // Foreign resources cannot be taken over by tagging them.
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
                and(
                    &[
                        "ec2:DeleteKeyPair",
                        "ec2:DeregisterImage",
                        "ec2:DeleteSnapshot",
                        "ec2:StartInstances",
                        "ec2:StopInstances",
                        "ec2:TerminateInstances",
                        "ec2:ReplaceIamInstanceProfileAssociation",
                    ],
                    &[
                        "ec2:AuthorizeSecurityGroupIngress",
                        "ec2:RevokeSecurityGroupIngress",
                        "ec2:DeleteSecurityGroup",
                    ],
                ),
                address(&["ec2:AssociateAddress", "ec2:ReleaseAddress"]),
            ]
            .concat(),
            &["*".to_owned()],
            scope.ours(),
        ),
        allow(
            "Documents",
            &and(
                &["ssm:GetDocument", "ssm:DescribeDocument", "ssm:ListTagsForResource"],
                &[
                    "ssm:CreateDocument",
                    "ssm:UpdateDocument",
                    "ssm:UpdateDocumentDefaultVersion",
                    "ssm:DeleteDocument",
                    "ssm:AddTagsToResource",
                ],
            ),
            &Kind::ALL.map(|kind| scope.document(kind)),
        ),
        allow("UpgradeByThisDocumentOnly", &["ssm:SendCommand"], &[scope.document(Kind::Upgrade)]),
        // Two statements, as for the drains of a web host.
        conditional("UpgradeOurs", &["ssm:SendCommand"], &[scope.arn("ec2", "instance/*")], scope.ours()),
        conditional(
            "UpgradeOursBySsm",
            &["ssm:SendCommand"],
            &[scope.arn("ec2", "instance/*")],
            scope.tagged("ssm:resourceTag"),
        ),
        allow("BaseImages", &["ssm:GetParameter", "ssm:GetParameters"], &scope.public_parameters()),
    ];
    if !scope.is_given {
        statements.push(roles_made(scope));
        statements.push(allow("MakeGroupsAnywhere", &["ec2:CreateSecurityGroup"], &ec2(&["vpc"])));
    }
    statements.extend(scope.use_of_the_key());
    document(statements)
}

/// The actions to fill, count and empty buckets that others create and delete.
const OF_GIVEN_BUCKETS: [&str; 5] =
    ["s3:Get*", "s3:List*", "s3:*Object", "s3:DeleteObjectVersion", "s3:AbortMultipartUpload"];

/// Permission to write the policies of a role and to pass it to a machine amounts to all
/// permissions, unless the role has a boundary (IAM user guide, "Permissions boundaries for IAM
/// entities"; the actions with this condition key are those of the service authorization reference,
/// read on 2026-11-30).
fn roles_made(scope: &Scope) -> Value {
    let actions = ["iam:CreateRole", "iam:PutRolePolicy", "iam:DeleteRolePolicy"];
    let roles = scope.roles("role");
    match &scope.boundary {
        None => allow("MakeRoles", &actions, &roles),
        Some(boundary) => conditional(
            "MakeBoundedRoles",
            &[&actions[..], &["iam:PutRolePermissionsBoundary"]].concat(),
            &roles,
            json!({ "StringEquals": { "iam:PermissionsBoundary": boundary } }),
        ),
    }
}
