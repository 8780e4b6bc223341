"""One instance as the emulator knows it: moto's record, and what stands behind it."""

import threading
import time
from dataclasses import dataclass, field
from typing import Any, Protocol

from moto.ec2.models.instances import Instance, InstanceState, StateReason

PENDING, RUNNING, SHUTTING_DOWN, TERMINATED, STOPPING, STOPPED = (
    "pending",
    "running",
    "shutting-down",
    "terminated",
    "stopping",
    "stopped",
)
CODES = {PENDING: 0, RUNNING: 16, SHUTTING_DOWN: 32, TERMINATED: 48, STOPPING: 64, STOPPED: 80}


@dataclass
class Seen:
    """A state as DescribeInstances shows it, and since when."""

    since: float
    values: dict[str, Any]


@dataclass
class Machine:
    instance: Instance
    # Each start and each stop is a turn. What was planned for an earlier turn, a timer or a thread, is void.
    turn: int = 0
    has_run: bool = False
    history: list[Seen] = field(default_factory=list)
    # Boot, shutdown and kill of one machine never overlap: a stop waits for the boot that it overtook.
    busy: threading.Lock = field(default_factory=threading.Lock)
    body: Any = None  # the fleet's: a process, a container
    metadata: Any = None  # the instance-metadata server
    profile_arn: str | None = None  # as it was at boot; moto forgets it when the instance is terminated
    user_data_done: bool = False
    agent_broken: bool = False  # the SSM agent does not come up, by order of a test
    agent_known: bool = False  # it has registered once
    agent_online: bool = False
    spot_notice: dict[str, str] | None = None

    @property
    def id(self) -> str:
        return self.instance.id

    @property
    def account(self) -> str:
        return self.instance.ec2_backend.account_id

    @property
    def region(self) -> str:
        return self.instance.ec2_backend.region_name

    @property
    def state(self) -> str:
        return self.instance._state.name

    @property
    def tags(self) -> dict[str, str]:
        return {tag["key"]: tag["value"] for tag in self.instance.get_tags()}

    def enter(self, state: str) -> None:
        # A new object, not a changed one: a describe that is being written sees the old state or the new, no mixture.
        self.instance._state = InstanceState(state, CODES[state])
        names = ("_state", "_reason", "state_reason", "launch_time")
        self.history.append(Seen(time.monotonic(), {name: getattr(self.instance, name) for name in names}))

    def explain(self, code: str, message: str) -> None:
        self.instance.state_reason = StateReason(f"{code}: {message}", code)
        self.instance._reason = ""

    def as_of(self, moment: float) -> dict[str, Any] | None:
        """None: at that moment nobody had heard of it."""
        return next((seen.values for seen in reversed(self.history) if seen.since <= moment), None)


class Fleet(Protocol):
    """What an instance is. All of it may block, and is called on a thread of the machine's own."""

    def boot(self, machine: Machine) -> None: ...

    def shut_down(self, machine: Machine, force: bool) -> None:
        """Returns when nothing of it runs any more."""

    def kill(self, machine: Machine) -> None:
        """As if the power went."""
