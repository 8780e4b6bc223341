#!/bin/sh
# moto 5.2.5: CreateQueue takes a visibility of more than 12 hours, a retention of 59 seconds, a wait of 21 and a delay of 901 seconds.
#
# SQS refuses all four (API reference of CreateQueue, read 2026-11-30), and moto itself refuses a message size of a byte more than
# 1 MiB. A program whose settings are tested on moto only meets the refusal in a real account.
#
# Expected beforehand: all limits of one call are checked, or none.
# Seen: four taken, one refused.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check 'moto[sqs]==5.2.5' boto3==1.44.8
"$folder/venv/bin/python" - <<'PYTHON'
import boto3, botocore.exceptions
from moto import mock_aws

beyond = {
    "VisibilityTimeout": 43201, "MessageRetentionPeriod": 59, "ReceiveMessageWaitTimeSeconds": 21, "DelaySeconds": 901,
    "MaximumMessageSize": 1024 * 1024 + 1,
}
with mock_aws():
    sqs = boto3.client("sqs", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
    refused = []
    for name, value in beyond.items():
        try:
            sqs.create_queue(QueueName=f"with-{name}", Attributes={name: str(value)})
        except botocore.exceptions.ClientError:
            refused.append(name)
        print(name, value, "refused" if name in refused else "taken")
    assert refused == ["MaximumMessageSize"], "changed"
PYTHON
