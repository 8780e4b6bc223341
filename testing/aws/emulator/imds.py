"""Instance metadata: what a running instance learns of itself, from a server of its own (IMDSv2 only).

The answers are made when they are asked for: a tag that is set while the instance runs is seen by it, and its role's
credentials are a session of moto's STS, so that what it may do is decided like anybody's.
"""

import base64
import json
import secrets
import threading
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from moto.iam.exceptions import NotFoundException
from moto.iam.models import InstanceProfile, Role, iam_backends

from emulator import policy, principals
from emulator.machine import Machine

TOKEN_HEADER = "X-aws-ec2-metadata-token"
TTL_HEADER = "X-aws-ec2-metadata-token-ttl-seconds"
RENEW_BEFORE = timedelta(minutes=5)


class InstanceMetadata:
    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._tokens: set[str] = set()
        self._session: Any = None
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        threading.Thread(
            target=lambda: self._server.serve_forever(0.05), name=f"imds {machine.id}", daemon=True
        ).start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def new_token(self) -> str:
        token = secrets.token_urlsafe(32)
        self._tokens.add(token)
        return token

    def knows(self, token: str | None) -> bool:
        return token in self._tokens

    def look_up(self, path: str) -> str | None:
        """None: there is no such thing, which is an answer too (no spot notice, no role, no tag)."""
        path = path.partition("?")[0].rstrip("/").removeprefix("/latest/")
        tags = "meta-data/tags/instance"
        if path == tags or path.startswith(tags + "/"):
            return self._tags(path.removeprefix(tags).lstrip("/"))
        if path.startswith("meta-data/iam"):
            return self._iam(path.removeprefix("meta-data/iam").lstrip("/"))
        answer = _DOCUMENTS.get(path)
        return answer(self._machine) if answer else None

    def _tags(self, key: str) -> str | None:
        if self._machine.instance.metadata_options.instance_metadata_tags != "enabled":
            return None
        tags = self._machine.tags
        return tags.get(key) if key else "\n".join(tags)

    def _iam(self, path: str) -> str | None:
        profile = profile_of(self._machine)
        role = profile.roles[0] if profile and profile.roles else None
        if profile is None:
            return None
        if path == "info":
            return json.dumps(
                {
                    "Code": "Success",
                    "LastUpdated": _stamp(datetime.now(timezone.utc)),
                    "InstanceProfileArn": profile.arn,
                    "InstanceProfileId": profile.id,
                }
            )
        if role is not None and path == "security-credentials":
            return role.name
        if role is not None and path == f"security-credentials/{role.name}":
            return json.dumps(self._credentials(role))
        return None

    def _credentials(self, role: Role) -> dict[str, str]:
        now = datetime.now(timezone.utc)
        if not policy.trusts(_text(role.assume_role_policy_document), "ec2.amazonaws.com"):
            return {
                "Code": "AssumeRoleUnauthorizedAccess",
                "LastUpdated": _stamp(now),
                "Message": "EC2 cannot assume the role. Please see documentation for the trust relationship of the role.",
            }
        if self._session is None or _utc(self._session.expiration) - now < RENEW_BEFORE:
            self._session = principals.for_instance(
                self._machine.account, self._machine.region, role.arn, self._machine.id
            )
        session = self._session
        return {
            "Code": "Success",
            "LastUpdated": _stamp(now),
            "Type": "AWS-HMAC",
            "AccessKeyId": session.access_key_id,
            "SecretAccessKey": session.secret_access_key,
            "Token": session.session_token,
            "Expiration": _stamp(_utc(session.expiration)),
        }


_opening = threading.Lock()


def of(machine: Machine) -> InstanceMetadata:
    """The server of a machine. It starts when somebody first needs it: a thousand instances that are only records have none."""
    with _opening:
        if machine.metadata is None:
            machine.metadata = InstanceMetadata(machine)
        return machine.metadata


def close(machine: Machine) -> None:
    with _opening:
        server, machine.metadata = machine.metadata, None
    if server is not None:
        server.close()


def profile_of(machine: Machine) -> InstanceProfile | None:
    profile = machine.instance.iam_instance_profile
    arn = profile["Arn"] if profile else machine.profile_arn
    if arn is None:
        return None
    try:
        return iam_backends[machine.account]["aws"].get_instance_profile_by_arn(arn)
    except NotFoundException:
        return None


def _identity(machine: Machine) -> str:
    instance = machine.instance
    return json.dumps(
        {
            "accountId": machine.account,
            "region": machine.region,
            "instanceId": machine.id,
            "version": "2017-09-30",
            "availabilityZone": instance.placement.zone,
            "instanceType": instance.instance_type,
            "imageId": instance.image_id,
            "architecture": instance.architecture,
            "privateIp": instance.private_ip_address,
            "pendingTime": _stamp(_utc(instance.launch_time)),
        }
    )


def user_data(machine: Machine) -> bytes | None:
    encoded = machine.instance.user_data
    return base64.b64decode(str(encoded)) if encoded else None


def _user_data_text(machine: Machine) -> str | None:
    data = user_data(machine)
    return data.decode("utf-8", "replace") if data is not None else None


_DOCUMENTS: dict[str, Callable[[Machine], str | None]] = {
    "meta-data/instance-id": lambda machine: machine.id,
    "meta-data/instance-type": lambda machine: machine.instance.instance_type,
    "meta-data/instance-life-cycle": lambda machine: machine.instance.lifecycle or "on-demand",
    "meta-data/ami-id": lambda machine: machine.instance.image_id,
    "meta-data/local-ipv4": lambda machine: machine.instance.private_ip_address,
    "meta-data/local-hostname": lambda machine: machine.instance.private_dns_name,
    "meta-data/placement/region": lambda machine: machine.region,
    "meta-data/placement/availability-zone": lambda machine: machine.instance.placement.zone,
    "meta-data/spot/instance-action": lambda machine: json.dumps(machine.spot_notice) if machine.spot_notice else None,
    "meta-data/services/domain": lambda _: "amazonaws.com",
    "meta-data/services/partition": lambda _: "aws",
    "dynamic/instance-identity/document": _identity,
    "user-data": _user_data_text,
}


def _handler(metadata: InstanceMetadata) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1

        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            ttl = self.headers.get(TTL_HEADER, "")
            if self.path.rstrip("/") != "/latest/api/token":
                self._answer(404, "")
            elif not ttl.isdigit() or not 1 <= int(ttl) <= 21600:
                self._answer(400, "")
            else:
                self._answer(200, metadata.new_token(), ttl)

        def do_GET(self) -> None:
            if not metadata.knows(self.headers.get(TOKEN_HEADER)):
                return self._answer(401, "")
            found = metadata.look_up(self.path)
            self._answer(404 if found is None else 200, found or "")

        def _answer(self, status: int, text: str, ttl: str | None = None) -> None:
            body = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/plain")
            self.send_header("Content-Length", str(len(body)))
            if ttl is not None:
                self.send_header(TTL_HEADER, ttl)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    return Handler


def _text(document: Any) -> str:
    return document if isinstance(document, str) else json.dumps(document)


def _utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)


def _stamp(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"
