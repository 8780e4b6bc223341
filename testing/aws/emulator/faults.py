"""Failures by order of a test: `POST /harness/fault` arms one, and the calls that it fits meet it."""

import random
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from emulator.call import Call

# What AWS answers with these codes; a fault need not repeat it.
USUAL: dict[str, tuple[int, str]] = {
    "InsufficientInstanceCapacity": (500, "Insufficient capacity."),
    "InstanceLimitExceeded": (
        400,
        "You have requested more instances than your current instance limit allows for the specified instance type.",
    ),
    "RequestLimitExceeded": (503, "Request limit exceeded."),
    "Throttling": (400, "Rate exceeded"),
    "ThrottlingException": (400, "Rate exceeded"),
    "RequestThrottled": (403, "The request is throttled."),
    "SlowDown": (503, "Please reduce your request rate."),
    "ServiceUnavailable": (503, "The service is unavailable. Please try again shortly."),
    "InternalError": (500, "We encountered an internal error. Please try again."),
    "InternalServerError": (500, "An error occurred on the server side."),
    "ConditionalRequestConflict": (
        409,
        "The conditional request cannot succeed due to a conflicting operation against this resource.",
    ),
    "OperationAborted": (
        409,
        "A conflicting conditional operation is currently in progress against this resource. Please try again.",
    ),
    "PreconditionFailed": (412, "At least one of the pre-conditions you specified did not hold"),
    "NoSuchKey": (404, "The specified key does not exist."),
    "AccessDenied": (403, "Access Denied"),
    "AccessDeniedException": (400, "Access denied"),
    "UnauthorizedOperation": (403, "You are not authorized to perform this operation."),
    "ExpiredToken": (400, "The security token included in the request is expired"),
    "ExpiredTokenException": (400, "The security token included in the request is expired"),
}


@dataclass
class Fault:
    op: str  # an operation's name, or "*"
    code: str | None = None  # without a code the call goes through, later by `delay`
    http: int | None = None
    message: str | None = None
    times: int | None = None  # 1, unless there is a probability: then no end
    probability: float | None = None
    delay: float = 0.0
    after: bool = False  # the call is done, and then its answer is lost
    hang_up: bool = False  # the connection is cut
    match: str | None = None  # a substring of the request: path, signature, body
    account: str | None = None
    zone: str | None = None  # EC2: only calls that want an instance of this zone, this type
    instance_type: str | None = None
    attributes: dict[str, Any] = field(default_factory=dict)  # GetQueueAttributes: answered instead of the truth
    duplicates: bool = False  # ReceiveMessage: `times` messages are delivered to somebody else as well

    @property
    def status(self) -> int:
        return self.http or USUAL.get(self.code or "", (400, ""))[0]

    @property
    def words(self) -> str:
        return self.message or USUAL.get(self.code or "", (0, "injected by a test"))[1]


class Refused(ValueError):
    """A fault that cannot be meant as it was written; the text is for the author of the test."""


def parse(document: dict[str, Any]) -> Fault:
    unknown = set(document) - {each.name for each in fields(Fault)}
    if unknown:
        raise Refused(f"a fault has no {', '.join(sorted(unknown))}")
    if "op" not in document:
        raise Refused('a fault needs an "op", the name of an operation, or "*"')
    fault = Fault(**document)
    if fault.times is None and fault.probability is None:
        fault.times = 1
    return fault


class Faults:
    def __init__(self, seed: int) -> None:
        self._armed: list[Fault] = []
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        # Does the call want an instance where, or of the type that, the fault names? Set by who knows the instances.
        self.wants_place: Callable[[Call, Fault], bool] = lambda *_: False

    def add(self, fault: Fault) -> None:
        with self._lock:
            self._armed.append(fault)

    def clear(self) -> None:
        with self._lock:
            self._armed.clear()

    def listed(self) -> list[dict[str, Any]]:
        with self._lock:
            return [asdict(each) for each in self._armed]

    def take(self, call: Call) -> Fault | None:
        """The first armed fault that fits, of which one use is then gone."""
        with self._lock:
            if not self._armed:
                return None
            return next(
                (each for each in self._armed if not each.duplicates and self._fits(each, call) and self._use(each)),
                None,
            )

    def take_duplicate(self, account: str, queue: str) -> bool:
        """Is the message of this queue, which is just being received, to be received by somebody else too?"""
        with self._lock:
            return any(
                each.duplicates and each.account in (None, account) and (each.match or "") in queue and self._use(each)
                for each in self._armed
            )

    def _fits(self, fault: Fault, call: Call) -> bool:
        return (
            fault.op in (call.operation, "*")
            and fault.account in (None, call.account)
            and (fault.match is None or fault.match in call.text)
            and ((fault.zone is None and fault.instance_type is None) or self.wants_place(call, fault))
        )

    def _use(self, fault: Fault) -> bool:
        if fault.times is not None:
            if fault.times <= 0:
                return False
        if fault.probability is not None and self._random.random() >= fault.probability:
            return False
        if fault.times is not None:
            fault.times -= 1
        return True
