"""What an instance is: nothing (here), a process group, or a booted container.

Common to all: the environment in which an instance's programs run, and the commands that SSM runs on it.
"""

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from emulator import imds, sweeper
from emulator.machine import Machine
from emulator.options import Options

HERE = Path(__file__).parent
FAKED = ("systemctl", "poweroff", "shutdown", "halt", "reboot")


@dataclass
class Finished:
    status: int
    output: bytes
    errors: bytes
    timed_out: bool = False


class Sweeper:
    """This process's end of sweeper.py."""

    def __init__(self, scratch: Path) -> None:
        self._lock = threading.Lock()
        command = [sys.executable, "-I", "-S", str(HERE / "sweeper.py"), str(scratch)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, text=True, start_new_session=True)

    def add(self, key: str, command: list[str]) -> None:
        self._tell({"add": key, "command": command})

    def forget(self, key: str) -> None:
        self._tell({"forget": key})

    def sweep(self) -> None:
        with self._lock:
            assert self._process.stdin is not None
            self._process.stdin.close()
        self._process.wait()

    def _tell(self, note: dict[str, object]) -> None:
        with self._lock:
            assert self._process.stdin is not None
            if not self._process.stdin.closed:
                self._process.stdin.write(json.dumps(note) + "\n")
                self._process.stdin.flush()


class NoFleet:
    """An instance that is only a record. Commands of SSM run all the same, on this machine, as they would in a process."""

    def __init__(self, options: Options, address: str) -> None:
        self.options, self.address = options, address
        self.scratch = Path(tempfile.mkdtemp(prefix="eirs-emulator-"))
        self._sweeper: Sweeper | None = None
        self._lock = threading.Lock()
        # What an instance's operating system asks for; set by the one that owns the instances.
        self.on_poweroff: Callable[[Machine], None] = lambda _: None
        self.on_reboot: Callable[[Machine], None] = lambda _: None

    @property
    def sweeper(self) -> Sweeper:
        with self._lock:
            if self._sweeper is None:
                self._sweeper = Sweeper(self.scratch)
            return self._sweeper

    def close(self) -> None:
        if self._sweeper is not None:
            self._sweeper.sweep()
        shutil.rmtree(self.scratch, ignore_errors=True)

    def boot(self, machine: Machine) -> None:
        pass

    def save(self, machine: Machine, image_id: str) -> None:
        """An image is made of it. What is only a record has no disk to keep."""

    def shut_down(self, machine: Machine, force: bool) -> None:
        # A command that powers the instance off is still running, and about to end by itself.
        self._clear(machine, grace=0.0 if force else 1.0)

    def kill(self, machine: Machine) -> None:
        self._clear(machine, grace=0.0)

    def run_command(
        self, machine: Machine, script: str, seconds: float, started: Callable[[Callable[[], None]], None]
    ) -> Finished:
        """Runs a shell script on the instance to its end. `started` is handed the way to cancel it."""
        return self.run(machine, ["sh", "-c", named(machine, script)], self.environment(machine), seconds, started)

    def system(self, machine: Machine, name: str, arguments: list[str]) -> tuple[int, str]:
        """What systemctl and its relatives do when they are called on the instance."""
        words = [each for each in arguments if not each.startswith("-")]
        verb = words[0] if words else ""
        if name == "reboot" or verb == "reboot" or (name == "shutdown" and "-r" in arguments):
            self.on_reboot(machine)
        elif name in ("poweroff", "shutdown", "halt") or verb in ("poweroff", "halt"):
            self.on_poweroff(machine)
        elif name == "systemctl":
            return self.service(machine, verb, words[1:], arguments)
        return 0, ""

    def service(self, machine: Machine, verb: str, units: list[str], arguments: list[str]) -> tuple[int, str]:
        return (3, "inactive\n") if verb == "is-active" else (0, "")

    # For the fleets that build on this one.

    def folder(self, machine: Machine) -> Path:
        folder = self.scratch / machine.id
        folder.mkdir(exist_ok=True)
        return folder

    @contextmanager
    def log(self, machine: Machine) -> Iterator[BinaryIO]:
        """Where the output of the instance's programs goes."""
        if self.options.log_dir is None:
            with tempfile.TemporaryFile() as log:
                yield log
        else:
            self.options.log_dir.mkdir(parents=True, exist_ok=True)
            with open(self.options.log_dir / f"{machine.id}.log", "a+b") as log:
                yield log

    def environment(self, machine: Machine) -> dict[str, str]:
        """This process's own, with an instance's way to AWS in place of the developer's.

        No name of the emulator's begins with `EIRS_`: to EIRS's programs that is a setting, and one that they do not know.
        """
        _ = self.sweeper  # must be there before anything runs in this environment
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "TESTING_"))}
        path = [str(self._fakes()), *map(str, self.options.bin), inherited.get("PATH", os.defpath)]
        return (
            inherited
            | self.identity(machine)
            | {
                "PATH": os.pathsep.join(path),
                "EMULATOR": f"http://{self.address}",
                sweeper.MARK: str(self.scratch),
                "AWS_CONFIG_FILE": os.devnull,
                "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            }
        )

    def identity(self, machine: Machine) -> dict[str, str]:
        return {
            sweeper.INSTANCE: machine.id,
            "AWS_ENDPOINT_URL": f"http://{self.address}",
            "AWS_REGION": machine.region,
            "AWS_DEFAULT_REGION": machine.region,
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": imds.of(machine).endpoint,
        }

    def program(self, machine: Machine) -> bytes | None:
        """What runs on the instance when it has booted: the installed service once it is handed over or tried; before that its user
        data, at the first boot only, as cloud-init does."""
        tags = machine.tags
        if (
            tags.get("eirs:handed-over") in ("yes", "trial")
            and tags.get("eirs:role", "worker") == "worker"
            and self.options.instance_command
        ):
            return self.options.instance_command.encode()
        if machine.user_data_done:
            return None
        machine.user_data_done = True
        data = imds.user_data(machine)
        # Cloud-config and its like need a cloud-init, and no test of ours has one.
        return None if data is None or data.startswith((b"#cloud-config", b"Content-Type:", b"MIME-Version:")) else data

    def run(
        self,
        machine: Machine,
        command: list[str],
        environment: dict[str, str],
        seconds: float,
        started: Callable[[Callable[[], None]], None],
    ) -> Finished:
        # Files, not pipes: what a script leaves running in the background keeps a pipe open, and this would wait for it.
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
            process = subprocess.Popen(
                command,
                cwd=self.folder(machine),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                start_new_session=True,
            )
            started(lambda: signal_group(process.pid, signal.SIGTERM))
            timed_out = False
            try:
                status = process.wait(seconds)
            except subprocess.TimeoutExpired:
                timed_out = True
                signal_group(process.pid, signal.SIGKILL)
                status = process.wait()
            output.seek(0)
            errors.seek(0)
            return Finished(status, output.read(), errors.read(), timed_out)

    def _clear(self, machine: Machine, grace: float) -> None:
        """Nothing outlives its machine, wherever it has moved to."""
        if self._sweeper is None:
            return  # nothing ever ran on any machine
        deadline = time.monotonic() + grace
        while left := sweeper.processes(f"{sweeper.MARK}={self.scratch}", f"{sweeper.INSTANCE}={machine.id}"):
            if time.monotonic() >= deadline:
                for pid in left:
                    sweeper.send(pid, signal.SIGKILL)
            time.sleep(0.01)

    def _fakes(self) -> Path:
        folder = self.scratch / "fakes"
        with self._lock:
            if not folder.exists():
                folder.mkdir()
                for name in FAKED:
                    script = folder / name
                    script.write_text(
                        f'#!/bin/sh\nexec "{sys.executable}" -I -S "{HERE / "fakes" / "system.py"}" {name} "$@"\n'
                    )
                    script.chmod(script.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
        return folder


def named(machine: Machine, script: str) -> str:
    """The text of a shell script, which may say $EIRS_INSTANCE_ID. Not exported: see `NoFleet.environment`."""
    return f"EIRS_INSTANCE_ID={machine.id}\n{script}"


def group_lives(group: int) -> bool:
    """Has it a member that is more than a zombie? Orphans of an instance may stay zombies where nobody reaps them."""
    for folder in os.listdir("/proc"):
        if folder.isdigit():
            try:
                # After the name in parentheses, which may hold anything: state, parent, group.
                state, _, member_of = Path(f"/proc/{folder}/stat").read_text().rpartition(")")[2].split()[:3]
            except (OSError, ValueError):
                continue  # it has ended while we looked
            if int(member_of) == group and state not in "ZX":
                return True
    return False


def signal_group(group: int, number: int) -> bool:
    """False: there is nobody left in it."""
    try:
        os.killpg(group, number)
        return True
    except (ProcessLookupError, PermissionError):
        return False
