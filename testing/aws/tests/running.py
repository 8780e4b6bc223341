"""An emulator for a test, clients that speak to it, and a wait for a value in place of a sleep."""

import atexit
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

HERE = Path(__file__).parent.parent
REGION = "us-east-1"
UBUNTU = "/aws/service/canonical/ubuntu/server/24.04/stable/current/amd64/hvm/ebs-gp3/ami-id"
PATIENCE = 10.0
T = TypeVar("T")
_session = boto3.Session()
_accounts = itertools.count(200_000_000_000)

# Nothing of the developer's own account may be found by a client here.
for name in [name for name in os.environ if name.startswith("AWS_")]:
    del os.environ[name]


class Emulator:
    def __init__(self, *options: str, **environment: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="eirs-emulator-test-"))
        file = self.folder / "address"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "emulator", "--address-file", str(file), *options],
            cwd=HERE,
            stdin=subprocess.PIPE,
            env=os.environ | environment,
        )
        self.address = until(lambda: file.read_text() if file.exists() else None)

    def close(self) -> None:
        """As a parent does that is done, or that died: the pipe closes."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=20)
        shutil.rmtree(self.folder, ignore_errors=True)

    def account(self) -> "Account":
        return Account(self)

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """The harness's own door."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://{self.address}/harness/{path}", data=data, method=method)
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return json.loads(answer.read())

    def fault(self, **fault: Any) -> None:
        self.ask("POST", "fault", fault)


class Account:
    """An account of its own, so that tests of one emulator do not see each other."""

    def __init__(self, emulator: Emulator) -> None:
        self.emulator = emulator
        self.id = str(next(_accounts))
        sts = client(emulator, "sts", ("test", "test", None))
        self.keys = keys_of(sts.assume_role(RoleArn=f"arn:aws:iam::{self.id}:role/tests", RoleSessionName="tests"))
        self._clients: dict[tuple[str, str], Any] = {}

    def client(self, service: str, region: str = REGION) -> Any:
        """One for each service: boto3 takes half a second to make one for EC2."""
        if (service, region) not in self._clients:
            self._clients[service, region] = client(self.emulator, service, self.keys, region)
        return self._clients[service, region]


def keys_of(answer: dict[str, Any]) -> tuple[str, str, str]:
    credentials = answer["Credentials"]
    return credentials["AccessKeyId"], credentials["SecretAccessKey"], credentials["SessionToken"]


def client(
    emulator: Emulator, service: str, keys: tuple[str, str, str | None], region: str = REGION, **config: Any
) -> Any:
    chosen = {"retries": {"max_attempts": 0}, "s3": {"addressing_style": "path"}, "read_timeout": 30} | config
    return _session.client(
        service,
        endpoint_url=f"http://{emulator.address}",
        region_name=region,
        config=Config(**chosen),
        aws_access_key_id=keys[0],
        aws_secret_access_key=keys[1],
        aws_session_token=keys[2],
    )


def until(look: Callable[[], T | None], patience: float = PATIENCE) -> T:
    """The first value that is true; a test that waits in vain fails."""
    deadline = time.monotonic() + patience
    while not (found := look()):
        if time.monotonic() > deadline:
            raise AssertionError(f"in vain for {patience} s, last seen: {found!r}")
        time.sleep(0.01)
    return found


# What most tests of instances want: nothing takes time that is not looked at.
QUICK = tuple("--pending 0 --stopping 0 --image-pending 0.3 --ssm-delay 0.1 --invocation-lag 0.2".split())
_shared: dict[tuple[str, ...], Emulator] = {}


def shared(options: tuple[str, ...]) -> Emulator:
    """One emulator for all classes that want the same: each test has an account of its own on it."""
    if options not in _shared:
        _shared[options] = Emulator(*options)
        atexit.register(_shared[options].close)
    return _shared[options]


class Case(unittest.TestCase):
    """A test of an emulator that was started with OPTIONS."""

    OPTIONS: tuple[str, ...] = ()
    emulator: Emulator

    @classmethod
    def setUpClass(cls) -> None:
        cls.emulator = shared(cls.OPTIONS)

    def setUp(self) -> None:
        self.aws = self.emulator.account()

    def refused(self, code: str, call: Callable[..., Any], **arguments: Any) -> str:
        """The message of the error with this code that the call must end with."""
        with self.assertRaises(ClientError) as raised:
            call(**arguments)
        error = raised.exception.response["Error"]
        self.assertEqual(error["Code"], code, error)
        return error["Message"]

    # Instances, which most tests need in the same way.

    def launch(self, count: int = 1, **more: Any) -> list[str]:
        image = self.aws.client("ssm").get_parameter(Name=UBUNTU)["Parameter"]["Value"]
        arguments = {"ImageId": image, "InstanceType": "t3.small", "MinCount": count, "MaxCount": count} | more
        return [each["InstanceId"] for each in self.aws.client("ec2").run_instances(**arguments)["Instances"]]

    def instance(self, instance_id: str) -> dict[str, Any]:
        return self.aws.client("ec2").describe_instances(InstanceIds=[instance_id])["Reservations"][0]["Instances"][0]

    def state(self, instance_id: str) -> str:
        return self.instance(instance_id)["State"]["Name"]

    def reaches(self, instance_id: str, state: str, patience: float = PATIENCE) -> None:
        until(lambda: self.state(instance_id) == state, patience)

    def running(self, **more: Any) -> str:
        instance_id = self.launch(**more)[0]
        self.reaches(instance_id, "running")
        return instance_id
