#!/bin/sh
# moto 5.2.5: DeleteMessage with the receipt of an earlier delivery deletes a job that another consumer holds.
#
# A worker that was slow acknowledges after its lease ran out, while somebody else has the message. On SQS the older receipt may be
# without effect ("you might receive the message again", API reference of DeleteMessage, read 2026-11-30), and fauxqs 2.4.1 keeps the
# message. moto deletes it, so that a test on moto cannot show that a program holds on to its lease.
#
# Expected beforehand: the message comes again, as the newer receipt is the one that counts.
# Seen: it is gone.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check 'moto[sqs]==5.2.5' boto3==1.44.8
"$folder/venv/bin/python" - <<'PYTHON'
import time
import boto3
from moto import mock_aws

with mock_aws():
    sqs = boto3.client("sqs", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
    url = sqs.create_queue(QueueName="jobs", Attributes={"VisibilityTimeout": "1"})["QueueUrl"]
    sqs.send_message(QueueUrl=url, MessageBody="job")
    first = sqs.receive_message(QueueUrl=url)["Messages"][0]["ReceiptHandle"]
    time.sleep(1.2)
    second = sqs.receive_message(QueueUrl=url)["Messages"][0]["ReceiptHandle"]
    assert first != second
    sqs.delete_message(QueueUrl=url, ReceiptHandle=first)
    time.sleep(1.2)
    left = sqs.receive_message(QueueUrl=url).get("Messages", [])
    print("after the delete by the first consumer, messages left:", len(left))
    assert not left, "changed: the message stays"
PYTHON
