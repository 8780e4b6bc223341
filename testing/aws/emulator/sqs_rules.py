"""What SQS refuses and moto lets pass: batches, sizes, characters, and the names of queues that were just deleted."""

import re
import time
from typing import Any

from moto.sqs.exceptions import (
    BatchEntryIdsNotDistinct,
    BatchRequestTooLong,
    InvalidParameterValue,
    SQSException,
    TooManyEntriesInBatchRequest,
)
from moto.sqs.models import Queue, SQSBackend
from moto.sqs.responses import SQSResponse

MAX_BYTES = 1024 * 1024  # of a message, and of a whole batch
MAX_ENTRIES = 10
MAX_VISIBILITY = 12 * 3600
NAME_BLOCKED = 60  # seconds after DeleteQueue
BATCH_ENTRY_ID = re.compile(r"[\w-]{1,80}\Z", re.ASCII)
# What XML 1.0 can carry: SQS refuses the rest, though it speaks JSON today.
FORBIDDEN = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def install(fast_recreate: bool) -> None:
    _limits()
    if not fast_recreate:
        _deleted_names()


def _limits() -> None:
    """What a batch and a message may be. moto counts characters, and checks only batches that are sent."""
    send_message_batch = SQSResponse.send_message_batch
    delete_message_batch = SQSResponse.delete_message_batch
    change_message_visibility_batch = SQSResponse.change_message_visibility_batch

    def send_batch(self: SQSResponse) -> Any:
        entries = _check_batch(self, "Send")
        total = sum(_bytes(entry.get("MessageBody", ""), entry.get("MessageAttributes")) for entry in entries)
        if total > MAX_BYTES:
            raise BatchRequestTooLong(total)
        return send_message_batch(self)

    def delete_batch(self: SQSResponse) -> Any:
        _check_batch(self, "Delete")
        return delete_message_batch(self)

    def change_batch(self: SQSResponse) -> Any:
        _check_batch(self, "ChangeMessageVisibility")
        return change_message_visibility_batch(self)

    def one_change_of_a_batch(self: SQSBackend, queue_name: str, entries: list[dict[str, Any]]) -> Any:
        done, failed = [], []
        for entry in entries:
            try:
                timeout = int(entry["VisibilityTimeout"])
                if not 0 <= timeout <= MAX_VISIBILITY:
                    raise InvalidParameterValue(
                        f"Value {timeout} for parameter VisibilityTimeout is invalid. Reason: Must be between 0 and 43200."
                    )
                self.change_message_visibility(queue_name, entry["ReceiptHandle"], timeout)
                done.append(entry["Id"])
            except SQSException as error:
                failed.append({"Id": entry["Id"], "SenderFault": True, "Code": error.code, "Message": error.message})
        return done, failed

    validate = SQSBackend._validate_message

    def validate_message(self: SQSBackend, queue: Queue, message_body: str, *rest: Any, **others: Any) -> None:
        if not message_body:
            raise SQSException("MissingParameter", "The request must contain the parameter MessageBody.")
        if FORBIDDEN.search(message_body):
            raise SQSException(
                "InvalidMessageContents",
                "Invalid characters found. Valid unicode characters are #x9 | #xA "
                "| #xD | #x20 to #xD7FF | #xE000 to #xFFFD | #x10000 to #x10FFFF",
            )
        if _bytes(message_body, None) > queue.maximum_message_size:
            raise InvalidParameterValue(
                "One or more parameters are invalid. Reason: Message must be shorter than "
                f"{queue.maximum_message_size} bytes."
            )
        validate(self, queue, message_body, *rest, **others)

    SQSResponse.send_message_batch = send_batch
    SQSResponse.delete_message_batch = delete_batch
    SQSResponse.change_message_visibility_batch = change_batch
    SQSBackend.change_message_visibility_batch = one_change_of_a_batch
    SQSBackend._validate_message = validate_message


def _check_batch(response: SQSResponse, action: str) -> list[dict[str, Any]]:
    response.sqs_backend.get_queue(response._get_queue_name())  # a queue that is not there is the first complaint
    entries = response._get_param("Entries", []) or []
    if not entries:
        raise SQSException(
            "AWS.SimpleQueueService.EmptyBatchRequest",
            f"There should be at least one {action}{'' if action.startswith('Change') else 'Message'}"
            "BatchRequestEntry in the request.",
        )
    if len(entries) > MAX_ENTRIES:
        raise TooManyEntriesInBatchRequest(len(entries))
    seen: set[str] = set()
    for entry in entries:
        if not BATCH_ENTRY_ID.match(entry["Id"]):
            raise SQSException(
                "AWS.SimpleQueueService.InvalidBatchEntryId",
                "A batch entry id can only contain alphanumeric "
                "characters, hyphens and underscores. It can be at most 80 letters long.",
            )
        if entry["Id"] in seen:
            raise BatchEntryIdsNotDistinct(entry["Id"])
        seen.add(entry["Id"])
    return entries


def _bytes(body: str, attributes: dict[str, Any] | None) -> int:
    """Names, types and values of attributes count like the body."""
    size = len(body.encode())
    for name, attribute in (attributes or {}).items():
        value = attribute.get("StringValue") or attribute.get("BinaryValue") or ""
        size += (
            len(name.encode())
            + len(attribute.get("DataType", "").encode())
            + len(value.encode() if isinstance(value, str) else value)
        )
    return size


def _deleted_names() -> None:
    """The name of a deleted queue is refused for a minute."""
    create_queue, delete_queue = SQSBackend.create_queue, SQSBackend.delete_queue

    def create(self: SQSBackend, name: str, tags: dict[str, str] | None = None, **attributes: Any) -> Queue:
        if time.time() < _blocked(self).get(name, 0.0):
            raise SQSException(
                "AWS.SimpleQueueService.QueueDeletedRecently",
                "You must wait 60 seconds after deleting a queue before you can create another with the same name.",
            )
        return create_queue(self, name, tags, **attributes)

    def delete(self: SQSBackend, queue_name: str) -> None:
        delete_queue(self, queue_name)
        _blocked(self)[queue_name] = time.time() + NAME_BLOCKED

    SQSBackend.create_queue, SQSBackend.delete_queue = create, delete


def _blocked(backend: SQSBackend) -> dict[str, float]:
    return backend.__dict__.setdefault("emulator_deleted_names", {})
