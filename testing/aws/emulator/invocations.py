"""A command and its run on each instance, as values, and how SSM's answers show them."""

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

from emulator.documents import Step
from emulator.machine import Machine

MAX_OUTPUT, MAX_ERRORS, MAX_PLUGIN_OUTPUT = 24_000, 8_000, 2_500  # characters, of SSM's answers
CUT = "\n---Output truncated---"
ENDED = ("Success", "Failed", "TimedOut", "Cancelled")


@dataclass
class Invocation:
    """A command on one instance."""

    machine: Machine
    status: str = "Pending"
    details: str = "Pending"
    response_code: int = -1
    output: str = ""
    errors: str = ""
    started: datetime | None = None
    ended: datetime | None = None
    cancel: Callable[[], None] | None = None

    def end(self, status: str, details: str | None = None, response_code: int = -1) -> None:
        self.status, self.details, self.response_code = status, details or status, response_code
        self.ended = now()


@dataclass
class Command:
    account: str
    region: str
    document: str
    steps: list[Step]
    parameters: dict[str, Any]
    comment: str
    timeout: int  # of the delivery; how long a command may run is in its steps
    invocations: dict[str, Invocation]
    targets: list[dict[str, Any]]
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    requested: datetime = field(default_factory=lambda: now())

    @property
    def seen(self) -> float:
        return (now() - self.requested).total_seconds()

    @property
    def status(self) -> str:
        states = [each.status for each in self.invocations.values()]
        if all(state in ENDED for state in states):
            return next((state for state in ("Failed", "TimedOut", "Cancelled") if state in states), "Success")
        return "Pending" if all(state == "Pending" for state in states) else "InProgress"


def summary(command: Command) -> dict[str, Any]:
    """A command as SendCommand and ListCommands show it."""
    states = list(command.invocations.values())
    return {
        "CommandId": command.id,
        "DocumentName": command.document,
        "DocumentVersion": "$DEFAULT",
        "Comment": command.comment,
        "Parameters": command.parameters,
        "InstanceIds": list(command.invocations),
        "Targets": command.targets,
        "RequestedDateTime": command.requested,
        "ExpiresAfter": command.requested + timedelta(seconds=command.timeout + 3600),
        "Status": command.status,
        "StatusDetails": command.status,
        "TimeoutSeconds": command.timeout,
        "MaxConcurrency": "50",
        "MaxErrors": "0",
        "TargetCount": len(states),
        "CompletedCount": sum(each.status in ENDED for each in states),
        "ErrorCount": sum(each.status == "Failed" or each.details == "ExecutionTimedOut" for each in states),
        "DeliveryTimedOutCount": sum(each.details == "DeliveryTimedOut" for each in states),
    }


def in_full(command: Command, invocation: Invocation) -> dict[str, Any]:
    """An invocation as GetCommandInvocation shows it."""
    return {
        "CommandId": command.id,
        "InstanceId": invocation.machine.id,
        "Comment": command.comment,
        "DocumentName": command.document,
        "DocumentVersion": "$DEFAULT",
        "PluginName": command.steps[0].name if len(command.steps) == 1 else "",
        "ResponseCode": invocation.response_code,
        "ExecutionStartDateTime": _moment(invocation.started),
        "ExecutionElapsedTime": _elapsed(invocation),
        "ExecutionEndDateTime": _moment(invocation.ended),
        "Status": invocation.status,
        "StatusDetails": invocation.details,
        "StandardOutputContent": _cut(invocation.output, MAX_OUTPUT),
        "StandardOutputUrl": "",
        "StandardErrorContent": _cut(invocation.errors, MAX_ERRORS),
        "StandardErrorUrl": "",
    }


def in_list(command: Command, invocation: Invocation, with_plugins: bool) -> dict[str, Any]:
    """An invocation as ListCommandInvocations shows it."""
    plugins = [
        {
            "Name": command.steps[0].name if command.steps else "",
            "Status": invocation.status,
            "StatusDetails": invocation.details,
            "ResponseCode": invocation.response_code,
            "ResponseStartDateTime": invocation.started,
            "ResponseFinishDateTime": invocation.ended,
            "Output": _cut(invocation.output + invocation.errors, MAX_PLUGIN_OUTPUT),
        }
    ]
    return {
        "CommandId": command.id,
        "InstanceId": invocation.machine.id,
        "Comment": command.comment,
        "DocumentName": command.document,
        "DocumentVersion": "$DEFAULT",
        "RequestedDateTime": command.requested,
        "Status": invocation.status,
        "StatusDetails": invocation.details,
        "CommandPlugins": plugins if with_plugins else [],
    }


def now() -> datetime:
    return datetime.now(timezone.utc)


def _moment(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%S.%f}"[:-3] + "Z" if moment else ""


def _elapsed(invocation: Invocation) -> str:
    if invocation.started is None:
        return ""
    return f"PT{((invocation.ended or now()) - invocation.started).total_seconds():.3f}S"


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - len(CUT)] + CUT
