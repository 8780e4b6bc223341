"""Who calls, and what IAM lets them do."""

import json
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import cache
from typing import Any

from moto.iam.aws_managed_policies import aws_managed_policies_data
from moto.iam.exceptions import NotFoundException
from moto.iam.models import AWSManagedPolicy, IAMBackend, iam_backends
from moto.sts.models import AssumedRole, STSBackend, sts_backends
from moto.utilities.utils import get_partition

from emulator.call import Call


@dataclass(frozen=True)
class Principal:
    arn: str
    account: str
    administrator: bool = False
    policies: list[str] = field(default_factory=list)
    problem: str | None = None  # "unknown", "token" or "expired": credentials that open nothing
    instance: str | None = None  # the ARN of the instance whose role this is
    boundary: str | None = None  # the document beyond which nothing is allowed, whatever the policies say


def install() -> None:
    """A test moves into an account of its own by assuming a role there that nobody made. Such a session is that account's
    administrator; a session of a role that exists is bound by it, also after the role is gone."""
    assume_role = STSBackend.assume_role

    def assume(self: STSBackend, **arguments: object) -> AssumedRole:
        session = assume_role(self, **arguments)
        backend = iam_backends[session.account_id][get_partition(session.region_name)]
        session.emulator_is_administrator = not any(
            role.arn == session.role_arn for role in list(backend.roles.values())
        )
        session.emulator_instance = None
        return session

    STSBackend.assume_role = assume
    IAMBackend._init_aws_policies = _aws_policies


# moto leaves AWS's own policies out, because all of them would cost each new account a second. These are what an
# installation like ours might attach.
AWS_POLICIES = (
    "AmazonSSM",
    "AmazonSQS",
    "AmazonS3",
    "AmazonEC2",
    "CloudWatch",
    "ReadOnlyAccess",
    "AdministratorAccess",
)


@cache
def _aws_policy_data() -> dict[str, Any]:
    return {name: data for name, data in json.loads(aws_managed_policies_data).items() if name.startswith(AWS_POLICIES)}


def _aws_policies(backend: IAMBackend) -> list[AWSManagedPolicy]:
    if backend.region_name != "aws":
        return []  # moto makes one backend for each of AWS's worlds (China, GovCloud, …); here is only the one
    return [
        AWSManagedPolicy.from_data(name, backend.account_id, backend.region_name, data)
        for name, data in _aws_policy_data().items()
    ]


def of(call: Call) -> Principal:
    account = call.account
    if call.access_key is None:
        return Principal("anonymous", account)
    session = _session(account, call)
    if session is not None:
        return _of_session(account, session, call)
    user = iam_backends[account][get_partition(call.region)].get_user_from_access_key_id(call.access_key)
    if user is not None:
        return Principal(user.arn, account, policies=_documents(user))
    if call.access_key.startswith("ASIA"):
        return Principal("unknown", account, problem="unknown")
    # A key that IAM never gave out is the test itself, which may do everything, as moto has it.
    return Principal(f"arn:aws:iam::{account}:root", account, administrator=True)


def for_instance(account: str, region: str, role_arn: str, instance_id: str) -> AssumedRole:
    """The session whose credentials an instance's metadata server hands out."""
    session = sts_backends[account][get_partition(region)].assume_role(
        region_name=region,
        role_session_name=instance_id,
        role_arn=role_arn,
        policy=None,
        duration=6 * 3600,
        external_id=None,
    )
    session.emulator_instance = f"arn:{get_partition(region)}:ec2:{region}:{account}:instance/{instance_id}"
    return session


def role_documents(account: str, region: str, role_name: str) -> list[str]:
    try:
        return _documents(iam_backends[account][get_partition(region)].get_role(role_name))
    except NotFoundException:
        return []


# Nothing is allowed by a boundary that is no policy of the account.
_NO_POLICY = '{"Version": "2012-10-17", "Statement": []}'


def role_boundary(account: str, region: str, role_name: str) -> str | None:
    backend = iam_backends[account][get_partition(region)]
    try:
        arn = backend.get_role(role_name).permissions_boundary_arn
    except NotFoundException:
        return None
    if not arn:
        return None
    policy = backend.managed_policies.get(arn)
    if policy is None:
        return _NO_POLICY
    return next(version.document for version in policy.versions if version.is_default)


def _session(account: str, call: Call) -> AssumedRole | None:
    sessions = sts_backends[account][get_partition(call.region)].assumed_roles
    return next((each for each in list(sessions) if each.access_key_id == call.access_key), None)


def _of_session(account: str, session: AssumedRole, call: Call) -> Principal:
    problem = None
    if call.session_token != session.session_token:
        problem = "token"
    elif session.expiration.replace(tzinfo=timezone.utc) < datetime.now(timezone.utc):
        problem = "expired"
    administrator = getattr(session, "emulator_is_administrator", False)
    policies = [] if administrator else role_documents(account, call.region, session.role_arn.rpartition("/")[2])
    boundary = None if administrator else role_boundary(account, call.region, session.role_arn.rpartition("/")[2])
    return Principal(
        session.arn, account, administrator, policies, problem, getattr(session, "emulator_instance", None), boundary
    )


def _documents(holder: object) -> list[str]:
    """The inline and the attached policies of a role or user."""
    inline = [document if isinstance(document, str) else json.dumps(document) for document in holder.policies.values()]
    attached = [
        next(version.document for version in policy.versions if version.is_default)
        for policy in holder.managed_policies.values()
    ]
    return inline + attached
