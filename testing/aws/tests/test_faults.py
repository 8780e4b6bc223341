import time
import unittest

from botocore.exceptions import ClientError, ConnectionClosedError

from tests.running import QUICK, Case, client


class Faults(Case):
    OPTIONS = QUICK

    def setUp(self) -> None:
        super().setUp()
        self.addCleanup(self.emulator.ask, "DELETE", "faults")
        self.sqs = self.aws.client("sqs")

    def fault(self, **fault: object) -> None:
        self.emulator.fault(account=self.aws.id, **fault)

    def test_an_error_speaks_the_dialect_of_its_call(self) -> None:
        s3, ec2, iam, ssm, sts = (self.aws.client(each) for each in ("s3", "ec2", "iam", "ssm", "sts"))
        s3.create_bucket(Bucket=f"b-{self.aws.id}")
        calls = {
            "ListQueues": (self.sqs.list_queues, {}, "RequestThrottled", 403),
            "DescribeInstances": (ec2.describe_instances, {}, "RequestLimitExceeded", 503),
            "ListRoles": (iam.list_roles, {}, "Throttling", 400),
            "GetCallerIdentity": (sts.get_caller_identity, {}, "ExpiredToken", 400),
            "ListDocuments": (ssm.list_documents, {}, "ThrottlingException", 400),
            "PutObject": (
                s3.put_object,
                {"Bucket": f"b-{self.aws.id}", "Key": "k", "Body": b"x"},
                "ConditionalRequestConflict",
                409,
            ),
            "GetObject": (s3.get_object, {"Bucket": f"b-{self.aws.id}", "Key": "k"}, "SlowDown", 503),
        }
        for operation, (call, arguments, code, status) in calls.items():
            with self.subTest(operation):
                self.fault(op=operation, code=code)
                with self.assertRaises(ClientError) as raised:
                    call(**arguments)
                answer = raised.exception.response
                self.assertEqual(
                    (answer["Error"]["Code"], answer["ResponseMetadata"]["HTTPStatusCode"]), (code, status)
                )
        self.fault(op="HeadObject", code="SlowDown", http=503)
        with self.assertRaises(ClientError) as raised:
            s3.head_object(Bucket=f"b-{self.aws.id}", Key="k")
        self.assertEqual(raised.exception.response["ResponseMetadata"]["HTTPStatusCode"], 503)

    def test_a_fault_is_met_as_often_as_it_says_by_what_it_matches(self) -> None:
        url = self.sqs.create_queue(QueueName="q")["QueueUrl"]
        self.fault(op="SendMessage", code="InternalError", http=500, message="as ordered", times=2, match="poison")
        self.sqs.send_message(QueueUrl=url, MessageBody="good")
        for _ in range(2):
            words = self.refused("InternalError", self.sqs.send_message, QueueUrl=url, MessageBody="poison")
            self.assertEqual(words, "as ordered")
        self.sqs.send_message(QueueUrl=url, MessageBody="poison")

    def test_the_sdk_tries_again(self) -> None:
        self.fault(op="ListQueues", code="InternalError", http=500, times=2)
        client(self.emulator, "sqs", self.aws.keys, retries={"max_attempts": 3}).list_queues()
        self.assertEqual(self.emulator.ask("GET", f"calls?account={self.aws.id}"), {"ListQueues": 3})

    def test_an_answer_can_be_late_or_lost(self) -> None:
        url = self.sqs.create_queue(QueueName="q")["QueueUrl"]
        self.fault(op="SendMessage", delay=0.4)
        begun = time.monotonic()
        self.sqs.send_message(QueueUrl=url, MessageBody="late")
        self.assertGreater(time.monotonic() - begun, 0.4)
        self.fault(op="SendMessage", code="ServiceUnavailable", after=True)
        self.refused("ServiceUnavailable", self.sqs.send_message, QueueUrl=url, MessageBody="lost answer")
        self.fault(op="SendMessage", hang_up=True, after=True)
        with self.assertRaises(ConnectionClosedError):
            self.sqs.send_message(QueueUrl=url, MessageBody="lost connection")
        self.fault(op="SendMessage", hang_up=True)
        with self.assertRaises(ConnectionClosedError):
            self.sqs.send_message(QueueUrl=url, MessageBody="lost call")
        bodies = sorted(
            each["Body"] for each in self.sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10)["Messages"]
        )
        self.assertEqual(bodies, ["late", "lost answer", "lost connection"])

    def test_a_fault_can_be_a_matter_of_chance(self) -> None:
        self.fault(op="ListQueues", code="InternalError", http=500, probability=0.5)
        failed = 0
        for _ in range(60):
            try:
                self.sqs.list_queues()
            except ClientError:
                failed += 1
        self.assertTrue(15 <= failed <= 45, failed)
        self.emulator.ask("DELETE", "faults")
        self.sqs.list_queues()

    def test_capacity_lacks_in_one_zone_for_one_type(self) -> None:
        ec2 = self.aws.client("ec2")
        a = self.running(Placement={"AvailabilityZone": "us-east-1a"})
        b = self.running(Placement={"AvailabilityZone": "us-east-1b"})
        big = self.running(Placement={"AvailabilityZone": "us-east-1a"}, InstanceType="t3.large")
        ec2.stop_instances(InstanceIds=[a, b, big])
        for each in (a, b, big):
            self.reaches(each, "stopped")
        for op in ("StartInstances", "RunInstances"):
            self.fault(
                op=op, code="InsufficientInstanceCapacity", times=100, zone="us-east-1a", instance_type="t3.small"
            )
        with self.assertRaises(ClientError) as raised:
            ec2.start_instances(InstanceIds=[b, a])
        self.assertEqual(raised.exception.response["ResponseMetadata"]["HTTPStatusCode"], 500)
        self.assertEqual(self.state(b), "stopped")
        ec2.start_instances(InstanceIds=[b, big])
        for wrong in ({}, {"Placement": {"AvailabilityZone": "us-east-1a"}}):
            with self.assertRaisesRegex(ClientError, "InsufficientInstanceCapacity"):
                self.launch(**wrong)
        self.launch(Placement={"AvailabilityZone": "us-east-1b"})

    def test_a_fault_that_makes_no_sense_is_refused_with_a_sentence(self) -> None:
        for wrong in ({"op": "X", "tims": 2}, {"code": "X"}):
            with self.assertRaisesRegex(Exception, "400"):
                self.emulator.ask("POST", "fault", wrong)

    def test_the_log_tells_who_called_what_and_how_it_ended(self) -> None:
        self.fault(op="ListQueues", code="AccessDenied")
        self.refused("AccessDenied", self.sqs.list_queues)
        last = self.emulator.ask("GET", f"log?account={self.aws.id}")[-1]
        self.assertEqual(
            (last["op"], last["status"], last["principal"]),
            ("ListQueues", 403, f"arn:aws:sts::{self.aws.id}:assumed-role/tests/tests"),
        )


if __name__ == "__main__":
    unittest.main()
