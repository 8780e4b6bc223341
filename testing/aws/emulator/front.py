"""The way of a call: who asks for what, does a fault meet it, may it; and then moto."""

import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from emulator import answers, authorize, principals, sqs
from emulator import call as calls
from emulator.answers import Answer
from emulator.call import Call
from emulator.faults import Fault, Faults
from emulator.journal import Journal, call_line
from emulator.principals import Principal
from emulator.server import HangUp

Application = Callable[[dict[str, Any], Any], Iterable[bytes]]


class Front:
    def __init__(self, moto: Application, faults: Faults, journal: Journal, verbose: bool) -> None:
        self._moto, self._faults, self._journal, self._verbose = moto, faults, journal, verbose
        self._harness: Callable[[dict[str, Any]], Answer] | None = None
        self._loaded = threading.Event()
        self._creating_once = threading.Lock()
        self.enforced = False  # are the policies of IAM asked?

    def complete(self, harness: Callable[[dict[str, Any]], Answer]) -> None:
        """EC2, SSM and the test's own door are there now."""
        self._harness = harness
        self._loaded.set()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        if environ["PATH_INFO"].startswith("/harness/"):
            self._loaded.wait()
            assert self._harness is not None
            status, headers, body = self._harness(environ)
        else:
            status, headers, body = self._call(environ)
        start_response(answers.status_line(status), headers)
        return [body]

    def _call(self, environ: dict[str, Any]) -> Answer:
        begun = time.monotonic()
        call = calls.read(environ)
        if call.service not in ("sqs", "s3"):
            self._loaded.wait()  # EC2 and SSM take their time to load; queues and buckets are there at once
        if call.service == "cloudformation":
            from emulator import cloudformation  # with all that it can make, which no other test waits for

            cloudformation.install()
        principal = principals.of(call)
        status = 0  # what a call without an answer is logged with
        try:
            status, headers, body = self._answered(call, principal)
            return status, headers, body
        finally:
            seconds = time.monotonic() - begun
            self._journal.note(call.account, call.operation, call.key, principal.arn, status, seconds)
            if self._verbose:
                print(
                    call_line(f"{call.service}:{call.operation}", call.account, principal.arn, status, seconds),
                    file=sys.stderr,
                    flush=True,
                )

    def _answered(self, call: Call, principal: Principal) -> Answer:
        fault = self._faults.take(call)
        if fault is not None:
            time.sleep(fault.delay)
            if not fault.after:
                if fault.hang_up:
                    raise HangUp
                if fault.code is not None:
                    return answers.refusal(call, fault.status, fault.code, fault.words)
        if self.enforced and (refusal := authorize.refuse(call, principal)) is not None:
            return refusal
        answer = self._done(call, principal)
        return answer if fault is None else _spoilt(call, fault, answer)

    def _done(self, call: Call, principal: Principal) -> Answer:
        if (
            call.service == "s3"
            and call.environ["REQUEST_METHOD"] == "PUT"
            and "urlencoded" in call.environ.get("CONTENT_TYPE", "")
        ):
            # What curl says of any data. moto would take the object for a form and store nothing.
            call.environ["CONTENT_TYPE"] = "application/octet-stream"
        if call.operation == "PutObject" and (call.header("if-none-match") or call.header("if-match")):
            # moto looks first and writes then; of two writers at once both would win.
            with self._creating_once:
                return self._asked_moto(call)
        status, headers, body = self._asked_moto(call)
        hidden = status == 404 and self.enforced and call.operation in ("GetObject", "HeadObject")
        if hidden and not authorize.may_list(call, principal):
            return answers.refusal(call, 403, "AccessDenied", "Access Denied")
        return status, headers, body

    def _asked_moto(self, call: Call) -> Answer:
        head: list[Any] = []

        def start_response(status: str, headers: list[tuple[str, str]], _: object = None) -> None:
            head[:] = [int(status.split(None, 1)[0]), headers]

        parts = self._moto(call.environ, start_response)
        try:
            body = b"".join(parts)
        finally:
            if hasattr(parts, "close"):
                parts.close()
        return head[0], head[1], body


def _spoilt(call: Call, fault: Fault, answer: Answer) -> Answer:
    """The call is done; now its answer is lost, or says what is not so."""
    if fault.after and fault.hang_up:
        raise HangUp
    if fault.after and fault.code is not None:
        return answers.refusal(call, fault.status, fault.code, fault.words)
    if fault.attributes and answer[0] == 200:
        headers = [header for header in answer[1] if header[0].lower() != "x-amz-crc32"]
        return answer[0], headers, sqs.with_lies(answer[2], fault.attributes)
    return answer
