#!/bin/sh
# fauxqs 2.4.1: PutObject with If-None-Match: * overwrites an object that exists, and with If-Match of another version, too.
#
# S3 answers 412 (user guide, conditional writes, read 2026-11-30). Locks and "first result wins" on S3 stand on that; on this emulator
# both sides win, and no error is seen.
#
# Expected beforehand: 412, or 501 for a header that is not built.
# Seen: 200 and 200; the object holds the last body.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check boto3==1.44.8
cd "$folder"
npm install --silent --no-audit --no-fund fauxqs@2.4.1 node@22.23.3
cat >serve.mjs <<'JS'
import { writeFileSync, renameSync } from "node:fs";
import { startFauxqs } from "./node_modules/fauxqs/dist/app.js";
const server = await startFauxqs({ port: 0, host: "127.0.0.1", logger: false });
writeFileSync("port.part", String(server.port));
renameSync("port.part", "port");
process.stdin.on("end", () => process.exit(0)).resume();
JS
cat >try.py <<'PYTHON'
import pathlib, subprocess, time
import boto3, botocore.exceptions

server = subprocess.Popen(["node_modules/.bin/node", "serve.mjs"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
deadline = time.time() + 60
while not pathlib.Path("port").exists():
    assert time.time() < deadline and server.poll() is None, "fauxqs did not start"
    time.sleep(0.1)
s3 = boto3.client("s3", region_name="us-east-1", endpoint_url="http://127.0.0.1:" + pathlib.Path("port").read_text(),
                  aws_access_key_id="x", aws_secret_access_key="x", config=boto3.session.Config(s3={"addressing_style": "path"}))
s3.create_bucket(Bucket="results")
s3.put_object(Bucket="results", Key="one", Body=b"first")
seen = []
for body, condition in ((b"second", {"IfNoneMatch": "*"}), (b"third", {"IfMatch": '"of-another-version"'})):
    try:
        s3.put_object(Bucket="results", Key="one", Body=body, **condition)
        seen.append(s3.get_object(Bucket="results", Key="one")["Body"].read())
    except botocore.exceptions.ClientError as e:
        seen.append(e.response["Error"]["Code"])
server.stdin.close()
print(seen)
assert seen == [b"second", b"third"], "changed"
PYTHON
venv/bin/python try.py
