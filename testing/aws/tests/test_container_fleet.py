import tempfile
import unittest
from pathlib import Path

from tests.running import Case, Emulator, until

# A machine as far as the fleet can see: a folder with a process, which ends when it is powered off.
MACHINE = """#!/bin/sh
set -eu
here=$(dirname "$0"); verb=$1 name=$2; shift 2
echo "$verb $name ${1:-}" >> "$here/calls"
case $verb in
up) mkdir -p "$here/$name"; cp "${1#--env-file=}" "$here/$name/environment"
    sleep 1000 >/dev/null 2>&1 & echo $! > "$here/$name/pid"; echo "booted $name" ;;
exec) kill -0 "$(cat "$here/$name/pid")" 2>/dev/null || exit 77
    [ "$1" != true ] || exit 0
    case "$*" in
    *eirs-program*) . "$here/$name/environment"; echo "program ran in $EMULATOR_INSTANCE_ID" ;;
    *) exec env -i PATH="$PATH" HERE="$here/$name" "$@" ;;
    esac ;;
poweroff) [ ! -e "$here/$name/stuck" ] || sleep 1000
    kill "$(cat "$here/$name/pid")" ;;
down) kill "$(cat "$here/$name/pid" 2>/dev/null)" 2>/dev/null || true; rm -rf "$here/$name" ;;
esac
"""


class ContainerFleet(Case):
    @classmethod
    def setUpClass(cls) -> None:
        cls.folder = Path(tempfile.mkdtemp())
        (cls.folder / "machine").write_text(MACHINE)
        (cls.folder / "machine").chmod(0o755)
        cls.emulator = Emulator(
            *"--pending 0 --stopping 0 --ssm-delay 0 --invocation-lag 0 --kill-after 1".split(),
            *f"--fleet container --machine {cls.folder}/machine --log-dir {cls.folder}/logs".split(),
        )
        cls.addClassCleanup(cls.closed)

    @classmethod
    def closed(cls) -> None:
        cls.emulator.close()
        assert not [each for each in cls.folder.iterdir() if each.name.startswith("i-")], (
            "every machine is taken down at the end"
        )

    def setUp(self) -> None:
        super().setUp()
        self.ec2, self.ssm = self.aws.client("ec2"), self.aws.client("ssm")

    def calls(self, one: str) -> list[str]:
        """Without the looks whether it is still there."""
        lines = (self.folder / "calls").read_text().splitlines()
        return [line.split()[0] for line in lines if line.split()[1] == one and not line.endswith("true")]

    def booted(self, **more: object) -> str:
        one = self.running(**more)
        until(lambda: self.emulator.ask("GET", f"instance/{one}")["agent_online"])
        return one

    def run_command(self, one: str, line: str) -> tuple[str, str]:
        command = self.ssm.send_command(
            InstanceIds=[one], DocumentName="AWS-RunShellScript", Parameters={"commands": [line]}
        )["Command"]["CommandId"]
        return until(
            lambda: (
                (found := self.ssm.get_command_invocation(CommandId=command, InstanceId=one))
                and found["Status"] not in ("Pending", "InProgress")
                and (found["Status"], found["StandardOutputContent"])
            )
        )

    def test_a_machine_is_booted_powered_off_and_taken_down_with_its_instance(self) -> None:
        one = self.booted()
        self.ec2.stop_instances(InstanceIds=[one])
        self.reaches(one, "stopped")
        self.ec2.start_instances(InstanceIds=[one])
        until(lambda: self.calls(one) == ["up", "poweroff", "up"])
        until(lambda: self.emulator.ask("GET", f"instance/{one}")["agent_online"])
        self.ec2.terminate_instances(InstanceIds=[one])
        self.reaches(one, "terminated")
        self.assertEqual(self.calls(one), ["up", "poweroff", "up", "poweroff", "down"])

    def test_its_environment_leads_to_the_emulator_and_commands_run_in_it(self) -> None:
        one = self.booted()
        endpoint = self.emulator.ask("GET", f"instance/{one}")["imds"]
        expected = f"{one} http://{self.emulator.address} {endpoint} us-east-1\n"
        line = "echo $EIRS_INSTANCE_ID $AWS_ENDPOINT_URL $AWS_EC2_METADATA_SERVICE_ENDPOINT $AWS_REGION"
        self.assertEqual(self.run_command(one, line), ("Success", expected))

    def test_user_data_runs_inside(self) -> None:
        one = self.booted(UserData="#!/bin/sh\necho hello\n")
        until(lambda: f"program ran in {one}" in (self.folder / "logs" / f"{one}.log").read_text())

    def test_a_machine_that_powers_itself_off_stops_its_instance(self) -> None:
        one = self.booted()
        self.run_command(one, "kill $(cat $HERE/pid)")
        self.reaches(one, "stopped")
        self.assertEqual(self.instance(one)["StateReason"]["Code"], "Client.InstanceInitiatedShutdown")

    def test_a_machine_that_does_not_go_off_is_cut_off(self) -> None:
        one = self.booted()
        (self.folder / one / "stuck").touch()
        self.ec2.stop_instances(InstanceIds=[one])
        self.reaches(one, "stopped")
        self.assertEqual(self.calls(one), ["up", "poweroff", "down"])

    def test_a_machine_that_dies_is_taken_down(self) -> None:
        one = self.booted()
        self.emulator.ask("POST", f"instance/{one}/die", {})
        self.assertEqual((self.state(one), self.calls(one)), ("stopped", ["up", "down"]))


if __name__ == "__main__":
    unittest.main()
