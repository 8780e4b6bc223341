import os
import signal
import tempfile
import time
import unittest
from pathlib import Path

from tests.running import Case, Emulator, until

# A worker as the fleet knows it: says what it is, drains on SIGTERM, and takes its time for it.
WORKER = """
trap 'echo drained $1; kill $sleeper; exit 0' TERM
echo started $1 $AWS_REGION ${AWS_ACCESS_KEY_ID-no-key} $(tool)
sleep 1000 & sleeper=$!
wait
"""
HANDED_OVER = [
    {
        "ResourceType": "instance",
        "Tags": [{"Key": "eirs:handed-over", "Value": "yes"}, {"Key": "eirs:role", "Value": "worker"}],
    }
]


def lives(pid: int) -> bool:
    """A zombie does not: where nobody reaps orphans, it is all that is left of one."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class ProcessFleet(Case):
    @classmethod
    def setUpClass(cls) -> None:
        cls.folder = Path(tempfile.mkdtemp())
        bin_folder = cls.folder / "bin"
        bin_folder.mkdir()
        for name, script in {"tool": "echo from-bin", "worker": WORKER}.items():
            (bin_folder / name).write_text(f"#!/bin/sh\n{script}\n")
            (bin_folder / name).chmod(0o755)
        cls.emulator = Emulator(
            *"--pending 0 --stopping 0 --ssm-delay 0 --invocation-lag 0 --kill-after 1.5".split(),
            *f"--fleet process --bin {bin_folder} --log-dir {cls.folder}/logs".split(),
            *("--instance-command", "worker $EIRS_INSTANCE_ID"),
            AWS_ACCESS_KEY_ID="of-the-parent",
            TESTING_SKIPPED="of-the-tests",
        )
        cls.addClassCleanup(cls.emulator.close)

    def setUp(self) -> None:
        super().setUp()
        self.ec2, self.ssm = self.aws.client("ec2"), self.aws.client("ssm")

    def log(self, one: str) -> list[str]:
        file = self.folder / "logs" / f"{one}.log"
        return file.read_text().splitlines() if file.exists() else []

    def pid(self, one: str) -> int | None:
        return self.emulator.ask("GET", f"instance/{one}")["pid"]

    def says(self, one: str, line: str, times: int = 1) -> None:
        until(lambda: self.log(one).count(line) >= times)

    def worker(self, **more: object) -> str:
        one = self.running(TagSpecifications=HANDED_OVER, **more)
        self.says(one, f"started {one} us-east-1 no-key from-bin")
        return one

    def run_command(self, one: str, *lines: str) -> tuple[str, str]:
        until(lambda: self.emulator.ask("GET", f"instance/{one}")["agent_online"])
        command = self.ssm.send_command(
            InstanceIds=[one], DocumentName="AWS-RunShellScript", Parameters={"commands": list(lines)}
        )["Command"]["CommandId"]
        return until(
            lambda: (
                (found := self.ssm.get_command_invocation(CommandId=command, InstanceId=one))
                and found["Status"] not in ("Pending", "InProgress")
                and (found["Status"], found["StandardOutputContent"])
            )
        )

    def test_a_stop_drains_and_a_start_begins_anew(self) -> None:
        one = self.worker()
        self.ec2.stop_instances(InstanceIds=[one])
        self.reaches(one, "stopped")
        self.assertEqual((self.log(one)[-1:], self.pid(one)), ([f"drained {one}"], None))
        self.ec2.start_instances(InstanceIds=[one])
        self.says(one, f"started {one} us-east-1 no-key from-bin", times=2)

    def test_no_program_inherits_a_setting_that_eirs_would_not_know(self) -> None:
        """Its programs refuse to start with an unknown variable that begins with EIRS_."""
        one = self.worker()
        self.assertEqual(self.run_command(one, "env | grep ^EIRS_; echo $EIRS_INSTANCE_ID"), ("Success", f"{one}\n"))
        environment = Path(f"/proc/{self.pid(one)}/environ").read_text().split("\0")
        self.assertEqual([each for each in environment if each.startswith("EIRS_")], [])

    def test_what_does_not_end_is_killed_and_a_forced_stop_does_not_ask(self) -> None:
        script = "#!/bin/sh\ntrap 'echo no' TERM\necho up\nwhile true; do sleep 0.05; done\n"
        deaf, forced = self.running(UserData=script), self.running(UserData=script)
        for one in (deaf, forced):
            self.says(one, "up")
        begun = time.monotonic()
        self.ec2.stop_instances(InstanceIds=[forced], Force=True)
        self.reaches(forced, "stopped")
        self.assertLess(time.monotonic() - begun, 1.4)
        self.assertNotIn("no", self.log(forced))
        begun = time.monotonic()
        self.ec2.stop_instances(InstanceIds=[deaf])
        self.assertEqual(self.state(deaf), "stopping")
        self.reaches(deaf, "stopped")
        self.assertGreater(time.monotonic() - begun, 1.4)
        self.assertIn("no", self.log(deaf))

    def test_nothing_of_an_instance_outlives_it(self) -> None:
        one = self.running(UserData="#!/bin/sh\nsetsid sh -c 'echo $$; sleep 1000' &\nwait\n")
        escaped = int(until(lambda: self.log(one))[0])
        self.ec2.terminate_instances(InstanceIds=[one])
        self.reaches(one, "terminated")
        self.assertFalse(lives(escaped))

    def test_user_data_runs_at_the_first_boot_only(self) -> None:
        one = self.running(UserData="echo booted $EIRS_INSTANCE_ID\n")
        self.says(one, f"booted {one}")
        self.assertEqual(self.state(one), "running")
        self.ec2.stop_instances(InstanceIds=[one])
        self.reaches(one, "stopped")
        self.ec2.create_tags(Resources=[one], Tags=HANDED_OVER[0]["Tags"])
        self.ec2.start_instances(InstanceIds=[one])
        self.says(one, f"started {one} us-east-1 no-key from-bin")
        self.assertEqual(self.log(one).count(f"booted {one}"), 1)

    def test_an_instance_outlives_its_service(self) -> None:
        one = self.worker()
        os.kill(self.pid(one), signal.SIGKILL)
        until(lambda: self.pid(one) is None)
        self.assertEqual(
            (self.state(one), self.run_command(one, "systemctl is-active eirs-worker || true")),
            ("running", ("Success", "inactive\n")),
        )

    def test_a_machine_that_dies_takes_its_processes_with_it(self) -> None:
        one = self.worker()
        pid = self.pid(one)
        self.emulator.ask("POST", f"instance/{one}/die", {"code": "Server.SpotInstanceShutdown"})
        self.assertEqual(self.instance(one)["State"]["Name"], "stopped")
        self.assertFalse(lives(pid))
        self.assertNotIn(f"drained {one}", self.log(one))

    def test_a_drain_command_stops_the_service_and_powers_the_instance_off(self) -> None:
        one = self.worker()
        self.assertEqual(
            self.run_command(one, "systemctl stop eirs-worker && echo stopped && systemctl --no-block poweroff"),
            ("Success", "stopped\n"),
        )
        self.reaches(one, "stopped")
        self.assertIn(f"drained {one}", self.log(one))
        self.assertEqual(self.instance(one)["StateReason"]["Code"], "Client.InstanceInitiatedShutdown")

    def test_a_poweroff_terminates_where_the_instance_says_so(self) -> None:
        one = self.worker(InstanceInitiatedShutdownBehavior="terminate")
        self.run_command(one, "poweroff")
        self.reaches(one, "terminated")

    def test_systemctl_answers_sensibly(self) -> None:
        one = self.worker()
        self.assertEqual(self.run_command(one, "systemctl is-active eirs-worker.service"), ("Success", "active\n"))
        self.assertEqual(
            self.run_command(one, "systemctl show -p ActiveState --value eirs-worker"), ("Success", "active\n")
        )
        self.assertEqual(
            self.run_command(one, "systemctl show --property=MainPID eirs-worker"),
            ("Success", f"MainPID={self.pid(one)}\n"),
        )
        self.run_command(one, "systemctl restart eirs-worker")
        self.says(one, f"started {one} us-east-1 no-key from-bin", times=2)
        self.assertEqual(
            self.run_command(one, "systemctl daemon-reload && systemctl enable --now other"), ("Success", "")
        )

    def test_a_reboot_begins_anew_without_a_change_of_state(self) -> None:
        one = self.worker()
        self.ec2.reboot_instances(InstanceIds=[one])
        self.says(one, f"started {one} us-east-1 no-key from-bin", times=2)
        self.assertEqual(self.state(one), "running")
        self.assertIn(f"drained {one}", self.log(one))


if __name__ == "__main__":
    unittest.main()
