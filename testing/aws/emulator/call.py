"""What a request asks for: the service, the operation by AWS's own name, who asks, and the parameters.

AWS speaks four dialects on one port here. SQS and SSM name the operation in a header and carry JSON; EC2, IAM and STS
carry a form whose `Action` names it; S3 has no name at all, only a method, a path and a query, from which the name
follows by S3's model.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import parse_qsl

from moto.core.request import Request
from moto.core.routing import get_service_router
from moto.iam.models import get_account_id_from
from werkzeug.exceptions import NotFound

JSON, QUERY, EC2, S3 = "json", "query", "ec2", "s3"


@dataclass(frozen=True)
class Call:
    service: str
    operation: str
    protocol: str
    region: str
    access_key: str | None  # None: nobody signed it
    session_token: str | None
    parameters: dict[str, Any]
    bucket: str | None
    key: str | None
    environ: dict[str, Any]

    @cached_property
    def account(self) -> str:
        return get_account_id_from(self.access_key or "")

    @property
    def body(self) -> bytes:
        return self.environ["emulator.body"]

    @cached_property
    def text(self) -> str:
        """All of the request as one text, for faults that ask for a substring."""
        environ = self.environ
        address, signature = environ.get("RAW_URI", environ["PATH_INFO"]), environ.get("HTTP_AUTHORIZATION", "")
        return f"{environ['REQUEST_METHOD']} {address} {signature}\n{self.body.decode('utf-8', 'replace')}"

    def header(self, name: str) -> str | None:
        return self.environ.get("HTTP_" + name.upper().replace("-", "_"))

    def listed(self, name: str) -> list[str]:
        """The values of a list: `name.1`, `name.2`, … of a form, or the list of a JSON body."""
        if self.protocol == JSON:
            return list(self.parameters.get(name) or [])
        return self._numbered(name) or self._numbered(f"{name}.member")

    def _numbered(self, name: str) -> list[str]:
        values = []
        while (value := self.parameters.get(f"{name}.{len(values) + 1}")) is not None:
            values.append(value)
        return values


def read(environ: dict[str, Any]) -> Call:
    query = dict(parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True))
    access_key, region, service = _scope(environ.get("HTTP_AUTHORIZATION", ""), query)
    token = (
        environ.get("HTTP_X_AMZ_SECURITY_TOKEN")
        or query.get("X-Amz-Security-Token")
        or query.get("x-amz-security-token")
    )
    target = environ.get("HTTP_X_AMZ_TARGET", "")
    bucket = key = None
    if target:
        protocol, operation, parameters = JSON, target.rpartition(".")[2], _json(environ["emulator.body"])
        service = service or {"AmazonSQS": "sqs", "AmazonSSM": "ssm"}.get(target.partition(".")[0], "")
    elif service not in ("", "s3") or (
        environ["REQUEST_METHOD"] == "POST" and "urlencoded" in environ.get("CONTENT_TYPE", "")
    ):
        parameters = query | dict(
            parse_qsl(environ["emulator.body"].decode("utf-8", "replace"), keep_blank_values=True)
        )
        protocol, operation = EC2 if service == "ec2" else QUERY, parameters.get("Action", "")
    else:
        service, protocol, parameters = "s3", S3, query
        operation, bucket, key = _s3_operation(environ)
    return Call(
        service, operation, protocol, region or "us-east-1", access_key, token, parameters, bucket, key, environ
    )


def _scope(authorization: str, query: dict[str, str]) -> tuple[str | None, str, str]:
    """Access key, region and service, which every signature names: `Credential=KEY/DATE/REGION/SERVICE/aws4_request`."""
    _, found, credential = authorization.partition("Credential=")
    if not found:
        credential = query.get("X-Amz-Credential", "")  # a presigned URL
    parts = credential.partition(",")[0].split("/")
    if len(parts) < 5:
        # A presigned URL of the old kind (signature version 2) names nothing but the key, and is S3's.
        return (query["AWSAccessKeyId"], "", "s3") if "AWSAccessKeyId" in query else (None, "", "")
    return parts[0], parts[2], parts[3].lower()


def _json(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body or b"{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _s3_operation(environ: dict[str, Any]) -> tuple[str, str | None, str | None]:
    try:
        operation, labels = get_service_router("s3").match(Request(environ))
        return operation.name, labels.get("Bucket"), labels.get("Key")
    except (NotFound, NotImplementedError):
        return f"S3:{environ['REQUEST_METHOD']}", None, None
