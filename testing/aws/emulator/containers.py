"""The container fleet: an instance is a booted systemd machine, run by a script that a test names.

    SCRIPT up NAME --env-file=FILE      boots it and returns when it has; FILE's lines become its environment
    SCRIPT exec NAME CMD...             runs a command in it, with its output and status; fails when it does not run
    SCRIPT poweroff NAME                shuts it down in an orderly way and returns when it is off
    SCRIPT down NAME                    ends it at once and removes every trace; twice does no harm

A stop of the instance is `poweroff`, its start is `up` again; `down` is for its termination, for a machine that does not
go off in time, and for the end of the emulator. What an instance keeps from one boot to the next is the script's affair.
"""

import base64
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

from emulator.fleet import Finished, NoFleet, named, signal_group
from emulator.machine import SHUTTING_DOWN, TERMINATED, Machine
from emulator.timers import in_background

LOOK_EVERY = 0.5
LOOKS = 2  # in vain, before a machine counts as off: one may fall into a moment of a busy host


class ContainerFleet(NoFleet):
    def boot(self, machine: Machine) -> None:
        env_file = self.folder(machine) / "environment"
        env_file.write_text("".join(f"{name}={value}\n" for name, value in self.identity(machine).items()))
        self.sweeper.add(machine.id, command=[str(self.options.machine), "down", machine.id])
        if not self._script(machine, "up", machine.id, f"--env-file={env_file}"):
            return
        machine.body = turn = machine.turn
        program = self.program(machine)
        if program is not None:
            in_background(lambda: self._run_program(machine, program), f"program {machine.id}")
        in_background(lambda: self._watch(machine, turn), f"watch {machine.id}")

    def shut_down(self, machine: Machine, force: bool) -> None:
        if machine.body is not None and not force:
            self._script(machine, "poweroff", machine.id, patience=self.options.kill_after)
        if force or machine.state in (SHUTTING_DOWN, TERMINATED):
            self.kill(machine)
        machine.body = None
        super().shut_down(machine, force)

    def kill(self, machine: Machine) -> None:
        machine.body = None
        self._script(machine, "down", machine.id)
        super().kill(machine)

    def run_command(
        self, machine: Machine, script: str, seconds: float, started: Callable[[Callable[[], None]], None]
    ) -> Finished:
        command = [str(self.options.machine), "exec", machine.id, "sh", "-c", self._inside(machine, script)]
        return self.run(machine, command, self.environment(machine), seconds, started)

    def _inside(self, machine: Machine, script: str) -> str:
        """The environment goes with the script: what enters a machine from outside does not get that of its services."""
        exports = "".join(f"export {name}='{value}'\n" for name, value in self.identity(machine).items())
        return exports + named(machine, script)

    def _run_program(self, machine: Machine, program: bytes) -> None:
        # The machine has no file of ours, so the program travels in the command's own text.
        carried = base64.b64encode(program).decode()
        run = (
            "chmod +x /run/eirs-program && exec /run/eirs-program"
            if program.startswith(b"#!")
            else "exec sh /run/eirs-program"
        )
        script = self._inside(machine, f"echo {carried} | base64 -d > /run/eirs-program && {run}")
        self._script(machine, "exec", machine.id, "sh", "-c", script)

    def _watch(self, machine: Machine, turn: int) -> None:
        """Sees the machine power itself off: the emulator learns it in no other way."""
        missed = 0
        while machine.turn == turn and missed < LOOKS:
            time.sleep(LOOK_EVERY)
            command = [str(self.options.machine), "exec", machine.id, "true"]
            there = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            missed = missed + 1 if there.returncode != 0 else 0
        if machine.turn == turn:
            machine.body = None
            self.on_poweroff(machine)

    def _script(self, machine: Machine, *arguments: str, patience: float | None = None) -> bool:
        """Its words go to the instance's log, and to a test's reader when it fails."""
        with self.log(machine) as log:
            start = log.seek(0, os.SEEK_END)
            # A file, not a pipe: what `up` leaves running would keep a pipe open.
            process = subprocess.Popen(
                [str(self.options.machine), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                process.wait(patience)
            except subprocess.TimeoutExpired:
                print(f"{machine.id}: not off after {patience:g} s, it is cut off", file=sys.stderr)
                self._script(machine, "down", machine.id)
                signal_group(process.pid, signal.SIGKILL)
                process.wait()
                return False
            if process.returncode != 0 and arguments[0] != "exec":
                log.seek(start)
                said = log.read().decode("utf-8", "replace").strip()
                print(f"{machine.id}: {' '.join(arguments[:2])} failed ({process.returncode}): {said}", file=sys.stderr)
        return process.returncode == 0
