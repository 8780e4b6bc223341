import time
import unittest
from typing import Any

from tests.running import QUICK, REGION, Case, until


class Ec2(Case):
    def setUp(self) -> None:
        super().setUp()
        self.ec2 = self.aws.client("ec2")

    def changed(self, answer: dict[str, Any]) -> tuple[str, str]:
        only = next(value for value in answer.values() if isinstance(value, list))[0]
        return only["PreviousState"]["Name"], only["CurrentState"]["Name"]


class Life(Ec2):
    OPTIONS = tuple("--pending 0.4 --stopping 0.4".split())

    def test_states_take_their_time_and_repeated_orders_do_nothing(self) -> None:
        one = self.launch()[0]
        self.assertEqual(self.state(one), "pending")
        self.assertEqual(self.changed(self.ec2.start_instances(InstanceIds=[one])), ("pending", "pending"))
        self.reaches(one, "running")
        self.assertEqual(self.changed(self.ec2.start_instances(InstanceIds=[one])), ("running", "running"))
        self.assertEqual(self.changed(self.ec2.stop_instances(InstanceIds=[one])), ("running", "stopping"))
        self.assertEqual(self.state(one), "stopping")
        self.assertEqual(self.changed(self.ec2.stop_instances(InstanceIds=[one], Force=True)), ("stopping", "stopping"))
        self.reaches(one, "stopped")
        self.assertEqual(self.changed(self.ec2.stop_instances(InstanceIds=[one])), ("stopped", "stopped"))
        self.assertEqual(self.changed(self.ec2.start_instances(InstanceIds=[one])), ("stopped", "pending"))
        self.reaches(one, "running")
        self.assertEqual(self.changed(self.ec2.terminate_instances(InstanceIds=[one])), ("running", "shutting-down"))
        self.reaches(one, "terminated")
        self.assertEqual(self.changed(self.ec2.terminate_instances(InstanceIds=[one])), ("terminated", "terminated"))

    def test_what_cannot_follow_is_refused_in_ec2s_words_and_for_the_whole_call(self) -> None:
        stopping, stopped, gone = self.launch(3)
        words = self.refused("IncorrectInstanceState", self.ec2.stop_instances, InstanceIds=[stopping])
        self.assertEqual(words, f"Instance '{stopping}' cannot be stopped as it has never reached the 'running' state.")
        self.reaches(gone, "running")
        self.ec2.terminate_instances(InstanceIds=[gone])
        self.ec2.stop_instances(InstanceIds=[stopped])
        self.reaches(stopped, "stopped")
        self.ec2.stop_instances(InstanceIds=[stopping])
        words = self.refused("IncorrectInstanceState", self.ec2.start_instances, InstanceIds=[stopped, stopping])
        self.assertEqual(words, f"The instance '{stopping}' is not in a state from which it can be started.")
        self.assertEqual(self.state(stopped), "stopped")
        self.refused("IncorrectInstanceState", self.ec2.start_instances, InstanceIds=[gone])
        words = self.refused("IncorrectInstanceState", self.ec2.stop_instances, InstanceIds=[gone])
        self.assertEqual(words, f"The instance '{gone}' is not in a state from which it can be stopped.")

    def test_each_start_renews_the_launch_time_and_each_stop_says_why(self) -> None:
        one = self.running()
        first = self.instance(one)["LaunchTime"]
        self.ec2.stop_instances(InstanceIds=[one])
        self.reaches(one, "stopped")
        self.assertEqual(self.instance(one)["StateReason"]["Code"], "Client.UserInitiatedShutdown")
        self.assertRegex(self.instance(one)["StateTransitionReason"], r"^User initiated \(\d{4}-")
        until(lambda: time.time() > first.timestamp() + 1)  # it has no fractions of a second
        self.ec2.start_instances(InstanceIds=[one])
        self.reaches(one, "running")
        self.assertGreater(self.instance(one)["LaunchTime"], first)
        self.assertFalse(self.instance(one).get("StateReason", {}).get("Code"))

    def test_a_machine_that_dies_has_a_reason_of_the_servers(self) -> None:
        one = self.running()
        self.emulator.ask(
            "POST", f"instance/{one}/die", {"code": "Server.SpotInstanceShutdown", "message": "no capacity"}
        )
        found = self.instance(one)
        self.assertEqual(
            (found["State"]["Name"], found["StateReason"]["Code"]), ("stopped", "Server.SpotInstanceShutdown")
        )
        self.ec2.start_instances(InstanceIds=[one])
        self.reaches(one, "running")
        self.emulator.ask("POST", f"instance/{one}/die", {"terminate": True})
        self.assertEqual(self.state(one), "terminated")

    def test_one_bad_id_fails_the_whole_describe(self) -> None:
        one = self.launch()[0]
        missing = ["i-0123456789abcdef0", "i-0123456789abcdef1"]
        words = self.refused(
            "InvalidInstanceID.NotFound", self.ec2.describe_instances, InstanceIds=[missing[0], one, missing[1]]
        )
        self.assertEqual(words, f"The instance IDs '{missing[0]}, {missing[1]}' do not exist")
        self.refused("InvalidInstanceID.Malformed", self.ec2.describe_instances, InstanceIds=[one, "nonsense"])
        self.refused("InvalidParameterCombination", self.ec2.describe_instances, InstanceIds=[one], MaxResults=5)
        self.assertEqual(len(self.ec2.describe_instances(InstanceIds=[one, one])["Reservations"]), 1)


class Launch(Ec2):
    OPTIONS = QUICK

    def test_a_client_token_launches_once(self) -> None:
        first = self.launch(2, ClientToken="token")
        self.assertEqual(self.launch(2, ClientToken="token"), first)
        self.assertNotEqual(self.launch(2, ClientToken="other"), first)
        with self.assertRaisesRegex(Exception, "IdempotentParameterMismatch"):
            self.launch(2, ClientToken="token", InstanceType="t3.medium")

    def test_all_instances_of_a_launch_get_what_was_asked_for(self) -> None:
        iam = self.aws.client("iam")
        iam.create_instance_profile(InstanceProfileName="workers")
        options = {"InstanceMetadataTags": "enabled", "HttpTokens": "required", "HttpPutResponseHopLimit": 2}
        ids = self.launch(
            3,
            IamInstanceProfile={"Name": "workers"},
            MetadataOptions=options,
            InstanceInitiatedShutdownBehavior="stop",
            TagSpecifications=[{"ResourceType": "instance", "Tags": [{"Key": "eirs:pool", "Value": "p"}]}],
        )
        for each in ids:
            found = self.instance(each)
            self.assertTrue(found["IamInstanceProfile"]["Arn"].endswith("instance-profile/workers"))
            self.assertLessEqual(options.items(), found["MetadataOptions"].items())
            self.assertEqual(found["Tags"], [{"Key": "eirs:pool", "Value": "p"}])

    def test_max_count_instances_are_launched(self) -> None:
        self.assertEqual(len(self.launch(1, MaxCount=3)), 3)

    def test_what_is_not_there_cannot_be_launched_with(self) -> None:
        with self.assertRaisesRegex(Exception, "InvalidAMIID.NotFound"):
            self.launch(ImageId="ami-0123456789abcdef0")
        with self.assertRaisesRegex(Exception, "InvalidKeyPair.NotFound"):
            self.launch(KeyName="none")
        with self.assertRaisesRegex(Exception, r"InvalidParameterValue.*Invalid IAM Instance Profile name"):
            self.launch(IamInstanceProfile={"Name": "none"})
        with self.assertRaisesRegex(Exception, "InvalidParameterValue.*architecture"):
            self.launch(InstanceType="t4g.small")

    def test_a_security_group_stays_as_long_as_an_instance_has_it(self) -> None:
        group = self.ec2.create_security_group(GroupName="eirs", Description="d")["GroupId"]
        one = self.running(SecurityGroupIds=[group])
        self.refused("DependencyViolation", self.ec2.delete_security_group, GroupId=group)
        self.ec2.terminate_instances(InstanceIds=[one])
        self.reaches(one, "terminated")
        self.ec2.delete_security_group(GroupId=group)
        self.assertEqual(self.ec2.describe_network_interfaces()["NetworkInterfaces"], [])

    def test_an_image_takes_a_moment_and_then_instances_start_from_it(self) -> None:
        builder = self.running()
        self.ec2.stop_instances(InstanceIds=[builder])
        self.reaches(builder, "stopped")
        tags = [
            {"ResourceType": kind, "Tags": [{"Key": "eirs:installation", "Value": "t"}]}
            for kind in ("image", "snapshot")
        ]
        image = self.ec2.create_image(InstanceId=builder, Name="baked", TagSpecifications=tags)["ImageId"]
        self.assertEqual(self.ec2.describe_images(ImageIds=[image])["Images"][0]["State"], "pending")
        with self.assertRaisesRegex(Exception, "InvalidAMIID.Unavailable"):
            self.launch(ImageId=image)
        self.refused("InvalidAMIName.Duplicate", self.ec2.create_image, InstanceId=builder, Name="baked")
        found = until(
            lambda: [
                each for each in self.ec2.describe_images(ImageIds=[image])["Images"] if each["State"] == "available"
            ]
        )[0]
        self.launch(ImageId=image)
        snapshot = found["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"]
        self.assertEqual(self.ec2.describe_snapshots(SnapshotIds=[snapshot])["Snapshots"][0]["Tags"][0]["Value"], "t")
        self.refused("InvalidSnapshot.InUse", self.ec2.delete_snapshot, SnapshotId=snapshot)
        self.ec2.deregister_image(ImageId=image)
        self.ec2.delete_snapshot(SnapshotId=snapshot)

    def test_the_public_parameters_lead_to_images_that_start(self) -> None:
        kinds = {"amd64": ("x86_64", "t3.small"), "arm64": ("arm64", "t4g.small")}
        for debian, (linux, kind) in kinds.items():
            for name in (
                f"/aws/service/canonical/ubuntu/server/24.04/stable/current/{debian}/hvm/ebs-gp3/ami-id",
                f"/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-{linux}",
            ):
                for region in (REGION, "eu-central-1"):
                    with self.subTest(name=name, region=region):
                        ssm, ec2 = self.aws.client("ssm", region), self.aws.client("ec2", region)
                        image = ssm.get_parameter(Name=name)["Parameter"]["Value"]
                        self.assertEqual(ssm.get_parameters(Names=[name])["Parameters"][0]["Value"], image)
                        self.assertEqual(ec2.describe_images(ImageIds=[image])["Images"][0]["Architecture"], linux)
                        ec2.run_instances(ImageId=image, InstanceType=kind, MinCount=1, MaxCount=1)


class Lag(Ec2):
    OPTIONS = tuple("--pending 0 --stopping 0 --describe-lag 0.6".split())

    def test_describe_shows_what_was(self) -> None:
        one = self.launch()[0]
        self.refused("InvalidInstanceID.NotFound", self.ec2.describe_instances, InstanceIds=[one])
        self.assertEqual(self.ec2.describe_instances()["Reservations"], [])
        until(lambda: self.ec2.describe_instances()["Reservations"])
        self.reaches(one, "running")
        self.ec2.stop_instances(InstanceIds=[one])
        running = {"Filters": [{"Name": "instance-state-name", "Values": ["running"]}]}
        self.assertEqual(self.state(one), "running")
        self.assertEqual(len(self.ec2.describe_instances(**running)["Reservations"]), 1)
        self.reaches(one, "stopped")
        self.assertEqual(self.ec2.describe_instances(**running)["Reservations"], [])


if __name__ == "__main__":
    unittest.main()
