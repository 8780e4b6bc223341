"""The EC2 calls whose answers moto gives too easily, put on top of `instances` and `images`."""

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from moto.core.responses import ActionResult, EmptyResult
from moto.ec2.exceptions import DependencyViolationError, EC2ClientError
from moto.ec2.models.iam_instance_profile import IamInstanceProfileAssociation, IamInstanceProfileAssociationBackend
from moto.ec2.models.instance_types import INSTANCE_TYPES
from moto.ec2.models.instances import Instance, InstanceBackend, Reservation
from moto.ec2.models.security_groups import SecurityGroupBackend
from moto.ec2.responses.instances import InstanceResponse
from moto.ec2.utils import filter_reservations
from moto.iam.exceptions import NotFoundException
from moto.iam.models import iam_backends

from emulator.call import Call
from emulator.faults import Fault
from emulator.instances import Instances
from emulator.machine import TERMINATED, Machine

INSTANCE_ID = re.compile(r"i-([0-9a-f]{8}|[0-9a-f]{17})")


def install(instances: Instances, describe_lag: float) -> None:
    _state_changes(instances)
    _launch(instances)
    _describe(instances, describe_lag)
    _groups(instances)
    _profiles()


def wants_place(call: Call, fault: Fault) -> bool:
    """Does the call want an instance of the fault's zone and type? So a start of many is refused for the few that name
    the zone that is full, and can be halved until the others start."""
    from moto.ec2.models import ec2_backends

    backend = ec2_backends[call.account][call.region]
    if call.operation == "RunInstances":
        zone = call.parameters.get("Placement.AvailabilityZone") or f"{call.region}a"  # where moto puts what names none
        if "SubnetId" in call.parameters:
            with suppress(EC2ClientError):  # moto will refuse the launch
                zone = backend.get_subnet(call.parameters["SubnetId"]).availability_zone
        wanted = [(zone, call.parameters.get("InstanceType", ""))]
    else:
        named = (backend.get_instance_by_id(each) for each in call.listed("InstanceId"))
        wanted = [(each.placement.zone, each.instance_type) for each in named if each is not None]
    return any(fault.zone in (None, zone) and fault.instance_type in (None, kind) for zone, kind in wanted)


def _state_changes(instances: Instances) -> None:
    def named(self: InstanceResponse) -> list[Instance]:
        ids = _ids(self)
        self.error_on_dryrun()
        if not ids:
            raise EC2ClientError("InvalidParameterCombination", "No instances specified")
        return self.ec2_backend.get_multi_instances_by_id(ids)

    def start_instances(self: InstanceResponse) -> ActionResult:
        return ActionResult({"StartingInstances": instances.start(named(self))})

    def stop_instances(self: InstanceResponse) -> ActionResult:
        return ActionResult({"StoppingInstances": instances.stop(named(self), self._get_bool_param("Force", False))})

    def terminate_instances(self: InstanceResponse) -> ActionResult:
        return ActionResult({"TerminatingInstances": instances.terminate(named(self))})

    def reboot_instances(self: InstanceResponse) -> EmptyResult:
        instances.reboot(named(self))
        return EmptyResult()

    for change in (start_instances, stop_instances, terminate_instances, reboot_instances):
        setattr(InstanceResponse, change.__name__, change)


def _ids(response: InstanceResponse) -> list[str]:
    """An id that is named twice is no error; one that cannot be one is another than one that does not exist."""
    ids = list(dict.fromkeys(response._get_param("InstanceIds", [])))
    for each in ids:
        if not INSTANCE_ID.fullmatch(each):
            raise EC2ClientError("InvalidInstanceID.Malformed", f'Invalid id: "{each}"')
    return ids


def _launch(instances: Instances) -> None:
    """RunInstances: idempotent by its ClientToken, with MaxCount instances that all get their profile; and refused where
    moto shrugs: an image, a key pair or a profile that is not there, an image of another architecture."""
    run_instances = InstanceResponse.run_instances
    launches: dict[tuple[str, str, str], tuple[dict[str, Any], Reservation]] = {}
    lock = threading.Lock()

    def run(self: InstanceResponse) -> ActionResult:
        token = (self.current_account, self.region, self._get_param("ClientToken") or "")
        asked = dict(self.querystring)
        with lock:
            if token[2] and token in launches:
                before, reservation = launches[token]
                if before != asked:
                    raise EC2ClientError(
                        "IdempotentParameterMismatch",
                        "Arguments on this idempotent request are inconsistent "
                        "with arguments used in previous request(s).",
                    )
                return ActionResult(reservation)
            _check_launch(self)
            self.params["MinCount"] = self._get_param("MaxCount") or self._get_param("MinCount", 1)
            result = run_instances(self)
            reservation = result.result
            _give_profile(self, reservation.instances[1:])
            instances.launched(reservation.instances)
            launches[token] = (asked, reservation)
        return result

    InstanceResponse.run_instances = run


def _check_launch(response: InstanceResponse) -> None:
    backend, image_id = response.ec2_backend, response._get_param("ImageId")
    if image_id is not None:
        image = backend.amis.get(image_id)
        if image is None:
            raise EC2ClientError("InvalidAMIID.NotFound", f"The image id '[{image_id}]' does not exist")
        if image.state != "available":
            raise EC2ClientError("InvalidAMIID.Unavailable", f"The image ID '{image_id}' is not available")
        kind = response._get_param("InstanceType", "m1.small")
        architectures = INSTANCE_TYPES.get(kind, {}).get("ProcessorInfo", {}).get("SupportedArchitectures")
        if architectures and image.architecture and image.architecture not in architectures:
            raise EC2ClientError(
                "InvalidParameterValue",
                f"The architecture '{architectures[0]}' of the specified instance type "
                f"does not match the architecture '{image.architecture}' of the specified AMI. Specify an "
                "instance type and an AMI that have matching architectures, and try again.",
            )
    key_name = response._get_param("KeyName")
    if key_name and key_name not in backend.key_pairs:
        raise EC2ClientError("InvalidKeyPair.NotFound", f"The key pair '{key_name}' does not exist")
    profile = response._get_param("IamInstanceProfile", {})
    iam = iam_backends[response.current_account][response.partition]
    try:
        if profile.get("Name"):
            iam.get_instance_profile(profile["Name"])
        elif profile.get("Arn"):
            iam.get_instance_profile_by_arn(profile["Arn"])
    except NotFoundException:
        what = "name" if profile.get("Name") else "arn"
        raise EC2ClientError(
            "InvalidParameterValue",
            f"Value ({profile.get('Name') or profile.get('Arn')}) for parameter "
            f"iamInstanceProfile.{what} is invalid. Invalid IAM Instance Profile {what}",
        ) from None


def _give_profile(response: InstanceResponse, instances: list[Instance]) -> None:
    """moto gives it to the first only."""
    profile = response._get_param("IamInstanceProfile", {})
    for instance in instances if profile else []:
        response.ec2_backend.associate_iam_instance_profile(
            instance_id=instance.id,
            iam_instance_profile_name=profile.get("Name"),
            iam_instance_profile_arn=profile.get("Arn"),
        )


def _profiles() -> None:
    """What an instance is described with follows its association; moto changes the association alone."""
    replace = IamInstanceProfileAssociationBackend.replace_iam_instance_profile_association

    def replaced(self: Any, association_id: str, *more: Any, **named: Any) -> IamInstanceProfileAssociation:
        association = replace(self, association_id, *more, **named)
        profile = {"Arn": association.iam_instance_profile.arn, "Id": association_id}
        self.modify_instance_attribute(association.instance_id, "iam_instance_profile", profile)
        return association

    IamInstanceProfileAssociationBackend.replace_iam_instance_profile_association = replaced


class _View(Instance):
    """An instance as it was: a copy without the life of the original, which frees addresses when it is collected."""

    def __new__(cls, original: Instance, then: dict[str, Any]) -> "_View":
        view = object.__new__(cls)
        view.__dict__ = original.__dict__ | then
        return view

    def __init__(self, *_: Any) -> None:
        pass

    def __del__(self) -> None:
        pass


def _describe(instances: Instances, lag: float) -> None:
    looking_back = threading.local()
    describe_instances, describe_status = InstanceResponse.describe_instances, InstanceResponse.describe_instance_status
    all_reservations = InstanceBackend.all_reservations

    @contextmanager
    def lagging() -> Iterator[None]:
        looking_back.moment = time.monotonic() - lag
        try:
            yield
        finally:
            looking_back.moment = None

    def describe(self: InstanceResponse) -> ActionResult:
        ids = _ids(self)
        with lagging():
            if ids:
                self.params["InstanceIds"] = ids
                self.ec2_backend.get_multi_instances_by_id(ids)  # names all that are missing, where moto names one
            return describe_instances(self)

    def status(self: InstanceResponse) -> ActionResult:
        with lagging():
            return describe_status(self)

    def reservations(self: InstanceBackend, filters: Any = None) -> list[Reservation]:
        moment = getattr(looking_back, "moment", None)
        if moment is None or lag == 0:
            return all_reservations(self, filters)
        then = []
        for reservation in all_reservations(self):
            views = [view for each in reservation.instances if (view := _view(instances.find(each.id), each, moment))]
            if views:
                reservation.instances = views
                then.append(reservation)
        return then if filters is None else filter_reservations(then, filters)

    InstanceResponse.describe_instances, InstanceResponse.describe_instance_status = describe, status
    InstanceBackend.all_reservations = reservations


def _view(machine: Machine | None, instance: Instance, moment: float) -> Instance | None:
    if machine is None:
        return instance
    then = machine.as_of(moment)
    return None if then is None else _View(instance, then)


def _groups(instances: Instances) -> None:
    """A security group stays as long as an instance has it: a cleanup that does not wait for the instances fails."""
    delete_security_group = SecurityGroupBackend.delete_security_group

    def delete(self: Any, name: str | None = None, group_id: str | None = None) -> Any:
        for machine in instances.all():
            groups = machine.instance.security_groups if machine.state != TERMINATED else []
            if any(
                group.id == group_id or (name and group.name == name and group.owner_id == self.account_id)
                for group in groups
            ):
                raise DependencyViolationError(f"resource {group_id or name} has a dependent object")
        return delete_security_group(self, name, group_id)

    SecurityGroupBackend.delete_security_group = delete
