"""The life of an instance: pending, running, stopping, stopped, and what may follow what.

moto's instances change at once and allow everything. Here each state takes its time, the fleet's machines start and end
with it, and what EC2 refuses is refused in EC2's words.
"""

import threading
import time
from collections.abc import Callable
from typing import Any

from moto.core.utils import utcnow
from moto.ec2.exceptions import EC2ClientError, OperationDisableApiStopNotPermitted, OperationNotPermitted4
from moto.ec2.models.instances import Instance, InstanceState

from emulator.machine import (
    CODES,
    PENDING,
    RUNNING,
    SHUTTING_DOWN,
    STOPPED,
    STOPPING,
    TERMINATED,
    Fleet,
    Machine,
)
from emulator.options import Options
from emulator.timers import Timers, in_background

GOING = (SHUTTING_DOWN, TERMINATED)
USER = ("Client.UserInitiatedShutdown", "User initiated shutdown")
INSTANCE = ("Client.InstanceInitiatedShutdown", "Instance initiated shutdown")
Changes = list[dict[str, Any]]


class Instances:
    def __init__(self, options: Options, timers: Timers, fleet: Fleet) -> None:
        self._options, self._timers, self._fleet = options, timers, fleet
        self._machines: dict[str, Machine] = {}
        self._lock = threading.RLock()
        # Told when a machine runs, and when it no longer does: instance metadata and the SSM agent come and go with it.
        self.on_running: list[Callable[[Machine], None]] = []
        self.on_leaving: list[Callable[[Machine], None]] = []
        self.on_gone: list[Callable[[Machine], None]] = []

    def find(self, instance_id: str) -> Machine | None:
        return self._machines.get(instance_id)

    def all(self) -> list[Machine]:
        return list(self._machines.values())

    # What the API asks for. Each checks all instances before it touches one, as EC2 does.

    def launched(self, instances: list[Instance]) -> None:
        with self._lock:
            for instance in instances:
                machine = self._machines[instance.id] = Machine(instance)
                self._begin_running(machine)

    def start(self, instances: list[Instance]) -> Changes:
        with self._lock:
            machines = [self._machines[each.id] for each in instances]
            for machine in machines:
                if machine.state not in (STOPPED, PENDING, RUNNING):
                    raise _incorrect(f"The instance '{machine.id}' is not in a state from which it can be started.")
            return [_changed(machine, self._start) for machine in machines]

    def stop(self, instances: list[Instance], force: bool) -> Changes:
        with self._lock:
            machines = [self._machines[each.id] for each in instances]
            for machine in machines:
                if machine.state in GOING:
                    raise _incorrect(f"The instance '{machine.id}' is not in a state from which it can be stopped.")
                if machine.state == PENDING and not machine.has_run:
                    raise _incorrect(
                        f"Instance '{machine.id}' cannot be stopped as it has never reached the 'running' state."
                    )
                if machine.instance.disable_api_stop is True:
                    raise OperationDisableApiStopNotPermitted(machine.id)
            return [_changed(machine, lambda each: self._stop(each, USER, force)) for machine in machines]

    def terminate(self, instances: list[Instance]) -> Changes:
        with self._lock:
            machines = [self._machines[each.id] for each in instances]
            for machine in machines:
                if machine.instance.disable_api_termination is True:
                    raise OperationNotPermitted4(machine.id)
            return [_changed(machine, lambda each: self._terminate(each, USER)) for machine in machines]

    def reboot(self, instances: list[Instance]) -> None:
        with self._lock:
            machines = [self._machines[each.id] for each in instances]
            for machine in machines:
                if machine.state != RUNNING:
                    raise _incorrect(f"The instance '{machine.id}' is not in the 'running' state.")
            for machine in machines:
                self.restart_itself(machine)

    # What happens to an instance without the API.

    def shut_itself_down(self, machine: Machine) -> None:
        """Its operating system powers off: it ends as InstanceInitiatedShutdownBehavior says."""
        with self._lock:
            if machine.state != RUNNING:
                return
            if machine.instance.instance_initiated_shutdown_behavior == "terminate":
                self._terminate(machine, INSTANCE)
            else:
                self._stop(machine, INSTANCE, force=False)

    def restart_itself(self, machine: Machine) -> None:
        """Its state stays what it is; what runs on it starts anew."""
        with self._lock:
            if machine.state == RUNNING:
                machine.turn += 1
                self._leave(machine)
                turn = machine.turn
                in_background(lambda: self._reboot(machine, turn), f"reboot {machine.id}")

    def die(self, machine: Machine, code: str, message: str, terminate: bool) -> None:
        """The machine is gone from one moment to the next: hardware, or a spot instance that AWS takes back."""
        with self._lock:
            machine.turn += 1
            self._leave(machine)
            _unplug(machine.instance)
            if terminate:
                _dispose(machine.instance)
            machine.explain(code, message)
            machine.enter(TERMINATED if terminate else STOPPED)
            turn = machine.turn
        self._fleet.kill(machine)
        with machine.busy:
            if machine.turn == turn:
                self._gone(machine)

    # The steps.

    def _start(self, machine: Machine) -> None:
        if machine.state == STOPPED:
            for nic in machine.instance.nics.values():
                nic.start()
            machine.instance.launch_time = utcnow()
            self._begin_running(machine)

    def _begin_running(self, machine: Machine) -> None:
        machine.turn += 1
        machine.instance.state_reason, machine.instance._reason = None, ""
        machine.enter(PENDING)
        turn = machine.turn
        self._timers.after(self._options.pending, lambda: self._running(machine, turn))

    def _running(self, machine: Machine, turn: int) -> None:
        with self._lock:
            if machine.turn != turn:
                return
            machine.has_run = True
            machine.enter(RUNNING)
        in_background(lambda: self._boot(machine, turn), f"boot {machine.id}")

    def _boot(self, machine: Machine, turn: int) -> None:
        with machine.busy:
            if machine.turn != turn:
                return
            profile = machine.instance.iam_instance_profile
            machine.profile_arn = profile["Arn"] if profile else None
            self._fleet.boot(machine)
            for call in self.on_running:
                call(machine)

    def _reboot(self, machine: Machine, turn: int) -> None:
        with machine.busy:
            if machine.turn != turn:
                return
            self._fleet.shut_down(machine, force=False)
            self._gone(machine)
        self._boot(machine, turn)

    def _stop(self, machine: Machine, reason: tuple[str, str], force: bool) -> None:
        if machine.state in (PENDING, RUNNING):
            self._begin_ending(machine, STOPPING, STOPPED, reason, force)
        elif machine.state == STOPPING and force:
            in_background(lambda: self._fleet.kill(machine), f"force {machine.id}")

    def _terminate(self, machine: Machine, reason: tuple[str, str]) -> None:
        if machine.state not in GOING:
            self._begin_ending(machine, SHUTTING_DOWN, TERMINATED, reason, force=False)

    def _begin_ending(self, machine: Machine, via: str, to: str, reason: tuple[str, str], force: bool) -> None:
        machine.turn += 1
        self._leave(machine)
        _unplug(machine.instance)
        machine.explain(*reason)
        if reason is USER:
            machine.instance._reason = f"User initiated ({utcnow():%Y-%m-%d %H:%M:%S} GMT)"
        machine.enter(via)
        turn = machine.turn
        in_background(lambda: self._end(machine, turn, to, force), f"{via} {machine.id}")

    def _end(self, machine: Machine, turn: int, to: str, force: bool) -> None:
        begun = time.monotonic()
        with machine.busy:
            if machine.turn != turn:
                return  # somebody else ends it, or has, and it may run again by now
            self._fleet.shut_down(machine, force)
            self._gone(machine)
        time.sleep(max(0.0, begun + self._options.stopping - time.monotonic()))
        with self._lock:
            if machine.turn == turn:
                if to == TERMINATED:
                    _dispose(machine.instance)
                machine.enter(to)

    def _leave(self, machine: Machine) -> None:
        for call in self.on_leaving:
            call(machine)

    def _gone(self, machine: Machine) -> None:
        for call in self.on_gone:
            call(machine)


# moto's own stop and terminate cannot be used for this: they set the last state at once, and somebody might see it.


def _unplug(instance: Instance) -> None:
    for nic in instance.nics.values():
        nic.stop()


def _dispose(instance: Instance) -> None:
    """What goes with a terminated instance: its network interfaces, its volumes, its hold on a profile."""
    for index, nic in instance.nics.items():
        if index == 0 or nic.delete_on_termination:
            nic.delete()
    instance.teardown_defaults()
    association = instance.ec2_backend.iam_instance_profile_associations.get(instance.id)
    if association is not None:
        instance.ec2_backend.disassociate_iam_instance_profile(association_id=association.association_id)


def _changed(machine: Machine, change: Callable[[Machine], None]) -> dict[str, Any]:
    before = machine.state
    change(machine)
    return {
        "InstanceId": machine.id,
        "CurrentState": InstanceState(machine.state, CODES[machine.state]),
        "PreviousState": InstanceState(before, CODES[before]),
    }


def _incorrect(message: str) -> EC2ClientError:
    return EC2ClientError("IncorrectInstanceState", message)
