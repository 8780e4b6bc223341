"""Which permissions a call needs.

The table of AWS's Service Authorization Reference, for what EIRS calls: an action for each resource that is touched,
with the condition keys that AWS would know there. An operation that is not listed needs its own name, on "*".
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from emulator import resources
from emulator.call import Call


@dataclass(frozen=True)
class Need:
    action: str
    resource: str = "*"
    context: dict[str, Any] = field(default_factory=dict)


def of(call: Call) -> Iterator[Need]:
    find = _NEEDS.get(call.service, _by_name)
    yield from find(call)


def _by_name(call: Call) -> Iterator[Need]:
    yield Need(f"{call.service}:{call.operation}")


def _sqs(call: Call) -> Iterator[Need]:
    name = call.parameters.get("QueueName") or str(call.parameters.get("QueueUrl", "")).rpartition("/")[2]
    action = call.operation.removesuffix("Batch")  # the batches have no permission of their own
    yield Need(
        f"sqs:{action}", "*" if call.operation == "ListQueues" else f"arn:aws:sqs:{call.region}:{call.account}:{name}"
    )


_S3_ACTIONS = {
    "ListBuckets": "ListAllMyBuckets",
    "HeadBucket": "ListBucket",
    "ListObjects": "ListBucket",
    "ListObjectsV2": "ListBucket",
    "ListObjectVersions": "ListBucketVersions",
    "ListMultipartUploads": "ListBucketMultipartUploads",
    "ListParts": "ListMultipartUploadParts",
    "HeadObject": "GetObject",
    "CreateMultipartUpload": "PutObject",
    "UploadPart": "PutObject",
    "CompleteMultipartUpload": "PutObject",
    "CopyObject": "PutObject",
    "UploadPartCopy": "PutObject",
    "DeleteObjects": "DeleteObject",
    "PutBucketLifecycleConfiguration": "PutLifecycleConfiguration",
    "GetBucketLifecycleConfiguration": "GetLifecycleConfiguration",
    "DeleteBucketLifecycle": "PutLifecycleConfiguration",
    "PutPublicAccessBlock": "PutBucketPublicAccessBlock",
    "GetPublicAccessBlock": "GetBucketPublicAccessBlock",
    "DeletePublicAccessBlock": "PutBucketPublicAccessBlock",
    "PutBucketEncryption": "PutEncryptionConfiguration",
    "GetBucketEncryption": "GetEncryptionConfiguration",
    "DeleteBucketEncryption": "PutEncryptionConfiguration",
    "DeleteBucketTagging": "PutBucketTagging",
}


def _s3(call: Call) -> Iterator[Need]:
    action = _S3_ACTIONS.get(call.operation, call.operation)
    if "versionId" in call.parameters and action in ("GetObject", "DeleteObject"):
        action += "Version"
    bucket = f"arn:aws:s3:::{call.bucket}"
    if call.bucket is None:
        yield Need(f"s3:{action}")
    elif call.operation == "DeleteObjects":
        for key, version in resources.keys_to_delete(call.body):
            yield Need("s3:DeleteObjectVersion" if version else "s3:DeleteObject", f"{bucket}/{key}")
    elif call.key is None:
        context = {
            f"s3:{name}": call.parameters[name]
            for name in ("prefix", "delimiter", "max-keys")
            if name in call.parameters
        }
        yield Need(f"s3:{action}", bucket, context)
    else:
        # A request without the header has no such key: "Null" tells the two apart (user guide, "Enforce conditional writes").
        conditions = {f"s3:{name}": value for name in ("if-none-match", "if-match") if (value := call.header(name))}
        yield Need(f"s3:{action}", f"{bucket}/{call.key}", conditions)
    if source := call.header("x-amz-copy-source"):
        yield Need("s3:GetObject", f"arn:aws:s3:::{source.partition('?')[0].lstrip('/')}")


def _ssm(call: Call) -> Iterator[Need]:
    action = f"ssm:{call.operation}"
    if call.operation == "SendCommand":
        yield Need(action, resources.document(call, call.parameters.get("DocumentName", "")))
        for instance in resources.commanded_instances(call):
            tags = resources.ec2_tags(call, instance)
            context = {
                f"{prefix}/{key}": value
                for key, value in tags.items()
                for prefix in ("ssm:resourceTag", "aws:ResourceTag")
            }
            yield Need(action, resources.ec2_arn(call, instance), context)
    elif "Document" in call.operation and "Name" in call.parameters:
        yield Need(action, resources.document(call, call.parameters["Name"]), resources.request_tags(call))
    elif "Parameter" in call.operation:
        names = call.listed("Names") or [call.parameters.get("Name") or call.parameters.get("Path") or "*"]
        for name in names:
            yield Need(action, resources.parameter(call, name))
    elif call.operation.endswith(("TagsToResource", "TagsFromResource", "TagsForResource")):
        yield Need(
            action, resources.document(call, call.parameters.get("ResourceId", "")), resources.request_tags(call)
        )
    else:
        yield Need(action)


_EC2_LISTS = {
    "StartInstances": "InstanceId",
    "StopInstances": "InstanceId",
    "TerminateInstances": "InstanceId",
    "RebootInstances": "InstanceId",
    "CreateTags": "ResourceId",
    "DeleteTags": "ResourceId",
}
_EC2_ONE = {
    "ModifyInstanceAttribute": "InstanceId",
    "ModifyInstanceMetadataOptions": "InstanceId",
    "AssociateIamInstanceProfile": "InstanceId",
    "DeregisterImage": "ImageId",
    "DeleteSnapshot": "SnapshotId",
    "DeleteVolume": "VolumeId",
    "DeleteSecurityGroup": "GroupId",
    "ReleaseAddress": "AllocationId",
    "AuthorizeSecurityGroupIngress": "GroupId",
    "AuthorizeSecurityGroupEgress": "GroupId",
    "RevokeSecurityGroupIngress": "GroupId",
    "RevokeSecurityGroupEgress": "GroupId",
}


def _ec2(call: Call) -> Iterator[Need]:
    action = f"ec2:{call.operation}"
    if call.operation in _EC2_LISTS:
        for each in call.listed(_EC2_LISTS[call.operation]):
            yield Need(
                action,
                resources.ec2_arn(call, each),
                resources.ec2_tag_context(call, each) | resources.request_tags(call),
            )
    elif call.operation in _EC2_ONE and _EC2_ONE[call.operation] in call.parameters:
        each = call.parameters[_EC2_ONE[call.operation]]
        yield Need(action, resources.ec2_arn(call, each), resources.ec2_tag_context(call, each))
    elif call.operation == "RunInstances":
        yield from _run_instances(call)
    elif call.operation == "CreateImage":
        instance = call.parameters.get("InstanceId", "")
        yield Need(action, resources.ec2_arn(call, instance), resources.ec2_tag_context(call, instance))
        yield from _created(call, ["image", "snapshot"])
    elif call.operation in ("CreateKeyPair", "ImportKeyPair", "DeleteKeyPair"):
        named = call.parameters.get("KeyName", "*")
        context = (
            resources.key_pair_tag_context(call, named)
            if call.operation == "DeleteKeyPair"
            else resources.specified_tags(call, "key-pair")
        )
        yield Need(action, resources.ec2_named(call, "key-pair", named), context)
        yield from _tagging(call, ["key-pair"])
    elif call.operation == "AllocateAddress":
        yield from _created(call, ["elastic-ip"])
    elif call.operation == "AssociateAddress":
        for name in ("AllocationId", "InstanceId"):
            each = call.parameters.get(name, "*")
            yield Need(action, resources.ec2_arn(call, each), resources.ec2_tag_context(call, each))
    elif call.operation == "ReplaceIamInstanceProfileAssociation":
        each = resources.instance_of_association(call, call.parameters.get("AssociationId", ""))
        yield Need(action, resources.ec2_arn(call, each), resources.ec2_tag_context(call, each))
        yield from _passing(call)
    elif call.operation == "CreateSecurityGroup":
        yield from _created(call, ["security-group"])
        if "VpcId" in call.parameters:
            yield Need(action, resources.ec2_named(call, "vpc", call.parameters["VpcId"]))
    else:
        yield Need(action)


def _run_instances(call: Call) -> Iterator[Need]:
    yield from _created(call, ["instance", "volume", "network-interface"])
    image = call.parameters.get("ImageId", "*")
    yield Need(
        "ec2:RunInstances",
        f"arn:aws:ec2:{call.region}::image/{image}",
        resources.ec2_tag_context(call, image) | resources.image_owner(call, image),
    )
    for group in call.listed("SecurityGroupId") or ["*"]:
        yield Need(
            "ec2:RunInstances",
            resources.ec2_named(call, "security-group", group),
            resources.ec2_tag_context(call, group),
        )
    yield Need("ec2:RunInstances", resources.ec2_named(call, "subnet", call.parameters.get("SubnetId", "*")))
    if "KeyName" in call.parameters:
        yield Need("ec2:RunInstances", resources.ec2_named(call, "key-pair", call.parameters["KeyName"]))
    yield from _passing(call)


def _passing(call: Call) -> Iterator[Need]:
    """Who gives an instance a profile hands it the role in it."""
    role = resources.role_of_profile(
        call, call.parameters.get("IamInstanceProfile.Name"), call.parameters.get("IamInstanceProfile.Arn")
    )
    if role is not None:
        yield Need("iam:PassRole", role, {"iam:PassedToService": "ec2.amazonaws.com"})


def _created(call: Call, kinds: list[str]) -> Iterator[Need]:
    """What a call makes has no id yet, and so is any of its kind; its tags are a permission of their own."""
    for kind in kinds:
        yield Need(f"ec2:{call.operation}", resources.ec2_named(call, kind, "*"), resources.specified_tags(call, kind))
    yield from _tagging(call, kinds)


def _tagging(call: Call, kinds: list[str]) -> Iterator[Need]:
    for kind in kinds:
        if tags := resources.specified_tags(call, kind):
            yield Need(
                "ec2:CreateTags", resources.ec2_named(call, kind, "*"), tags | {"ec2:CreateAction": call.operation}
            )


def _iam(call: Call) -> Iterator[Need]:
    action, given = f"iam:{call.operation}", call.parameters
    if "InstanceProfile" in call.operation and "InstanceProfileName" in given:
        yield Need(action, f"arn:aws:iam::{call.account}:instance-profile/{given['InstanceProfileName']}")
        if call.operation == "AddRoleToInstanceProfile":
            yield Need(
                "iam:PassRole", resources.role(call, given["RoleName"]), {"iam:PassedToService": "ec2.amazonaws.com"}
            )
    elif "RoleName" in given:
        context = {"iam:PolicyARN": given["PolicyArn"]} if "PolicyArn" in given else {}
        # The boundary that the role is given, or else that it has.
        if boundary := given.get("PermissionsBoundary") or resources.boundary_of_role(call, given["RoleName"]):
            context["iam:PermissionsBoundary"] = boundary
        yield Need(action, resources.role(call, given["RoleName"]), context)
    elif "PolicyArn" in given or "PolicyName" in given:
        yield Need(action, given.get("PolicyArn") or f"arn:aws:iam::{call.account}:policy/{given['PolicyName']}")
    else:
        yield Need(action)


def _sts(call: Call) -> Iterator[Need]:
    yield Need(f"sts:{call.operation}", call.parameters.get("RoleArn", "*"))


_NEEDS: dict[str, Callable[[Call], Iterator[Need]]] = {
    "sqs": _sqs,
    "s3": _s3,
    "ssm": _ssm,
    "ec2": _ec2,
    "iam": _iam,
    "sts": _sts,
}
