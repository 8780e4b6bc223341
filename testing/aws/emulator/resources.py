"""What a call names, as ARNs and tags: the vocabulary in which policies speak of it."""

import xml.etree.ElementTree as xml
from collections.abc import Iterator
from typing import Any

from moto.iam.exceptions import NotFoundException
from moto.iam.models import iam_backends

from emulator.call import Call

_EC2_KINDS = {
    "i": "instance",
    "ami": "image",
    "snap": "snapshot",
    "vol": "volume",
    "sg": "security-group",
    "subnet": "subnet",
    "eni": "network-interface",
    "key": "key-pair",
    "eipalloc": "elastic-ip",
}
# Images and snapshots may be public, so their ARNs name no account.
_WITHOUT_ACCOUNT = {"image", "snapshot"}


def ec2_named(call: Call, kind: str, name: str) -> str:
    return f"arn:aws:ec2:{call.region}:{'' if kind in _WITHOUT_ACCOUNT else call.account}:{kind}/{name}"


def ec2_arn(call: Call, resource_id: str) -> str:
    return ec2_named(call, _EC2_KINDS.get(resource_id.partition("-")[0], "unknown"), resource_id)


def ec2_tags(call: Call, resource_id: str) -> dict[str, str]:
    from moto.ec2.models import ec2_backends

    tags = ec2_backends[call.account][call.region].describe_tags(filters={"resource-id": [resource_id]})
    return {tag["key"]: tag["value"] for tag in tags}


def ec2_tag_context(call: Call, resource_id: str) -> dict[str, Any]:
    tags = ec2_tags(call, resource_id)
    return {
        f"{prefix}/{key}": value for key, value in tags.items() for prefix in ("aws:ResourceTag", "ec2:ResourceTag")
    }


def instance_of_association(call: Call, association_id: str) -> str:
    """The instance that an association gives its profile."""
    from moto.ec2.models import ec2_backends

    associations = ec2_backends[call.account][call.region].iam_instance_profile_associations
    found = (instance for instance, each in associations.items() if each.association_id == association_id)
    return next(found, "*")


def key_pair_tag_context(call: Call, name: str) -> dict[str, Any]:
    """A key pair is called by its name, and tagged by its id."""
    from moto.ec2.models import ec2_backends

    pair = ec2_backends[call.account][call.region].key_pairs.get(name)
    return {} if pair is None else ec2_tag_context(call, pair.id)


def specified_tags(call: Call, kind: str) -> dict[str, Any]:
    """The tags that a call gives to what it makes of this kind (TagSpecification)."""
    tags: dict[str, str] = {}
    number = 1
    while (resource := call.parameters.get(f"TagSpecification.{number}.ResourceType")) is not None:
        if resource == kind:
            tags |= _tags(call.parameters, f"TagSpecification.{number}.Tag")
        number += 1
    return _tag_context(tags)


def request_tags(call: Call) -> dict[str, Any]:
    """The tags of CreateTags, or of a JSON body."""
    listed = call.parameters.get("Tags")
    if isinstance(listed, list):
        return _tag_context({tag["Key"]: tag["Value"] for tag in listed})
    return _tag_context(_tags(call.parameters, "Tag"))


def _tags(parameters: dict[str, Any], prefix: str) -> dict[str, str]:
    tags, number = {}, 1
    while (key := parameters.get(f"{prefix}.{number}.Key")) is not None:
        tags[key] = parameters.get(f"{prefix}.{number}.Value", "")
        number += 1
    return tags


def _tag_context(tags: dict[str, str]) -> dict[str, Any]:
    if not tags:
        return {}
    return {f"aws:RequestTag/{key}": value for key, value in tags.items()} | {"aws:TagKeys": list(tags)}


def document(call: Call, name: str) -> str:
    if name.startswith("arn:"):
        return name
    owner = "" if name.startswith(("AWS-", "Amazon")) else call.account
    return f"arn:aws:ssm:{call.region}:{owner}:document/{name}"


def parameter(call: Call, name: str) -> str:
    owner = "" if name.startswith("/aws/service/") else call.account
    return f"arn:aws:ssm:{call.region}:{owner}:parameter/{name.lstrip('/')}"


def commanded_instances(call: Call) -> list[str]:
    named = list(call.parameters.get("InstanceIds") or [])
    for target in call.parameters.get("Targets") or []:
        if target.get("Key") == "InstanceIds":
            named += target.get("Values", [])
    return named or ["*"]


def role(call: Call, name: str) -> str:
    try:
        return iam_backends[call.account]["aws"].get_role(name).arn
    except NotFoundException:
        return f"arn:aws:iam::{call.account}:role/{name}"


def boundary_of_role(call: Call, name: str) -> str | None:
    try:
        return iam_backends[call.account]["aws"].get_role(name).permissions_boundary_arn
    except NotFoundException:
        return None


def image_owner(call: Call, image_id: str) -> dict[str, Any]:
    """An alias, such as amazon, where the owner has one; else an account."""
    from moto.ec2.models import ec2_backends

    image = ec2_backends[call.account][call.region].amis.get(image_id)
    owner = image and (image.owner_alias or image.owner_id)
    return {"ec2:Owner": owner} if owner else {}


def role_of_profile(call: Call, name: str | None, arn: str | None) -> str | None:
    for profile in list(iam_backends[call.account]["aws"].get_instance_profiles()):
        if (name and profile.name == name) or (arn and profile.arn == arn):
            return profile.roles[0].arn if profile.roles else None
    return None


def keys_to_delete(body: bytes) -> Iterator[tuple[str, str | None]]:
    """Key and version of each object that DeleteObjects names."""
    for each in xml.fromstring(body).iter():
        if each.tag.rpartition("}")[2] == "Object":
            parts = {child.tag.rpartition("}")[2]: child.text or "" for child in each}
            yield parts.get("Key", ""), parts.get("VersionId")
