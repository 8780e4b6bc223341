"""The process fleet: an instance is a process group on this machine.

A service that ends does not end its machine: the instance goes on running, as in EC2, until somebody stops it, or until it
powers itself off.
"""

import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from emulator.fleet import NoFleet, group_lives, named, signal_group
from emulator.machine import RUNNING, Machine
from emulator.options import Options
from emulator.timers import in_background

UNIT = "eirs-worker.service"
WEB = "eirs.target"
GRANULE = 0.01


class ProcessFleet(NoFleet):
    def __init__(self, options: Options, address: str) -> None:
        super().__init__(options, address)
        self._asked: set[int] = set()  # processes that were told to end, whose end is then no news
        self._webs: dict[str, int] = {}  # the process of each web host's service

    def environment(self, machine: Machine) -> dict[str, str]:
        """With a root of its own, for whatever installs something there."""
        return super().environment(machine) | {"DESTDIR": str(self._root(machine))}

    def _root(self, machine: Machine) -> Path:
        return self.folder(machine) / "root"

    def save(self, machine: Machine, image_id: str) -> None:
        """Keeps what was installed below its root, for those that are launched from its image; but for the programs, which
        are found in the folders of `--bin`."""
        if self._root(machine).is_dir():
            shutil.copytree(self._root(machine), self._image(image_id), ignore=shutil.ignore_patterns("bin"))

    def _image(self, image_id: str) -> Path:
        return self.scratch / "images" / image_id

    def boot(self, machine: Machine) -> None:
        image = self._image(machine.instance.image_id)
        if image.is_dir() and not self._root(machine).exists():
            shutil.copytree(image, self._root(machine))
        program = self.program(machine)
        if program is not None:
            self._launch(machine, program)

    def shut_down(self, machine: Machine, force: bool) -> None:
        if force:
            self.kill(machine)
        else:
            self._end_service(machine)
        super().shut_down(machine, force)

    def kill(self, machine: Machine) -> None:
        process: subprocess.Popen[bytes] | None = machine.body
        if process is not None:
            self._asked.add(process.pid)
            signal_group(process.pid, signal.SIGKILL)
            process.wait()
        super().kill(machine)

    def service(self, machine: Machine, verb: str, units: list[str], arguments: list[str]) -> tuple[int, str]:
        """systemctl, for the one unit that there is; all others are taken for installed and idle."""
        ours = any(unit.removesuffix(".service") == UNIT.removesuffix(".service") for unit in units)
        active = ours and machine.body is not None and machine.body.poll() is None
        if verb in ("stop", "restart") and ours:
            self._end_service(machine)
        if (
            verb in ("start", "restart")
            and ours
            and (verb == "restart" or not active)
            and self.options.instance_command
        ):
            self._launch(machine, self.options.instance_command.encode())
        if verb in ("start", "restart") and WEB in units and self.options.web_command:
            # At the first boot that is its user data, which goes on to wait for what it starts here.
            if machine.body is not None and machine.body.pid == self._webs.get(machine.id):
                self._end_service(machine)
            self._launch(machine, self.options.web_command.encode())
            self._webs[machine.id] = machine.body.pid
        if verb == "kill" and active:
            machine.body.send_signal(signal.SIGTERM)
        if verb == "is-active":
            return (0, "active\n") if active else (3, "inactive\n")
        if verb == "is-system-running":
            return 0, "running\n"
        if verb == "show":
            return 0, _shown(arguments, active, machine.body.pid if active else 0)
        return 0, ""

    def _launch(self, machine: Machine, program: bytes) -> None:
        folder = self.folder(machine)
        if program.startswith(b"#!"):
            script = folder / "user-data"
            script.write_bytes(program)
            script.chmod(0o700)
            command = [str(script)]
        else:
            command = ["sh", "-c", named(machine, _executed(program.decode()))]
        with self.log(machine) as log:
            try:
                process = subprocess.Popen(
                    command,
                    cwd=folder,
                    env=self.environment(machine),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as error:
                print(f"{machine.id}: its program cannot be started: {error}", file=sys.stderr)
                return
        machine.body = process
        in_background(lambda: self._mourn(machine, process), f"service {machine.id}")

    def _mourn(self, machine: Machine, process: subprocess.Popen[bytes]) -> None:
        status = process.wait()
        if status != 0 and machine.state == RUNNING and process.pid not in self._asked:
            print(f"{machine.id}: its program ended with status {status}; the instance goes on", file=sys.stderr)

    def _end_service(self, machine: Machine) -> None:
        """As systemd with KillMode=mixed: SIGTERM for the main process, which ends its children itself; then for those that
        it left behind (a shell that did not `exec` leaves the service); SIGKILL for all when the patience is over."""
        process: subprocess.Popen[bytes] | None = machine.body
        if process is None:
            return
        deadline = time.monotonic() + self.options.kill_after
        self._asked.add(process.pid)
        process.terminate()
        asked_all = False
        while group_lives(process.pid) and time.monotonic() < deadline:
            if process.poll() is not None and not asked_all:
                asked_all = signal_group(process.pid, signal.SIGTERM)
            time.sleep(GRANULE)
        signal_group(process.pid, signal.SIGKILL)
        process.wait()


def _executed(program: str) -> str:
    """A single command takes the shell's place, so that the SIGTERM for the main process is the service's."""
    single = not re.search(r"[;&|()<>\n]", program.strip()) and "=" not in (program.split() or [""])[0]
    return program if not single or program.startswith("exec ") else f"exec {program}"


def _shown(arguments: list[str], active: bool, pid: int) -> str:
    """`systemctl show -p A,B [--value]`."""
    properties = {
        "ActiveState": "active" if active else "inactive",
        "SubState": "running" if active else "dead",
        "MainPID": str(pid),
        "Result": "success",
        "LoadState": "loaded",
    }
    asked: list[str] = []
    for here, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if here in ("-p", "--property", "-P"):
            asked += following.split(",")
        elif here.startswith("--property="):
            asked += here.removeprefix("--property=").split(",")
    bare = "--value" in arguments or "-P" in arguments
    return "".join(f"{'' if bare else name + '='}{properties.get(name, '')}\n" for name in asked or properties)
