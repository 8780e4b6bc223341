"""Everything that exists in an account, for a test that compares before and after."""

from collections.abc import Iterator
from typing import Any

from moto.cloudwatch.models import cloudwatch_backends
from moto.ec2.models import ec2_backends
from moto.iam.models import iam_backends
from moto.s3.models import s3_backends
from moto.sqs.models import sqs_backends
from moto.ssm.models import ssm_backends

from emulator.machine import TERMINATED


def of(account: str) -> dict[str, Any]:
    """Sorted, and free of what changes by itself, so that equal accounts give equal documents. What AWS has in every
    account (default groups, public images, managed policies) is left out."""
    return {
        "buckets": {name: _bucket(bucket) for name, bucket in sorted(_buckets(account))},
        "queues": sorted(
            queue.name for backend in _regions(sqs_backends, account) for queue in list(backend.queues.values())
        ),
        "documents": sorted(name for backend in _regions(ssm_backends, account) for name in list(backend._documents)),
        "parameters": sorted(
            name
            for backend in _regions(ssm_backends, account)
            for name in list(backend._parameters)
            if not name.startswith("/aws/") and dict.get(backend._parameters, name)
        ),
        "alarms": {
            alarm.name: {
                "metric": alarm.metric_name,
                "of": [dimension.value for dimension in alarm.dimensions],
                "without_data": alarm.treat_missing_data,
                "tells": alarm.alarm_actions,
            }
            for backend in _regions(cloudwatch_backends, account)
            for alarm in list(backend.alarms.values())
        },
        **_ec2(account),
        **_iam(account),
    }


def _ec2(account: str) -> dict[str, Any]:
    backends = _regions(ec2_backends, account)
    instances = {
        each.id: each._state.name
        for backend in backends
        for each in backend.all_instances()
        if each._state.name != TERMINATED
    }
    return {
        "instances": dict(sorted(instances.items())),
        "images": sorted(
            each.id for backend in backends for each in list(backend.amis.values()) if each.owner_id == account
        ),
        # moto keeps, beside each image that it was born with, a snapshot: those belong to the image's owner.
        "snapshots": sorted(
            each.id
            for backend in backends
            for each in list(backend.snapshots.values())
            if each.owner_id == account and not _of_public_image(backend, each)
        ),
        "volumes": sorted(each for backend in backends for each in list(backend.volumes)),
        "key_pairs": sorted(each for backend in backends for each in list(backend.key_pairs)),
        "security_groups": sorted(
            group.id
            for backend in backends
            for groups in list(backend.groups.values())
            for group in list(groups.values())
            if group.name != "default"
        ),
        "addresses": sorted(each.public_ip for backend in backends for each in list(backend.addresses)),
        "launch_templates": sorted(each for backend in backends for each in list(backend.launch_templates)),
    }


def _of_public_image(backend: Any, snapshot: Any) -> bool:
    image = backend.amis.get(snapshot.from_ami) if snapshot.from_ami else None
    return image is not None and image.owner_id != backend.account_id


def _iam(account: str) -> dict[str, Any]:
    iam = iam_backends[account]["aws"]
    return {
        "roles": {
            role.name: {
                "inline": sorted(role.policies),
                "attached": sorted(policy.name for policy in role.managed_policies.values()),
            }
            for role in sorted(list(iam.roles.values()), key=lambda role: role.name)
        },
        "instance_profiles": {
            profile.name: [role.name for role in profile.roles]
            for profile in sorted(list(iam.instance_profiles.values()), key=lambda profile: profile.name)
        },
        "policies": sorted(policy.name for arn, policy in list(iam.managed_policies.items()) if f"::{account}:" in arn),
        "users": sorted(iam.users),
        "groups": sorted(iam.groups),
    }


def _buckets(account: str) -> Iterator[tuple[str, Any]]:
    for backend in _regions(s3_backends, account):
        yield from list(backend.buckets.items())


def _bucket(bucket: Any) -> dict[str, int]:
    from moto.s3.models import FakeDeleteMarker

    versions = [version for key in list(bucket.keys) for version in bucket.keys.getlist(key)]
    markers = sum(isinstance(version, FakeDeleteMarker) for version in versions)
    # Of a key without versioning there is one version, and that is the object.
    current = sum(1 for key in list(bucket.keys) if not isinstance(bucket.keys.getlist(key)[-1], FakeDeleteMarker))
    return {
        "objects": current,
        "versions": len(versions) - markers,
        "delete_markers": markers,
        "uploads": len(bucket.multiparts),
    }


def _regions(backends: Any, account: str) -> list[Any]:
    """Only the regions that somebody has used: asking for another would make it."""
    return list(dict.values(backends[account]))
