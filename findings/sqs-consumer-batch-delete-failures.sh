#!/bin/sh
# sqs-consumer 14.2.8: a message whose deletion SQS refused is reported as processed, and no error comes.
#
# DeleteMessageBatch returns status 200 and a list of those that could not be deleted ("check for batch errors even when the call returns
# an HTTP status code of 200", API reference of DeleteMessageBatch). The library drops what the call returns (`deleteMessageBatch` in
# dist/esm/consumer.js) and emits `message_processed` for each message. The one that failed comes again and is done twice, while counters
# and logs say that all went well. The same call for the lease, ChangeMessageVisibilityBatch, has its failures dropped too. A client of the
# AWS SDK takes the place of SQS here and returns the documented response.
#
# Expected beforehand: an `error` event for the message, or at least no `message_processed`.
# Seen: two times `message_processed`, no error.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm init -y >/dev/null
npm install --silent --no-audit --no-fund sqs-consumer@14.2.8 @aws-sdk/client-sqs@3.1175.0
cat >run.cjs <<'NODE'
const assert = require("assert");
const { Consumer } = require("sqs-consumer");

let received = false;
const sqs = {
  async send(command) {
    if (command.constructor.name === "ReceiveMessageCommand") {
      if (received) return {};
      received = true;
      return { Messages: ["a", "b"].map((id) => ({ MessageId: id, ReceiptHandle: `receipt-${id}`, Body: "image" })) };
    }
    assert.strictEqual(command.constructor.name, "DeleteMessageBatchCommand");
    return { Successful: [{ Id: "a" }], Failed: [{ Id: "b", SenderFault: false, Code: "InternalError", Message: "try again" }] };
  },
};
const events = [];
const consumer = Consumer.create({
  queueUrl: "https://sqs.us-east-1.amazonaws.com/123456789012/jobs", sqs, batchSize: 10, pollingWaitTimeMs: 100,
  handleMessageBatch: async (messages) => messages,
});
consumer.on("message_processed", (message) => events.push(`processed ${message.MessageId}`));
for (const name of ["error", "processing_error", "timeout_error"]) consumer.on(name, (error) => events.push(`${name} ${error.message}`));
consumer.on("empty", () => {
  consumer.stop();
  console.log(`deleted: a; failed: b; events: ${events.join(", ")}`);
  assert.deepStrictEqual(events, ["processed a", "processed b"], "changed");
});
consumer.start();
NODE
node run.cjs
