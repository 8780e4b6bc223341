import threading
import time
import unittest
from typing import Any

from tests.running import Case, until


class Sqs(Case):
    def setUp(self) -> None:
        super().setUp()
        self.sqs = self.aws.client("sqs")

    def queue(self, name: str = "q", **attributes: str) -> str:
        return self.sqs.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]

    def send(self, url: str, *bodies: str) -> None:
        for body in bodies:
            self.sqs.send_message(QueueUrl=url, MessageBody=body)

    def receive(self, url: str, wait: int = 0, **more: Any) -> list[dict[str, Any]]:
        arguments = {"MaxNumberOfMessages": 10, "AttributeNames": ["All"]} | more
        return self.sqs.receive_message(QueueUrl=url, WaitTimeSeconds=wait, **arguments).get("Messages", [])

    def depth(self, url: str) -> tuple[int, int]:
        found = self.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
        return int(found["ApproximateNumberOfMessages"]), int(found["ApproximateNumberOfMessagesNotVisible"])


class Receipts(Sqs):
    def redelivered(self) -> tuple[str, str, str]:
        """A queue, the receipt of a delivery whose time is over, and that of the delivery after it."""
        url = self.queue()
        self.send(url, "job")
        old = self.receive(url, VisibilityTimeout=1)[0]["ReceiptHandle"]
        new = self.receive(url, wait=5)[0]["ReceiptHandle"]
        return url, old, new

    def test_a_delete_with_an_old_receipt_succeeds_and_deletes_nothing(self) -> None:
        url, old, new = self.redelivered()
        self.sqs.delete_message(QueueUrl=url, ReceiptHandle=old)
        self.assertEqual(self.depth(url), (0, 1))
        self.sqs.delete_message(QueueUrl=url, ReceiptHandle=new)
        self.assertEqual(self.depth(url), (0, 0))
        self.sqs.delete_message(QueueUrl=url, ReceiptHandle=new)

    def test_an_old_receipt_extends_nothing(self) -> None:
        url, old, _ = self.redelivered()
        words = self.refused(
            "InvalidParameterValue",
            self.sqs.change_message_visibility,
            QueueUrl=url,
            ReceiptHandle=old,
            VisibilityTimeout=0,
        )
        self.assertIn("Message does not exist or is not available for visibility timeout change", words)
        self.assertEqual(self.depth(url), (0, 1))

    def test_a_message_that_nobody_holds_cannot_be_extended(self) -> None:
        url = self.queue()
        self.send(url, "job")
        receipt = self.receive(url, VisibilityTimeout=1)[0]["ReceiptHandle"]
        until(lambda: self.depth(url) == (1, 0))
        with self.assertRaises(self.sqs.exceptions.MessageNotInflight):
            self.sqs.change_message_visibility(QueueUrl=url, ReceiptHandle=receipt, VisibilityTimeout=30)

    def test_a_receipt_from_nowhere_is_invalid(self) -> None:
        url = self.queue()
        self.send(url, "job")
        for call, more in (
            (self.sqs.delete_message, {}),
            (self.sqs.change_message_visibility, {"VisibilityTimeout": 1}),
        ):
            with self.assertRaises(self.sqs.exceptions.ReceiptHandleIsInvalid):
                call(QueueUrl=url, ReceiptHandle="nonsense", **more)

    def test_visibility_is_limited_from_the_receive_on(self) -> None:
        url = self.queue()
        self.send(url, "job")
        receipt = self.receive(url, VisibilityTimeout=30)[0]["ReceiptHandle"]
        change = {"QueueUrl": url, "ReceiptHandle": receipt}
        self.sqs.change_message_visibility(**change, VisibilityTimeout=43190)
        self.refused("InvalidParameterValue", self.sqs.change_message_visibility, **change, VisibilityTimeout=43200)

    def test_batches_report_each_entry(self) -> None:
        url, old, new = self.redelivered()
        entries = [
            {"Id": "old", "ReceiptHandle": old, "VisibilityTimeout": 60},
            {"Id": "new", "ReceiptHandle": new, "VisibilityTimeout": 60},
        ]
        answer = self.sqs.change_message_visibility_batch(QueueUrl=url, Entries=entries)
        self.assertEqual(
            ([each["Id"] for each in answer["Successful"]], answer["Failed"][0]["Code"]),
            (["new"], "InvalidParameterValue"),
        )
        deletes = [{"Id": "new", "ReceiptHandle": new}, {"Id": "none", "ReceiptHandle": "nonsense"}]
        answer = self.sqs.delete_message_batch(QueueUrl=url, Entries=deletes)
        self.assertEqual(
            ([each["Id"] for each in answer["Successful"]], answer["Failed"][0]["Code"]),
            (["new"], "ReceiptHandleIsInvalid"),
        )


class Receiving(Sqs):
    def test_a_long_poll_wakes_for_a_message_that_is_sent_or_released_or_expires(self) -> None:
        url = self.queue()
        threading.Timer(0.3, lambda: self.send(url, "job")).start()
        begun = time.monotonic()
        receipt = self.receive(url, wait=10, VisibilityTimeout=1)[0]["ReceiptHandle"]
        self.assertLess(time.monotonic() - begun, 0.9)
        self.assertEqual(len(self.receive(url, wait=10, VisibilityTimeout=60)), 1)
        self.assertLess(time.monotonic() - begun, 2.5)
        del receipt
        url = self.queue("other")
        self.send(url, "job")
        receipt = self.receive(url)[0]["ReceiptHandle"]
        threading.Timer(
            0.2, lambda: self.sqs.change_message_visibility(QueueUrl=url, ReceiptHandle=receipt, VisibilityTimeout=0)
        ).start()
        begun = time.monotonic()
        self.assertEqual(self.receive(url, wait=10)[0]["Attributes"]["ApproximateReceiveCount"], "2")
        self.assertLess(time.monotonic() - begun, 1.0)

    def test_messages_are_neither_lost_nor_doubled_when_many_send_receive_and_delete(self) -> None:
        url = self.queue()
        got: list[str] = []
        count = 120

        def consume() -> None:
            sqs = self.aws.client("sqs")
            while len(got) < count:
                for message in sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=1).get(
                    "Messages", []
                ):
                    got.append(message["Body"])
                    sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])

        consumers = [threading.Thread(target=consume) for _ in range(3)]
        for each in consumers:
            each.start()
        senders = [
            threading.Thread(target=lambda part=part: self.send(url, *(f"{part}-{n}" for n in range(count // 3))))
            for part in range(3)
        ]
        for each in senders:
            each.start()
        for each in senders + consumers:
            each.join(20)
        self.assertEqual((len(got), len(set(got))), (count, count))
        self.assertEqual(self.depth(url), (0, 0))

    def test_a_message_that_is_received_too_often_moves_to_the_dead_letters(self) -> None:
        dead = self.queue("dead")
        arn = self.sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        url = self.queue(RedrivePolicy=f'{{"deadLetterTargetArn":"{arn}","maxReceiveCount":1}}')
        self.send(url, "poison")
        self.receive(url, VisibilityTimeout=0)
        self.assertEqual(self.receive(url), [])
        self.assertEqual(self.receive(dead)[0]["Body"], "poison")

    def test_duplicates_on_demand_go_to_somebody_else_and_live_their_own_life(self) -> None:
        url = self.queue("doubled")
        self.send(url, "job")
        self.emulator.fault(op="ReceiveMessage", duplicates=True, times=1, account=self.aws.id, match="doubled")
        first, second = self.receive(url, wait=1)[0], self.receive(url, wait=1)[0]
        self.assertEqual(first["MessageId"], second["MessageId"])
        self.assertNotEqual(first["ReceiptHandle"], second["ReceiptHandle"])
        self.sqs.delete_message(QueueUrl=url, ReceiptHandle=first["ReceiptHandle"])
        self.assertEqual(self.depth(url), (0, 1))
        self.sqs.delete_message(QueueUrl=url, ReceiptHandle=second["ReceiptHandle"])
        self.assertEqual((self.depth(url), self.receive(url)), ((0, 0), []))


class Rules(Sqs):
    def test_batches_have_one_to_ten_entries_with_names_of_their_own(self) -> None:
        url = self.queue()
        self.send(url, "job")
        receipt = self.receive(url)[0]["ReceiptHandle"]
        makers = {
            self.sqs.send_message_batch: lambda n: {"Id": str(n), "MessageBody": "x"},
            self.sqs.delete_message_batch: lambda n: {"Id": str(n), "ReceiptHandle": receipt},
            self.sqs.change_message_visibility_batch: lambda n: {
                "Id": str(n),
                "ReceiptHandle": receipt,
                "VisibilityTimeout": 1,
            },
        }
        for call, make in makers.items():
            with self.subTest(call.__name__):
                with self.assertRaises(self.sqs.exceptions.EmptyBatchRequest):
                    call(QueueUrl=url, Entries=[])
                with self.assertRaises(self.sqs.exceptions.TooManyEntriesInBatchRequest):
                    call(QueueUrl=url, Entries=[make(n) for n in range(11)])
                with self.assertRaises(self.sqs.exceptions.BatchEntryIdsNotDistinct):
                    call(QueueUrl=url, Entries=[make(1), make(1)])
                with self.assertRaises(self.sqs.exceptions.InvalidBatchEntryId):
                    call(QueueUrl=url, Entries=[make("a b")])

    def test_a_message_and_a_batch_are_at_most_a_mebibyte_of_bytes(self) -> None:
        url = self.queue()
        self.send(url, "x" * 1024 * 1024)
        self.refused("InvalidParameterValue", self.sqs.send_message, QueueUrl=url, MessageBody="ä" * (512 * 1024 + 1))
        half = "x" * (512 * 1024)
        entries = [{"Id": "a", "MessageBody": half}, {"Id": "b", "MessageBody": half + "x"}]
        with self.assertRaises(self.sqs.exceptions.BatchRequestTooLong):
            self.sqs.send_message_batch(QueueUrl=url, Entries=entries)

    def test_control_characters_are_no_message(self) -> None:
        with self.assertRaises(self.sqs.exceptions.InvalidMessageContents):
            self.send(self.queue(), "bell \x07")

    def test_a_deleted_name_is_refused_for_a_minute(self) -> None:
        self.sqs.delete_queue(QueueUrl=self.queue())
        with self.assertRaises(self.sqs.exceptions.QueueDeletedRecently):
            self.queue()

    def test_a_queue_that_exists_with_other_attributes_is_refused(self) -> None:
        self.queue(VisibilityTimeout="30")
        self.queue(VisibilityTimeout="30")
        with self.assertRaises(self.sqs.exceptions.QueueNameExists):
            self.queue(VisibilityTimeout="31")

    def test_a_queue_that_is_not_there(self) -> None:
        url = self.queue().replace("/q", "/none")
        for call in (lambda: self.send(url, "x"), lambda: self.receive(url), lambda: self.depth(url)):
            with self.assertRaises(self.sqs.exceptions.QueueDoesNotExist):
                call()

    def test_depths_lie_on_demand(self) -> None:
        url = self.queue("lied-about")
        self.send(url, "a", "b")
        lie = {"ApproximateNumberOfMessages": 0, "ApproximateNumberOfMessagesNotVisible": 50}
        self.emulator.fault(op="GetQueueAttributes", attributes=lie, times=2, match="lied-about")
        self.assertEqual([self.depth(url) for _ in range(3)], [(0, 50), (0, 50), (2, 0)])


class FastRecreate(Sqs):
    OPTIONS = tuple("--fast-recreate".split())

    def test_a_deleted_name_is_free_at_once(self) -> None:
        self.sqs.delete_queue(QueueUrl=self.queue())
        self.queue()


if __name__ == "__main__":
    unittest.main()
