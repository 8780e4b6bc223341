import json
import unittest
from typing import Any

from tests.running import QUICK, Case, client, until

DRAIN = {
    "schemaVersion": "2.2",
    "description": "what a test drains with",
    "parameters": {
        "Generation": {"type": "String", "allowedPattern": "^[0-9A-Za-z.]{1,40}$"},
        "Word": {"type": "String", "default": "drained"},
    },
    "mainSteps": [
        {
            "action": "aws:runShellScript",
            "name": "drain",
            "inputs": {
                "timeoutSeconds": "60",
                "runCommand": ["echo '{{ Word }}' '{{Generation}}'", "echo of $EIRS_INSTANCE_ID >&2"],
            },
        }
    ],
}


class Ssm(Case):
    OPTIONS = QUICK

    def setUp(self) -> None:
        super().setUp()
        self.ssm, self.ec2 = self.aws.client("ssm"), self.aws.client("ec2")

    def node(self) -> str:
        """An instance whose agent has registered."""
        one = self.running()
        until(lambda: self.nodes() == [one] or one in self.nodes())
        return one

    def nodes(self) -> list[str]:
        return [each["InstanceId"] for each in self.ssm.describe_instance_information()["InstanceInformationList"]]

    def send(self, *ids: str, document: str = "AWS-RunShellScript", timeout: int = 30, **parameters: list[str]) -> str:
        answer = self.ssm.send_command(
            InstanceIds=list(ids), DocumentName=document, Parameters=parameters, TimeoutSeconds=timeout
        )
        return answer["Command"]["CommandId"]

    def invocation(self, command: str, one: str) -> dict[str, Any] | None:
        try:
            return self.ssm.get_command_invocation(CommandId=command, InstanceId=one)
        except self.ssm.exceptions.InvocationDoesNotExist:
            return None

    def ended(self, command: str, one: str) -> dict[str, Any]:
        def look() -> dict[str, Any] | None:
            found = self.invocation(command, one)
            return found if found and found["Status"] not in ("Pending", "InProgress") else None

        return until(look)


class Commands(Ssm):
    def test_a_command_runs_on_its_instance_and_reports(self) -> None:
        one = self.node()
        command = self.send(one, commands=["echo out $EIRS_INSTANCE_ID", "echo err >&2", "exit 3"])
        self.assertIsNone(self.invocation(command, one))
        self.assertEqual(self.ssm.list_command_invocations(CommandId=command)["CommandInvocations"], [])
        found = self.ended(command, one)
        self.assertEqual((found["Status"], found["StatusDetails"], found["ResponseCode"]), ("Failed", "Failed", 3))
        self.assertEqual(found["StandardOutputContent"], f"out {one}\n")
        self.assertEqual(found["StandardErrorContent"], "err\nfailed to run commands: exit status 3")
        listed = self.ssm.list_command_invocations(CommandId=command, Details=True)["CommandInvocations"][0]
        self.assertEqual((listed["Status"], listed["CommandPlugins"][0]["ResponseCode"]), ("Failed", 3))
        self.assertEqual(self.ssm.list_commands(CommandId=command)["Commands"][0]["ErrorCount"], 1)

    def test_a_document_of_ours_takes_its_parameters(self) -> None:
        one = self.node()
        self.ssm.create_document(Name="eirs-drain", Content=json.dumps(DRAIN), DocumentType="Command")
        command = self.send(one, document="eirs-drain", Generation=["20260203T040506.1Z"])
        found = self.ended(command, one)
        self.assertEqual(
            (found["StandardOutputContent"], found["PluginName"]), ("drained 20260203T040506.1Z\n", "drain")
        )
        self.assertEqual(found["StandardErrorContent"], f"of {one}\n")
        for wrong in (
            {"Generation": ["'; rm -rf /"]},
            {},
            {"Generation": ["1"], "Other": ["2"]},
            {"Generation": ["1", "2"]},
        ):
            with self.subTest(wrong), self.assertRaises(self.ssm.exceptions.InvalidParameters):
                self.send(one, document="eirs-drain", **wrong)
        with self.assertRaises(self.ssm.exceptions.InvalidDocument):
            self.send(one, document="eirs-none")

    def test_documents_are_created_changed_read_and_deleted(self) -> None:
        self.ssm.create_document(
            Name="eirs-drain", Content=json.dumps(DRAIN), DocumentType="Command", Tags=[{"Key": "k", "Value": "v"}]
        )
        with self.assertRaises(self.ssm.exceptions.DocumentAlreadyExists):
            self.ssm.create_document(Name="eirs-drain", Content=json.dumps(DRAIN))
        with self.assertRaises(self.ssm.exceptions.DuplicateDocumentContent):
            self.ssm.update_document(Name="eirs-drain", Content=json.dumps(DRAIN), DocumentVersion="$LATEST")
        newer = DRAIN | {"description": "newer"}
        version = self.ssm.update_document(Name="eirs-drain", Content=json.dumps(newer), DocumentVersion="$LATEST")
        self.ssm.update_document_default_version(
            Name="eirs-drain", DocumentVersion=version["DocumentDescription"]["DocumentVersion"]
        )
        self.assertEqual(json.loads(self.ssm.get_document(Name="eirs-drain")["Content"])["description"], "newer")
        self.assertEqual(self.ssm.describe_document(Name="eirs-drain")["Document"]["DocumentVersion"], "2")
        self.ssm.delete_document(Name="eirs-drain")
        with self.assertRaises(self.ssm.exceptions.InvalidDocument):
            self.ssm.describe_document(Name="eirs-drain")

    def test_a_command_can_be_cancelled_and_can_take_too_long(self) -> None:
        one = self.node()
        command = self.send(one, commands=["sleep 1000"])
        until(lambda: (self.invocation(command, one) or {}).get("Status") == "InProgress")
        self.ssm.cancel_command(CommandId=command)
        self.assertEqual(self.ended(command, one)["Status"], "Cancelled")
        command = self.send(one, commands=["echo begun; sleep 1000"], executionTimeout=["1"])
        found = self.ended(command, one)
        self.assertEqual(
            (found["Status"], found["StatusDetails"], found["StandardOutputContent"]),
            ("TimedOut", "ExecutionTimedOut", "begun\n"),
        )

    def test_a_background_process_does_not_keep_a_command_from_ending(self) -> None:
        one = self.node()
        self.assertEqual(self.ended(self.send(one, commands=["sleep 1000 &"]), one)["Status"], "Success")

    def test_output_is_cut(self) -> None:
        one = self.node()
        found = self.ended(self.send(one, commands=["head -c 30000 /dev/zero | tr '\\0' x"]), one)
        self.assertEqual(len(found["StandardOutputContent"]), 24000)
        self.assertIn("truncated", found["StandardOutputContent"])

    def test_the_limits_of_send_command(self) -> None:
        ssm = client(self.emulator, "ssm", self.aws.keys, parameter_validation=False)
        many = [f"i-{n:017x}" for n in range(51)]
        for wrong in ({"InstanceIds": many}, {"InstanceIds": many[:1], "TimeoutSeconds": 29}):
            self.refused(
                "ValidationException",
                ssm.send_command,
                DocumentName="AWS-RunShellScript",
                Parameters={"commands": ["true"]},
                **wrong,
            )


class Delivery(Ssm):
    OPTIONS = tuple("--pending 0 --stopping 0.2 --ssm-delay 0.4 --invocation-lag 0".split())

    def test_an_instance_that_is_not_there_or_not_yet_registered_is_refused(self) -> None:
        one = self.running()
        for each in (one, "i-0123456789abcdef0"):
            with self.assertRaises(self.ssm.exceptions.InvalidInstanceId):
                self.send(each, commands=["true"])
        until(lambda: self.nodes() == [one])
        self.send(one, commands=["true"])
        self.ec2.terminate_instances(InstanceIds=[one])
        with self.assertRaises(self.ssm.exceptions.InvalidInstanceId):
            self.send(one, commands=["true"])

    def test_a_command_for_a_stopped_instance_waits_for_its_next_start(self) -> None:
        one = self.node()
        self.ec2.stop_instances(InstanceIds=[one])
        self.reaches(one, "stopped")
        self.assertEqual(self.nodes(), [])
        command = self.send(one, commands=["echo late"])
        self.assertEqual(self.invocation(command, one)["Status"], "Pending")
        self.ec2.start_instances(InstanceIds=[one])
        self.reaches(one, "running")
        with self.assertRaises(self.ssm.exceptions.InvalidInstanceId):
            self.send(one, commands=["true"])
        self.assertEqual(self.ended(command, one)["StandardOutputContent"], "late\n")

    def test_a_node_whose_agent_is_silent_is_listed_and_takes_nothing(self) -> None:
        one = self.node()
        self.emulator.ask("POST", f"instance/{one}/agent", {"up": False})
        self.assertEqual(
            self.ssm.describe_instance_information()["InstanceInformationList"][0]["PingStatus"], "ConnectionLost"
        )
        command = self.send(one, commands=["echo heard"])
        self.assertEqual(self.invocation(command, one)["Status"], "Pending")
        self.emulator.ask("POST", f"instance/{one}/agent", {"up": True})
        self.assertEqual(self.ended(command, one)["StandardOutputContent"], "heard\n")

    def test_targets_are_found_by_tag(self) -> None:
        one, other = self.node(), self.node()
        self.ec2.create_tags(Resources=[one], Tags=[{"Key": "eirs:pool", "Value": "a"}])
        answer = self.ssm.send_command(
            Targets=[{"Key": "tag:eirs:pool", "Values": ["a"]}],
            DocumentName="AWS-RunShellScript",
            Parameters={"commands": ["true"]},
        )
        self.assertEqual(self.ended(answer["Command"]["CommandId"], one)["Status"], "Success")
        self.assertIsNone(self.invocation(answer["Command"]["CommandId"], other))


class DeliveryTimeout(Ssm):
    OPTIONS = tuple("--pending 0 --stopping 0 --invocation-lag 0 --delivery-timeout 0.5".split())

    def test_a_command_that_is_not_delivered_in_time_never_runs(self) -> None:
        one = self.node()
        self.ec2.stop_instances(InstanceIds=[one])
        self.reaches(one, "stopped")
        command = self.send(one, commands=["echo ran"])
        self.assertEqual(self.invocation(command, one)["Status"], "Pending")
        found = self.ended(command, one)
        self.assertEqual(
            (found["Status"], found["StatusDetails"], found["ResponseCode"]), ("TimedOut", "DeliveryTimedOut", -1)
        )
        self.ec2.start_instances(InstanceIds=[one])
        until(lambda: one in self.nodes())
        self.assertEqual(self.ended(self.send(one, commands=["echo ran"]), one)["Status"], "Success")
        self.assertEqual(self.invocation(command, one)["StandardOutputContent"], "")


if __name__ == "__main__":
    unittest.main()
