"""SQS where moto is racier or slower than AWS, and takes receipts that have expired.

moto keeps the messages; what is replaced here are the methods around them. Everything that changes a queue's messages
holds that queue's lock: moto's own methods do not, and lose a message that is sent while another is deleted.
"""

import copy
import json
import time
from collections.abc import Callable
from typing import Any

import moto.sqs.models as models
from moto.sqs.exceptions import InvalidParameterValue, ReceiptHandleIsInvalid, SQSException
from moto.sqs.models import Message, Queue, SQSBackend

from emulator.sqs_rules import MAX_VISIBILITY


def install(take_duplicate: Callable[[str, str], bool]) -> None:
    _cheap_clock()
    _receive(take_duplicate)
    _receipts()


# moto asks the time once for each message on each look. time.time() costs a twentieth of what it calls.
def _cheap_clock() -> None:
    models.unix_time_millis = lambda _=None: time.time() * 1000.0
    models.unix_time = lambda _=None: time.time()

    # Asked once per received message, and answered in moto by counting all messages nine times.
    def is_retained(self: SQSBackend, queue_name: str, message: Message) -> bool:
        return message.sent_timestamp / 1000 + self.get_queue(queue_name).message_retention_period > time.time()

    SQSBackend.is_message_valid_based_on_retention_period = is_retained


def _receive(take_duplicate: Callable[[str, str], bool]) -> None:
    """Receives under the lock, so that no two consumers get one message; and wakes when there is something to get.

    moto's long poll sleeps for a second at a time and does not hear of a message whose visibility time-out ends.
    """
    receive_now = SQSBackend.receive_message

    def receive_message(
        self: SQSBackend,
        queue_name: str,
        count: int,
        wait_seconds_timeout: int,
        visibility_timeout: int,
        message_attribute_names: list[str] | None = None,
    ) -> list[Message]:
        deadline = time.time() + wait_seconds_timeout
        while True:
            queue = self.get_queue(queue_name)
            with queue._messages_lock:
                received = receive_now(self, queue_name, count, 0, visibility_timeout, message_attribute_names)
                for message in received:
                    if take_duplicate(self.account_id, queue_name):
                        queue._messages.append(_twin(queue, message))
                        queue._messages_lock.notify_all()
                patience = deadline - time.time()
                if received or patience <= 0:
                    return received
                queue._messages_lock.wait(min(patience, _until_next_visible(queue)))

    SQSBackend.receive_message = receive_message


def _twin(queue: Queue, received: Message) -> Message:
    """A second copy as SQS has on another of its servers: the same message to the receiver, but with a life of its own."""
    original = next(each for each in queue._messages if each.receipt_handle == received.receipt_handle)
    twin = copy.copy(original)
    twin.receipt_handle, twin._old_receipt_handles, twin.visible_at = None, [], 0.0
    return twin


def _until_next_visible(queue: Queue) -> float:
    now = time.time() * 1000.0
    moments = (max(message.visible_at, message.delayed_until) for message in queue._messages)
    return max(0.002, (min(moments, default=now + 20_000.0) - now) / 1000 + 0.001)


def _receipts() -> None:
    """A receipt is good for the delivery that it came with, and for no later one.

    moto accepts every receipt that a message ever had, and so lets a consumer whose lease is over delete or hide the
    message under the one that works on it.
    """
    add = Queue.add_message

    def add_message(self: Queue, message: Message) -> None:
        with self._messages_lock:
            add(self, message)

    def delete_message(self: Queue, receipt_handle: str) -> None:
        with self._messages_lock:
            message = _holder(self, receipt_handle)
            if message is None:
                _demand_known(self, receipt_handle)
                return  # AWS says yes to an old receipt, and does nothing
            self._messages.remove(message)
            self.pending_messages.discard(message)
            self.deleted_messages.update(handle for handle in message.all_receipt_handles if handle)

    def change_message_visibility(
        self: SQSBackend, queue_name: str, receipt_handle: str, visibility_timeout: int
    ) -> None:
        queue = self.get_queue(queue_name)
        with queue._messages_lock:
            message = _holder(queue, receipt_handle)
            if message is None:
                _demand_known(queue, receipt_handle)
                raise InvalidParameterValue(
                    f"Value {receipt_handle} for parameter ReceiptHandle is invalid. Reason: Message does not exist or "
                    "is not available for visibility timeout change."
                )
            if message.visible:
                raise SQSException(
                    "AWS.SimpleQueueService.MessageNotInflight", "The specified message isn't in flight."
                )
            if time.time() + visibility_timeout - message.received_at > MAX_VISIBILITY:
                raise InvalidParameterValue(
                    f"Value {visibility_timeout} for parameter VisibilityTimeout is invalid. Reason: Total "
                    "VisibilityTimeout for the message is beyond the limit [43200 seconds]."
                )
            message.change_visibility(visibility_timeout)
            if visibility_timeout == 0:
                message.visible_at = 0.0
                queue.pending_messages.discard(message)
                queue._messages_lock.notify_all()

    def purge_queue(self: SQSBackend, queue_name: str) -> None:
        queue = self.get_queue(queue_name)
        with queue._messages_lock:
            gone = [handle for message in queue._messages for handle in message.all_receipt_handles if handle]
            purge(self, queue_name)
            queue.deleted_messages.update(gone)

    mark_received = Message.mark_received

    def mark_received_and_when(self: Message, visibility_timeout: int | None = None) -> None:
        mark_received(self, visibility_timeout=visibility_timeout)
        self.received_at = time.time()

    purge = SQSBackend.purge_queue
    Queue.add_message, Queue.delete_message = add_message, delete_message
    SQSBackend.change_message_visibility, SQSBackend.purge_queue = change_message_visibility, purge_queue
    Message.mark_received = mark_received_and_when


def _holder(queue: Queue, receipt_handle: str) -> Message | None:
    return next((message for message in queue._messages if message.receipt_handle == receipt_handle), None)


def _demand_known(queue: Queue, receipt_handle: str) -> None:
    known = receipt_handle in queue.deleted_messages or any(
        receipt_handle in message._old_receipt_handles for message in queue._messages
    )
    if not known:
        error = ReceiptHandleIsInvalid()
        error.message = f'The input receipt handle "{receipt_handle}" is not a valid receipt handle.'
        raise error


def with_lies(answer: bytes, attributes: dict[str, Any]) -> bytes:
    """The answer to GetQueueAttributes with other numbers in it."""
    document = json.loads(answer)
    document.setdefault("Attributes", {}).update({name: str(value) for name, value in attributes.items()})
    return json.dumps(document).encode()
