import json
import unittest
from collections.abc import Callable
from typing import Any

from botocore.exceptions import ClientError

from tests.running import QUICK, REGION, Case, client, keys_of, until
from tests.test_imds import TRUST
from tests.test_ssm import DRAIN

ANYONE = {
    "Version": "2012-10-17",
    "Statement": {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"},
}
OURS = [{"Key": "eirs:installation", "Value": "eirs"}]


class Iam(Case):
    OPTIONS = (*QUICK, "--seed", "1")  # not shared with tests that policies do not bind

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.emulator.ask("POST", "enforce-iam", {"on": True})

    def role(self, *statements: dict[str, Any], name: str = "role", trust: Any = ANYONE) -> None:
        iam = self.aws.client("iam")
        iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(trust))
        if statements:
            document = {"Version": "2012-10-17", "Statement": list(statements)}
            iam.put_role_policy(RoleName=name, PolicyName="inline", PolicyDocument=json.dumps(document))

    def bound(self, *statements: dict[str, Any]) -> Callable[[str], Any]:
        """Clients of a role that has these statements."""
        self.role(*statements)
        keys = keys_of(
            self.aws.client("sts").assume_role(
                RoleArn=f"arn:aws:iam::{self.aws.id}:role/role", RoleSessionName="session"
            )
        )
        return lambda service: client(self.emulator, service, keys)

    def allow(self, action: str | list[str], resource: str | list[str] = "*", **condition: Any) -> dict[str, Any]:
        statement = {"Effect": "Allow", "Action": action, "Resource": resource}
        return statement | ({"Condition": condition} if condition else {})

    def arn(self, service: str, rest: str) -> str:
        return f"arn:aws:{service}:{REGION}:{self.aws.id}:{rest}"

    def denied(self, call: Callable[..., Any], **arguments: Any) -> None:
        with self.assertRaises(ClientError) as raised:
            call(**arguments)
        self.assertIn(
            raised.exception.response["Error"]["Code"],
            ("AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "403"),
        )


class Services(Iam):
    def test_queues_by_their_names(self) -> None:
        urls = [self.aws.client("sqs").create_queue(QueueName=name)["QueueUrl"] for name in ("eirs-requests", "other")]
        sqs = self.bound(
            self.allow(["sqs:SendMessage", "sqs:ReceiveMessage", "sqs:GetQueueUrl"], self.arn("sqs", "eirs-*"))
        )("sqs")
        sqs.send_message(QueueUrl=urls[0], MessageBody="x")
        sqs.send_message_batch(QueueUrl=urls[0], Entries=[{"Id": "a", "MessageBody": "x"}])
        sqs.get_queue_url(QueueName="eirs-requests")
        self.assertEqual(len(sqs.receive_message(QueueUrl=urls[0], MaxNumberOfMessages=10)["Messages"]), 2)
        self.denied(sqs.send_message, QueueUrl=urls[1], MessageBody="x")
        self.denied(sqs.get_queue_attributes, QueueUrl=urls[0], AttributeNames=["All"])
        self.denied(sqs.list_queues)
        with self.assertRaisesRegex(
            ClientError,
            r"assumed-role/role/session is not authorized to perform: sqs:DeleteQueue on resource: arn:aws:sqs:.*eirs-requests",
        ):
            sqs.delete_queue(QueueUrl=urls[0])

    def test_objects_by_their_keys_and_what_is_not_there_only_for_those_who_may_list(self) -> None:
        admin, bucket = self.aws.client("s3"), f"in-{self.aws.id}"
        admin.create_bucket(Bucket=bucket)
        admin.put_object(Bucket=bucket, Key="images/a", Body=b"x")
        arn = f"arn:aws:s3:::{bucket}"
        s3 = self.bound(
            self.allow(["s3:GetObject", "s3:PutObject"], f"{arn}/images/*"),
            self.allow("s3:ListBucket", arn, StringLike={"s3:prefix": "images/*"}),
        )("s3")
        s3.get_object(Bucket=bucket, Key="images/a")
        s3.put_object(Bucket=bucket, Key="images/b", Body=b"x")
        s3.list_objects_v2(Bucket=bucket, Prefix="images/x")
        upload = s3.create_multipart_upload(Bucket=bucket, Key="images/c")
        self.denied(s3.abort_multipart_upload, Bucket=bucket, Key="images/c", UploadId=upload["UploadId"])
        self.denied(s3.list_objects_v2, Bucket=bucket)
        self.denied(s3.get_object, Bucket=bucket, Key="other")
        self.denied(s3.delete_object, Bucket=bucket, Key="images/a")
        self.denied(s3.delete_objects, Bucket=bucket, Delete={"Objects": [{"Key": "images/a"}]})
        self.denied(s3.list_buckets)
        # 404 tells something, too: without ListBucket on the bucket as a whole it is a 403.
        self.denied(s3.get_object, Bucket=bucket, Key="images/none")
        self.denied(s3.head_object, Bucket=bucket, Key="images/none")
        with self.assertRaises(admin.exceptions.NoSuchKey):
            admin.get_object(Bucket=bucket, Key="images/none")

    def test_who_may_only_create_objects_cannot_write_over_one(self) -> None:
        bucket = f"once-{self.aws.id}"
        self.aws.client("s3").create_bucket(Bucket=bucket)
        s3 = self.bound(self.allow("s3:PutObject", f"arn:aws:s3:::{bucket}/*", Null={"s3:if-none-match": "false"}))("s3")
        s3.put_object(Bucket=bucket, Key="a", Body=b"1", IfNoneMatch="*")
        with self.assertRaisesRegex(ClientError, "PreconditionFailed"):
            s3.put_object(Bucket=bucket, Key="a", Body=b"2", IfNoneMatch="*")
        self.denied(s3.put_object, Bucket=bucket, Key="a", Body=b"2")
        self.denied(s3.put_object, Bucket=bucket, Key="b", Body=b"2")
        self.denied(s3.put_object, Bucket=bucket, Key="a", Body=b"2", IfMatch='"x"')

    def test_presigned_addresses_carry_the_rights_of_who_signed(self) -> None:
        import urllib.error
        import urllib.request

        bucket = f"in-{self.aws.id}"
        self.aws.client("s3").create_bucket(Bucket=bucket)
        self.aws.client("s3").put_object(Bucket=bucket, Key="a", Body=b"x")
        s3 = self.bound(self.allow("s3:GetObject", f"arn:aws:s3:::{bucket}/a"))("s3")
        address = s3.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "a"})
        self.assertEqual(urllib.request.urlopen(address).read(), b"x")
        for wrong in (
            s3.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "b"}),
            address.partition("?")[0],
        ):
            with self.assertRaises(urllib.error.HTTPError) as raised:
                urllib.request.urlopen(wrong)
            self.assertEqual(raised.exception.code, 403)
            raised.exception.close()

    def test_instances_by_their_tags(self) -> None:
        ours = self.running(TagSpecifications=[{"ResourceType": "instance", "Tags": OURS}])
        strange = self.running()
        ec2 = self.bound(
            self.allow("ec2:DescribeInstances"),
            self.allow(
                ["ec2:StartInstances", "ec2:StopInstances"],
                self.arn("ec2", "instance/*"),
                StringEquals={"aws:ResourceTag/eirs:installation": "eirs"},
            ),
            self.allow(
                "ec2:CreateTags",
                self.arn("ec2", "instance/*"),
                **{
                    "StringEquals": {"ec2:ResourceTag/eirs:installation": "eirs"},
                    "ForAllValues:StringEquals": {"aws:TagKeys": ["eirs:generation", "eirs:drain"]},
                },
            ),
        )("ec2")
        self.assertEqual(len(ec2.describe_instances()["Reservations"]), 2)
        ec2.stop_instances(InstanceIds=[ours])
        self.denied(ec2.stop_instances, InstanceIds=[strange])
        self.denied(ec2.start_instances, InstanceIds=[ours, strange])
        ec2.create_tags(Resources=[ours], Tags=[{"Key": "eirs:generation", "Value": "1"}])
        self.denied(ec2.create_tags, Resources=[ours], Tags=[{"Key": "eirs:installation", "Value": "stolen"}])
        self.denied(ec2.create_tags, Resources=[strange], Tags=[{"Key": "eirs:generation", "Value": "1"}])
        self.denied(ec2.terminate_instances, InstanceIds=[ours])

    def test_a_launch_needs_its_parts_its_tags_and_its_role(self) -> None:
        self.role(name="worker", trust=TRUST)
        iam = self.aws.client("iam")
        iam.create_instance_profile(InstanceProfileName="workers")
        iam.add_role_to_instance_profile(InstanceProfileName="workers", RoleName="worker")
        tagged = {"StringEquals": {"aws:RequestTag/eirs:installation": "eirs"}}
        parts = [f"arn:aws:ec2:{REGION}::image/*"] + [
            self.arn("ec2", f"{kind}/*")
            for kind in ("subnet", "security-group", "network-interface", "volume", "key-pair")
        ]
        own = self.client_of_launch(
            self.allow("ec2:RunInstances", parts),
            self.allow("ec2:RunInstances", self.arn("ec2", "instance/*"), **tagged),
            self.allow(
                "ec2:CreateTags", self.arn("ec2", "instance/*"), StringEquals={"ec2:CreateAction": "RunInstances"}
            ),
            self.allow(
                "iam:PassRole",
                f"arn:aws:iam::{self.aws.id}:role/worker",
                StringEquals={"iam:PassedToService": "ec2.amazonaws.com"},
            ),
        )
        tags = [{"ResourceType": "instance", "Tags": OURS}]
        own(TagSpecifications=tags, IamInstanceProfile={"Name": "workers"})
        self.denied(own)
        self.denied(own, TagSpecifications=[*tags, {"ResourceType": "volume", "Tags": OURS}])
        forbidden = {
            "Version": "2012-10-17",
            "Statement": {"Effect": "Deny", "Action": "iam:PassRole", "Resource": "*"},
        }
        iam.put_role_policy(RoleName="role", PolicyName="no-pass", PolicyDocument=json.dumps(forbidden))
        self.denied(own, TagSpecifications=tags, IamInstanceProfile={"Name": "workers"})

    def client_of_launch(self, *statements: dict[str, Any]) -> Callable[..., Any]:
        image = self.aws.client("ssm").get_parameter(
            Name="/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64"
        )["Parameter"]["Value"]
        ec2 = self.bound(*statements)("ec2")
        return lambda **more: ec2.run_instances(ImageId=image, InstanceType="t3.small", MinCount=1, MaxCount=1, **more)

    def test_commands_by_document_and_by_the_tags_of_instances(self) -> None:
        self.role(self.allow("ssm:UpdateInstanceInformation"), name="worker", trust=TRUST)
        iam = self.aws.client("iam")
        iam.create_instance_profile(InstanceProfileName="workers")
        iam.add_role_to_instance_profile(InstanceProfileName="workers", RoleName="worker")
        ours = self.running(
            TagSpecifications=[{"ResourceType": "instance", "Tags": OURS}], IamInstanceProfile={"Name": "workers"}
        )
        strange = self.running(IamInstanceProfile={"Name": "workers"})
        unregistered = self.running()
        admin = self.aws.client("ssm")
        admin.create_document(Name="eirs-drain", Content=json.dumps(DRAIN), DocumentType="Command")
        until(lambda: len(admin.describe_instance_information()["InstanceInformationList"]) == 2)
        ssm = self.bound(
            self.allow("ssm:SendCommand", self.arn("ssm", "document/eirs-drain")),
            self.allow(
                "ssm:SendCommand",
                self.arn("ec2", "instance/*"),
                StringEquals={"ssm:resourceTag/eirs:installation": "eirs"},
            ),
        )("ssm")
        drain = {"DocumentName": "eirs-drain", "Parameters": {"Generation": ["1"]}}
        command = ssm.send_command(InstanceIds=[ours], **drain)["Command"]["CommandId"]
        self.denied(ssm.send_command, InstanceIds=[strange], **drain)
        self.denied(
            ssm.send_command, InstanceIds=[ours], DocumentName="AWS-RunShellScript", Parameters={"commands": ["true"]}
        )
        self.denied(ssm.get_command_invocation, CommandId=command, InstanceId=ours)
        self.assertFalse(
            self.emulator.ask("GET", f"instance/{unregistered}")["agent_online"],
            "an instance without a role is no managed node",
        )

    def test_roles_by_their_names(self) -> None:
        iam = self.bound(self.allow(["iam:CreateRole", "iam:GetRole"], f"arn:aws:iam::{self.aws.id}:role/eirs-*"))(
            "iam"
        )
        iam.create_role(RoleName="eirs-worker", AssumeRolePolicyDocument=json.dumps(TRUST))
        iam.get_role(RoleName="eirs-worker")
        self.denied(iam.create_role, RoleName="other", AssumeRolePolicyDocument=json.dumps(TRUST))
        self.denied(iam.delete_role, RoleName="eirs-worker")


class Credentials(Iam):
    def test_a_policy_that_changes_counts_at_once_and_so_does_its_end(self) -> None:
        sqs = self.bound(self.allow("sqs:ListQueues"))("sqs")
        sqs.list_queues()
        self.aws.client("iam").delete_role_policy(RoleName="role", PolicyName="inline")
        self.denied(sqs.list_queues)
        self.aws.client("iam").delete_role(RoleName="role")
        self.denied(sqs.list_queues)

    def test_managed_policies_count(self) -> None:
        iam = self.aws.client("iam")
        document = json.dumps(
            {"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "sqs:ListQueues", "Resource": "*"}}
        )
        arn = iam.create_policy(PolicyName="p", PolicyDocument=document)["Policy"]["Arn"]
        clients = self.bound()
        iam.attach_role_policy(RoleName="role", PolicyArn=arn)
        iam.attach_role_policy(RoleName="role", PolicyArn="arn:aws:iam::aws:policy/AmazonS3ReadOnlyAccess")
        clients("sqs").list_queues()
        clients("s3").list_buckets()
        self.denied(clients("sqs").create_queue, QueueName="q")

    def test_a_users_key_is_bound_by_the_users_policies(self) -> None:
        iam = self.aws.client("iam")
        iam.create_user(UserName="operator")
        document = {"Version": "2012-10-17", "Statement": [self.allow("sqs:ListQueues")]}
        iam.put_user_policy(UserName="operator", PolicyName="p", PolicyDocument=json.dumps(document))
        key = iam.create_access_key(UserName="operator")["AccessKey"]
        keys = (key["AccessKeyId"], key["SecretAccessKey"], None)
        client(self.emulator, "sqs", keys).list_queues()
        self.denied(client(self.emulator, "sqs", keys).create_queue, QueueName="q")

    def test_who_is_nobody_is_refused(self) -> None:
        keys = self.aws.keys
        cases = {"unknown": ("ASIAAAAAAAAAAAAAAAAA", "secret", "token"), "another token": (keys[0], keys[1], "other")}
        for name, wrong in cases.items():
            with self.subTest(name):
                for service, call, code in (
                    ("sqs", "list_queues", "InvalidClientTokenId"),
                    ("ssm", "list_documents", "UnrecognizedClientException"),
                    ("ec2", "describe_instances", "AuthFailure"),
                ):
                    self.refused(code, getattr(client(self.emulator, service, wrong), call))
        client(self.emulator, "sts", keys).get_caller_identity()

    def test_it_can_be_switched_off(self) -> None:
        sqs = self.bound()("sqs")
        self.denied(sqs.list_queues)
        self.emulator.ask("POST", "enforce-iam", {"on": False})
        self.addCleanup(self.emulator.ask, "POST", "enforce-iam", {"on": True})
        sqs.list_queues()


if __name__ == "__main__":
    unittest.main()
