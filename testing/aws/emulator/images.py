"""Images: CreateImage takes a moment, and the public parameters that setup reads lead to images that exist."""

import hashlib
from functools import cache
from typing import Any

from moto.core.utils import utcnow
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models.amis import Ami, AmiBackend
from moto.ssm.models import Parameter, ParameterDict
from moto.utilities.utils import load_resource

from emulator.timers import Timers

CANONICAL, AMAZON = "099720109477", "137112412989"
UBUNTU = {"22.04": "jammy", "24.04": "noble"}
ARCHITECTURES = {"amd64": "x86_64", "arm64": "arm64"}
UBUNTU_PARAMETERS = "/aws/service/canonical/ubuntu/server/"


def install(timers: Timers, pending: float) -> None:
    """Must come before moto makes its first EC2 backend: a backend loads the public images once."""
    _create_image(timers, pending)
    _public_images()
    _public_parameters()


def _create_image(timers: Timers, pending: float) -> None:
    create_image = AmiBackend.create_image

    def create(
        self: Any, instance_id: str, name: str, description: str, tag_specifications: list[dict[str, Any]]
    ) -> Ami:
        for image in self.amis.values():
            if image.name == name and image.owner_id == self.account_id:
                raise EC2ClientError("InvalidAMIName.Duplicate", f"AMI name {name} is already in use by AMI {image.id}")
        # moto does not take the tags of the snapshot, and fails with an internal error.
        of_snapshot = [each for each in tag_specifications if each["ResourceType"] == "snapshot"]
        image = create_image(
            self, instance_id, name, description, [each for each in tag_specifications if each not in of_snapshot]
        )
        for specification in of_snapshot:
            for tag in specification["Tags"]:
                image.ebs_snapshot.add_tag(tag["Key"], tag["Value"])
        image.state, image.ebs_snapshot.status = "pending", "pending"

        def available() -> None:
            image.state, image.ebs_snapshot.status = "available", "completed"

        timers.after(pending, available)
        return image

    AmiBackend.create_image = create


def _public_images() -> None:
    """Those that the public parameters name, in place of the 1,300 that moto gives each account and region: making those
    takes a fifth of a second, and describing them a whole one."""

    def load(self: Any) -> None:
        found = [
            (
                ubuntu_image(self.region_name, release, architecture),
                CANONICAL,
                machine,
                f"ubuntu/images/hvm-ssd-gp3/ubuntu-{name}-{release}-{architecture}-server-20260101",
            )
            for release, name in UBUNTU.items()
            for architecture, machine in ARCHITECTURES.items()
        ]
        found += [(image_id, AMAZON, machine, name) for name, machine, image_id in _amazon_linux(self.region_name)]
        for image_id, owner, machine, name in found:
            self.amis[image_id] = Ami(
                self,
                image_id,
                name=name,
                description=name,
                owner_id=owner,
                owner_alias="amazon" if owner == AMAZON else None,
                public=True,
                virtualization_type="hvm",
                architecture=machine,
                root_device_type="ebs",
                hypervisor="xen",
            )

    AmiBackend._load_amis = load


@cache
def _amazon_linux(region: str) -> list[tuple[str, str, str]]:
    """Name, architecture and image of each of moto's parameters for Amazon Linux 2023."""
    try:
        parameters = load_resource(f"ssm/resources/ami-amazon-linux-latest/{region}.json")
    except FileNotFoundError:
        return []
    names = ((each["Name"].rpartition("/")[2], each["Value"]) for each in parameters)
    return [(name, name.rpartition("-")[2], value) for name, value in names if name.startswith("al2023-ami")]


def _public_parameters() -> None:
    """moto knows Amazon Linux's parameters, and none of Canonical's."""
    check_loading_status = ParameterDict._check_loading_status

    def check(self: ParameterDict, key: str) -> None:
        check_loading_status(self, key)
        if str(key or "").startswith(UBUNTU_PARAMETERS) and not dict.__contains__(
            self, _ubuntu_parameter("24.04", "amd64")
        ):
            for release in UBUNTU:
                for architecture in ARCHITECTURES:
                    name = _ubuntu_parameter(release, architecture)
                    dict.__setitem__(
                        self, name, [_parameter(self, name, ubuntu_image(self.region_name, release, architecture))]
                    )

    ParameterDict._check_loading_status = check


def ubuntu_image(region: str, release: str, architecture: str) -> str:
    """An id that is the same in every run, and another in every region, as AMI ids are."""
    return "ami-0" + hashlib.sha256(f"{region} ubuntu {release} {architecture}".encode()).hexdigest()[:16]


def _ubuntu_parameter(release: str, architecture: str) -> str:
    return f"{UBUNTU_PARAMETERS}{release}/stable/current/{architecture}/hvm/ebs-gp3/ami-id"


def _parameter(parameters: ParameterDict, name: str, value: str) -> Parameter:
    return Parameter(
        account_id=parameters.account_id,
        name=name,
        value=value,
        parameter_type="String",
        description=None,
        allowed_pattern=None,
        keyid=None,
        last_modified_date=utcnow(),
        version=1,
        data_type="aws:ec2:image",
    )
