import json
import unittest

from tests.running import QUICK, Case, until
from tests.test_imds import TRUST
from tests.test_ssm import DRAIN


class State(Case):
    OPTIONS = QUICK

    def everything(self) -> dict[str, object]:
        return self.emulator.ask("GET", f"state?account={self.aws.id}")

    def test_what_is_made_is_listed_and_what_is_undone_leaves_no_trace(self) -> None:
        ec2, s3, sqs, iam, ssm = (self.aws.client(each) for each in ("ec2", "s3", "sqs", "iam", "ssm"))
        elsewhere = self.aws.client("ec2", "eu-central-1")
        ec2.describe_instances()
        before = self.everything()
        document = json.dumps(
            {"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "sqs:*", "Resource": "*"}}
        )
        bucket = f"b-{self.aws.id}"
        s3.create_bucket(Bucket=bucket)
        s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
        for body in (b"1", b"2"):
            s3.put_object(Bucket=bucket, Key="k", Body=body)
        s3.put_object(Bucket=bucket, Key="gone", Body=b"x")
        s3.delete_object(Bucket=bucket, Key="gone")
        upload = s3.create_multipart_upload(Bucket=bucket, Key="u")["UploadId"]
        url = sqs.create_queue(QueueName="q")["QueueUrl"]
        one = self.running()
        image = ec2.create_image(InstanceId=one, Name="baked")["ImageId"]
        ec2.create_key_pair(KeyName="key")
        group = ec2.create_security_group(GroupName="eirs", Description="d")["GroupId"]
        elsewhere.create_key_pair(KeyName="far")
        iam.create_role(RoleName="worker", AssumeRolePolicyDocument=json.dumps(TRUST))
        iam.put_role_policy(RoleName="worker", PolicyName="inline", PolicyDocument=document)
        iam.create_instance_profile(InstanceProfileName="workers")
        iam.add_role_to_instance_profile(InstanceProfileName="workers", RoleName="worker")
        policy = iam.create_policy(PolicyName="p", PolicyDocument=document)["Policy"]["Arn"]
        ssm.create_document(Name="eirs-drain", Content=json.dumps(DRAIN), DocumentType="Command")
        ssm.put_parameter(Name="/eirs/p", Value="v", Type="String")
        snapshot = ec2.describe_images(ImageIds=[image])["Images"][0]["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"]
        there = self.everything()
        self.assertEqual(there["buckets"], {bucket: {"objects": 1, "versions": 3, "delete_markers": 1, "uploads": 1}})
        self.assertEqual((there["queues"], there["instances"], there["images"]), (["q"], {one: "running"}, [image]))
        self.assertEqual(
            (there["snapshots"], there["security_groups"], there["key_pairs"]), ([snapshot], [group], ["far", "key"])
        )
        self.assertEqual(
            (there["roles"], there["instance_profiles"]),
            ({"worker": {"inline": ["inline"], "attached": []}}, {"workers": ["worker"]}),
        )
        self.assertEqual(
            (there["policies"], there["documents"], there["parameters"]), (["p"], ["eirs-drain"], ["/eirs/p"])
        )
        self.assertEqual(len(there["volumes"]), 1)

        ssm.delete_parameter(Name="/eirs/p")
        ssm.delete_document(Name="eirs-drain")
        iam.delete_policy(PolicyArn=policy)
        iam.remove_role_from_instance_profile(InstanceProfileName="workers", RoleName="worker")
        iam.delete_instance_profile(InstanceProfileName="workers")
        iam.delete_role_policy(RoleName="worker", PolicyName="inline")
        iam.delete_role(RoleName="worker")
        elsewhere.delete_key_pair(KeyName="far")
        ec2.delete_key_pair(KeyName="key")
        ec2.deregister_image(ImageId=image)
        ec2.delete_snapshot(SnapshotId=snapshot)
        ec2.terminate_instances(InstanceIds=[one])
        until(lambda: self.everything()["instances"] == {})
        ec2.delete_security_group(GroupId=group)
        sqs.delete_queue(QueueUrl=url)
        s3.abort_multipart_upload(Bucket=bucket, Key="u", UploadId=upload)
        versions = s3.list_object_versions(Bucket=bucket)
        for each in versions["Versions"] + versions["DeleteMarkers"]:
            s3.delete_object(Bucket=bucket, Key=each["Key"], VersionId=each["VersionId"])
        s3.delete_bucket(Bucket=bucket)
        self.assertEqual(self.everything(), before)


if __name__ == "__main__":
    unittest.main()
