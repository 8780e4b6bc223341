//! The permissions boundary of the roles of an installation: a policy that the administrator of the
//! account creates, and that `setup.permissions_boundary` names. It covers the permissions of the
//! roles in broader terms, so that it seldom changes.

use serde_json::Value;

use super::{
    Scope, allow, conditional, document,
    roles::{SSM_AGENT, launches},
};
use crate::aws::document::Kind;

/// Returns the maximum permissions of workers and web hosts.
pub(crate) fn boundary(scope: &Scope) -> Value {
    let instances = [scope.arn("ec2", "instance/*")];
    let buckets = [&scope.input_bucket, &scope.output_bucket]
        .map(|bucket| [scope.bucket(bucket), scope.objects(bucket, "*")])
        .concat();
    let look = ["sqs:ListQueues", "ec2:Describe*", "ssm:GetCommandInvocation"];
    let mut statements = vec![
        allow("Queues", &["sqs:*"], &[scope.queue("*")]),
        allow("Buckets", &["s3:*Object", "s3:ListBucket", "s3:Get*"], &buckets),
        allow("Look", &[&look[..], &SSM_AGENT].concat(), &["*".to_owned()]),
        allow("Systems", &["ssm:GetParameter"], &scope.public_parameters()),
        allow("Roles", &["iam:Get*"], &scope.roles_and_profiles()),
        conditional(
            "Instances",
            &["ec2:StartInstances", "ec2:StopInstances", "ec2:CreateTags"],
            &instances,
            scope.ours(),
        ),
        allow("Drains", &["ssm:SendCommand"], &[scope.document(Kind::Drain)]),
        conditional("DrainOurs", &["ssm:SendCommand"], &instances, scope.ours()),
        conditional("DrainOursBySsm", &["ssm:SendCommand"], &instances, scope.tagged("ssm:resourceTag")),
    ];
    if scope.launches {
        statements.extend(launches(scope));
    }
    statements.extend(scope.use_of_the_key());
    document(statements)
}
