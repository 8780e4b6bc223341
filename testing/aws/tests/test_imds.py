import json
import os
import subprocess
import sys
import unittest
import urllib.error
import urllib.request

from tests.running import QUICK, Case, client, until

TRUST = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}],
}


class Imds(Case):
    OPTIONS = QUICK

    def server(self, instance_id: str) -> str:
        return until(lambda: self.emulator.ask("GET", f"instance/{instance_id}")["imds"])

    def token(self, server: str) -> str:
        request = urllib.request.Request(
            f"{server}/latest/api/token", method="PUT", headers={"X-aws-ec2-metadata-token-ttl-seconds": "60"}
        )
        return urllib.request.urlopen(request).read().decode()

    def get(self, server: str, path: str, token: str | None = None) -> str | int:
        """The text, or the status if it is not 200."""
        headers = {"X-aws-ec2-metadata-token": token if token is not None else self.token(server)}
        try:
            return (
                urllib.request.urlopen(urllib.request.Request(f"{server}/latest/{path}", headers=headers))
                .read()
                .decode()
            )
        except urllib.error.HTTPError as error:
            error.close()
            return error.code

    def role(self, trust: dict[str, object] = TRUST) -> None:
        iam = self.aws.client("iam")
        iam.create_role(RoleName="worker", AssumeRolePolicyDocument=json.dumps(trust))
        iam.create_instance_profile(InstanceProfileName="workers")
        iam.add_role_to_instance_profile(InstanceProfileName="workers", RoleName="worker")

    def test_an_instance_learns_what_it_is(self) -> None:
        one = self.running(UserData="#!/bin/sh\necho hello\n", Placement={"AvailabilityZone": "us-east-1c"})
        server, found = self.server(one), self.instance(one)
        expected = {
            "meta-data/instance-id": one,
            "meta-data/instance-type": "t3.small",
            "meta-data/ami-id": found["ImageId"],
            "meta-data/local-ipv4": found["PrivateIpAddress"],
            "meta-data/placement/region": "us-east-1",
            "meta-data/placement/availability-zone": "us-east-1c",
            "user-data": "#!/bin/sh\necho hello\n",
            "meta-data/spot/instance-action": 404,
            "meta-data/tags/instance": 404,
            "meta-data/iam/info": 404,
            "meta-data/nothing": 404,
        }
        self.assertEqual({path: self.get(server, path) for path in expected}, expected)
        identity = json.loads(self.get(server, "dynamic/instance-identity/document"))
        self.assertEqual(
            (identity["accountId"], identity["region"], identity["instanceId"]), (self.aws.id, "us-east-1", one)
        )

    def test_nothing_is_told_without_a_token(self) -> None:
        server = self.server(self.running())
        self.assertEqual([self.get(server, "meta-data/instance-id", token) for token in ("", "guessed")], [401, 401])

    def test_tags_are_as_they_are_now_if_the_instance_may_see_them(self) -> None:
        one = self.running(MetadataOptions={"InstanceMetadataTags": "enabled"})
        server, ec2 = self.server(one), self.aws.client("ec2")
        ec2.create_tags(
            Resources=[one], Tags=[{"Key": "eirs:generation", "Value": "1"}, {"Key": "eirs:pool", "Value": "p"}]
        )
        self.assertEqual(
            sorted(self.get(server, "meta-data/tags/instance").split("\n")), ["eirs:generation", "eirs:pool"]
        )
        self.assertEqual(self.get(server, "meta-data/tags/instance/eirs:generation"), "1")
        ec2.create_tags(Resources=[one], Tags=[{"Key": "eirs:generation", "Value": "2"}])
        self.assertEqual(self.get(server, "meta-data/tags/instance/eirs:generation"), "2")
        self.assertEqual(self.get(server, "meta-data/tags/instance/eirs:drain"), 404)

    def test_the_roles_credentials_are_good_for_the_sdk(self) -> None:
        self.role()
        server = self.server(self.running(IamInstanceProfile={"Name": "workers"}))
        self.assertEqual(self.get(server, "meta-data/iam/security-credentials/"), "worker")
        self.assertIn("instance-profile/workers", self.get(server, "meta-data/iam/info"))
        given = json.loads(self.get(server, "meta-data/iam/security-credentials/worker"))
        sts = client(self.emulator, "sts", (given["AccessKeyId"], given["SecretAccessKey"], given["Token"]))
        self.assertIn(f":{self.aws.id}:assumed-role/worker/i-", sts.get_caller_identity()["Arn"])
        # And an SDK finds them by itself, as a worker's does.
        program = f"import boto3; print(boto3.client('sts', region_name='us-east-1', endpoint_url='http://{self.emulator.address}').get_caller_identity()['Arn'])"
        environment = os.environ | {
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": server,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "HOME": "/nowhere",
        }
        self.assertIn(
            "assumed-role/worker",
            subprocess.run(
                [sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True, check=True
            ).stdout,
        )

    def test_a_role_that_does_not_trust_ec2_has_no_credentials(self) -> None:
        self.role(
            {
                "Version": "2012-10-17",
                "Statement": {
                    "Effect": "Allow",
                    "Principal": {"Service": "lambda.amazonaws.com"},
                    "Action": "sts:AssumeRole",
                },
            }
        )
        server = self.server(self.running(IamInstanceProfile={"Name": "workers"}))
        given = json.loads(self.get(server, "meta-data/iam/security-credentials/worker"))
        self.assertEqual(given["Code"], "AssumeRoleUnauthorizedAccess")

    def test_a_spot_notice_comes_when_it_is_ordered(self) -> None:
        one = self.running()
        self.emulator.ask("POST", f"instance/{one}/spot-notice", {"action": "stop", "seconds": 120})
        self.assertEqual(json.loads(self.get(self.server(one), "meta-data/spot/instance-action"))["action"], "stop")

    def test_it_ends_with_its_instance(self) -> None:
        one = self.running()
        server = self.server(one)
        self.aws.client("ec2").stop_instances(InstanceIds=[one])
        self.reaches(one, "stopped")
        with self.assertRaises(urllib.error.URLError):
            self.token(server)


if __name__ == "__main__":
    unittest.main()
