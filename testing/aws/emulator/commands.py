"""SSM Run Command that really runs: agents that register, commands that wait for delivery, invocations with their ends."""

import threading
from collections.abc import Callable

from moto.ssm.exceptions import SSMException

from emulator import imds, policy, principals
from emulator.fleet import NoFleet
from emulator.instances import Instances
from emulator.invocations import ENDED, Command, Invocation, now
from emulator.machine import RUNNING, STOPPED, STOPPING, Machine
from emulator.options import Options
from emulator.timers import Timers, in_background

TRY_AGAIN = 0.5  # seconds, of an agent whose role does not let it register yet


class Commands:
    def __init__(self, options: Options, timers: Timers, instances: Instances, fleet: NoFleet) -> None:
        self._options, self._timers, self._instances, self._fleet = options, timers, instances, fleet
        self._commands: dict[str, Command] = {}
        self._lock = threading.RLock()
        self.enforced = False  # IAM: then an agent registers only if its instance's role lets it
        instances.on_running.append(self._booted)
        instances.on_leaving.append(self._left)

    # Agents.

    def _booted(self, machine: Machine) -> None:
        turn = machine.turn
        self._timers.after(self._options.ssm_delay, lambda: self.connect(machine, turn))

    def connect(self, machine: Machine, turn: int) -> None:
        with self._lock:
            can_connect = machine.turn == turn and machine.state == RUNNING and not machine.agent_broken
            if not can_connect:
                return
            if not self._may_register(machine):
                return self._timers.after(TRY_AGAIN, lambda: self.connect(machine, turn))
            machine.agent_known = machine.agent_online = True
            for command in self._commands.values():
                invocation = command.invocations.get(machine.id)
                if invocation is not None and invocation.status == "Pending":
                    self._deliver(command, invocation)

    def break_agent(self, machine: Machine, broken: bool) -> None:
        machine.agent_broken = broken
        if broken:
            machine.agent_online = False
        else:
            self.connect(machine, machine.turn)

    def _left(self, machine: Machine) -> None:
        machine.agent_online = False

    def _may_register(self, machine: Machine) -> bool:
        if not self.enforced:
            return True
        profile = imds.profile_of(machine)
        if profile is None or not profile.roles:
            return False
        documents = principals.role_documents(machine.account, machine.region, profile.roles[0].name)
        return policy.decide(documents, "ssm:UpdateInstanceInformation", "*", {}) is policy.Decision.ALLOWED

    # Commands.

    def send(self, command: Command) -> None:
        ordered = self._options.delivery_timeout
        patience = command.timeout if ordered is None else ordered
        with self._lock:
            self._commands[command.id] = command
            for invocation in command.invocations.values():
                if invocation.machine.agent_online:
                    self._deliver(command, invocation)
                else:
                    self._timers.after(patience, lambda each=invocation: self._undelivered(each))

    def accepts(self, machine: Machine | None, account: str, region: str) -> bool:
        """SSM takes commands for a node that it knows, also for one that is stopped; not for one that has just started."""
        if machine is None or (machine.account, machine.region) != (account, region) or not machine.agent_known:
            return False
        return machine.agent_online or machine.agent_broken or machine.state in (STOPPING, STOPPED)

    def find(self, account: str, region: str, command_id: str | None) -> Command:
        command = self._commands.get(command_id or "")
        if command is None or (command.account, command.region) != (account, region):
            raise SSMException(
                "InvalidCommandId", "The specified command ID is not valid. Verify the ID and try again."
            )
        return command

    def all(self, account: str, region: str) -> list[Command]:
        with self._lock:
            return [each for each in self._commands.values() if (each.account, each.region) == (account, region)]

    def cancel(self, command: Command, instance_ids: list[str]) -> None:
        with self._lock:
            for instance_id, invocation in command.invocations.items():
                if (instance_ids and instance_id not in instance_ids) or invocation.status in ENDED:
                    continue
                invocation.end("Cancelled")
                if invocation.cancel is not None:
                    invocation.cancel()

    def known_nodes(self, account: str, region: str) -> list[Machine]:
        """Those that DescribeInstanceInformation lists. A node whose agent has fallen silent is still listed."""
        return [
            each
            for each in self._instances.all()
            if (each.account, each.region) == (account, region)
            and each.state == RUNNING
            and each.agent_known
            and (each.agent_online or each.agent_broken)
        ]

    def _undelivered(self, invocation: Invocation) -> None:
        with self._lock:
            if invocation.status == "Pending":
                invocation.end("TimedOut", "DeliveryTimedOut")

    def _deliver(self, command: Command, invocation: Invocation) -> None:
        invocation.status = invocation.details = "InProgress"
        invocation.started = now()
        in_background(lambda: self._run(command, invocation), f"command {command.id}")

    def _run(self, command: Command, invocation: Invocation) -> None:
        turn, code = invocation.machine.turn, 0
        for step in command.steps:
            if invocation.status != "InProgress":
                return  # cancelled
            finished = self._fleet.run_command(
                invocation.machine, step.script, step.seconds, lambda cancel: self._running(invocation, cancel)
            )
            with self._lock:
                invocation.output += finished.output.decode("utf-8", "replace")
                invocation.errors += finished.errors.decode("utf-8", "replace")
                if finished.timed_out:
                    return self._too_long(invocation)
                if finished.status != 0 and invocation.machine.turn != turn:
                    # The machine went down with the command. Nobody tells SSM, which waits as long as it might have run.
                    return self._timers.after(step.seconds, lambda: self._too_long(invocation))
                if finished.status != 0:
                    code = finished.status if finished.status > 0 else 128 - finished.status
                    invocation.errors += f"failed to run commands: exit status {code}"
        with self._lock:
            if invocation.status == "InProgress":
                invocation.end("Success" if code == 0 else "Failed", response_code=code)

    def _running(self, invocation: Invocation, cancel: Callable[[], None]) -> None:
        with self._lock:
            invocation.cancel = cancel
            if invocation.status == "Cancelled":
                cancel()

    def _too_long(self, invocation: Invocation) -> None:
        with self._lock:
            if invocation.status == "InProgress":
                invocation.end("TimedOut", "ExecutionTimedOut")
