"""Answers that do not come from moto, in the dialect of the call that they answer."""

import json
import uuid
from http.client import responses
from xml.sax.saxutils import escape

from emulator import call as calls
from emulator.call import Call

Answer = tuple[int, list[tuple[str, str]], bytes]


def refusal(call: Call, status: int, code: str, message: str) -> Answer:
    request = str(uuid.uuid4())
    if call.protocol == calls.JSON:
        headers = [("Content-Type", "application/x-amz-json-1.0"), ("x-amzn-RequestId", request)]
        if call.service == "sqs":
            # SQS once spoke XML; its clients still read the code of that time from this header.
            headers.append(("x-amzn-query-error", f"{code};{'Sender' if status < 500 else 'Receiver'}"))
        return status, headers, json.dumps({"__type": code, "message": message}).encode()
    error = f"<Code>{escape(code)}</Code><Message>{escape(message)}</Message>"
    if call.protocol == calls.S3:
        resource = escape(call.environ["PATH_INFO"])
        body = f"<Error>{error}<Resource>{resource}</Resource><RequestId>{request}</RequestId></Error>"
        headers = [("Content-Type", "application/xml"), ("x-amz-request-id", request)]
        return status, headers, b"" if call.environ["REQUEST_METHOD"] == "HEAD" else _xml(body)
    if call.protocol == calls.EC2:
        body = f"<Response><Errors><Error>{error}</Error></Errors><RequestID>{request}</RequestID></Response>"
    else:
        kind = "Sender" if status < 500 else "Receiver"
        body = (
            f"<ErrorResponse><Error><Type>{kind}</Type>{error}</Error><RequestId>{request}</RequestId></ErrorResponse>"
        )
    return status, [("Content-Type", "text/xml"), ("x-amzn-RequestId", request)], _xml(body)


def plain_json(value: object, status: int = 200) -> Answer:
    return status, [("Content-Type", "application/json")], json.dumps(value, indent=1).encode() + b"\n"


def status_line(status: int) -> str:
    return f"{status} {responses.get(status, 'Unknown')}"


def _xml(body: str) -> bytes:
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{body}'.encode()
