"""What moto's CloudFormation leaves out of what a template of EIRS asks for: rules, locks and policies of buckets. And what it
keeps as a value where the service itself keeps a text."""

import functools
import json
from collections.abc import Callable
from typing import Any

from moto.cloudformation import parsing
from moto.cloudwatch.models import cloudwatch_backends
from moto.core.common_models import CloudFormationModel
from moto.iam.models import Role
from moto.s3.models import FakeBucket, PublicAccessBlock, s3_backends
from moto.ssm.models import Document
from moto.utilities.utils import get_partition


@functools.cache
def install() -> None:
    """At the first call of CloudFormation: all models are loaded by then, and listed after that."""
    _then(FakeBucket, _bucket)
    _then(Role, _role)
    _then(Document, _document)
    parsing.clean_json = _zones_of_the_stack(parsing.clean_json)


class BucketPolicy(CloudFormationModel):
    """Checked and noted, and not in force where a statement has a condition: moto would take it for one without, and the one
    against connections without TLS would shut everybody out."""

    def __init__(self, bucket: str) -> None:
        self.physical_resource_id = bucket

    @staticmethod
    def cloudformation_name_type() -> str:
        return ""

    @staticmethod
    def cloudformation_type() -> str:
        return "AWS::S3::BucketPolicy"

    @classmethod
    def has_cfn_attr(cls, attr: str) -> bool:
        return False

    @classmethod
    def create_from_cloudformation_json(
        cls, resource_name: str, cloudformation_json: Any, account_id: str, region_name: str, **_: Any
    ) -> "BucketPolicy":
        properties = cloudformation_json["Properties"]
        backend = s3_backends[account_id][get_partition(region_name)]
        backend.get_bucket(properties["Bucket"])
        document = properties["PolicyDocument"]
        if not any("Condition" in statement for statement in document["Statement"]):
            backend.put_bucket_policy(properties["Bucket"], _text(document).encode())
        return cls(properties["Bucket"])

    @classmethod
    def delete_from_cloudformation_json(
        cls, resource_name: str, cloudformation_json: Any, account_id: str, region_name: str
    ) -> None:
        s3_backends[account_id][get_partition(region_name)].delete_bucket_policy(resource_name)


class AlarmOfAStack(CloudFormationModel):
    """CloudWatch has alarms, and moto's CloudFormation makes none."""

    def __init__(self, name: str) -> None:
        self.physical_resource_id = name

    @staticmethod
    def cloudformation_name_type() -> str:
        return "AlarmName"

    @staticmethod
    def cloudformation_type() -> str:
        return "AWS::CloudWatch::Alarm"

    @classmethod
    def has_cfn_attr(cls, attr: str) -> bool:
        return False

    @classmethod
    def create_from_cloudformation_json(
        cls, resource_name: str, cloudformation_json: Any, account_id: str, region_name: str, **_: Any
    ) -> "AlarmOfAStack":
        properties = cloudformation_json["Properties"]
        cloudwatch_backends[account_id][region_name].put_metric_alarm(
            name=properties["AlarmName"],
            namespace=properties["Namespace"],
            metric_name=properties["MetricName"],
            comparison_operator=properties["ComparisonOperator"],
            evaluation_periods=int(properties["EvaluationPeriods"]),
            period=int(properties["Period"]),
            threshold=float(properties["Threshold"]),
            statistic=properties["Statistic"],
            description=properties.get("AlarmDescription", ""),
            dimensions=properties["Dimensions"],
            alarm_actions=properties.get("AlarmActions", []),
            ok_actions=properties.get("OKActions", []),
            treat_missing_data=properties.get("TreatMissingData"),
        )
        return cls(properties["AlarmName"])

    @classmethod
    def delete_from_cloudformation_json(
        cls, resource_name: str, cloudformation_json: Any, account_id: str, region_name: str
    ) -> None:
        cloudwatch_backends[account_id][region_name].delete_alarms([resource_name])


def _zones_of_the_stack(clean: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """`Fn::GetAZs` of nothing means the zones of the stack's region, and to moto those of us-east-1."""

    def cleaned(properties: Any, known: Any) -> Any:
        if isinstance(properties, dict) and properties.get("Fn::GetAZs") == "":
            properties = {"Fn::GetAZs": known["AWS::Region"]}
        return clean(properties, known)

    return cleaned


def _then(model: Any, more: Callable[[Any, dict[str, Any]], Any]) -> None:
    make = model.create_from_cloudformation_json.__func__

    def made(cls: Any, resource_name: str, cloudformation_json: Any, *rest: Any, **named: Any) -> Any:
        resource = make(cls, resource_name, cloudformation_json, *rest, **named)
        more(resource, cloudformation_json.get("Properties", {}))
        return resource

    model.create_from_cloudformation_json = classmethod(made)


def _bucket(bucket: FakeBucket, properties: dict[str, Any]) -> None:
    if (locks := properties.get("PublicAccessBlockConfiguration")) is not None:
        names = ["BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"]
        bucket.public_access_block = PublicAccessBlock(*(str(locks.get(name, False)).lower() for name in names))
    if (lifecycle := properties.get("LifecycleConfiguration")) is not None:
        bucket.set_lifecycle([_rule(each) for each in lifecycle["Rules"]])


def _rule(properties: dict[str, Any]) -> dict[str, Any]:
    rule = {"ID": properties["Id"], "Status": properties["Status"], "Filter": {"Prefix": properties.get("Prefix", "")}}
    if "ExpirationInDays" in properties:
        rule["Expiration"] = {"Days": properties["ExpirationInDays"]}
    for same in ("NoncurrentVersionExpiration", "AbortIncompleteMultipartUpload"):
        if same in properties:
            rule[same] = properties[same]
    return rule


def _role(role: Role, _: dict[str, Any]) -> None:
    role.policies.update({name: _text(document) for name, document in role.policies.items()})


def _document(document: Document, _: dict[str, Any]) -> None:
    document.content = _text(document.content)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)

