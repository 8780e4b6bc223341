"""How long an upload takes on AWS, and how many calls it costs, as more clients upload at once: the table of
docs/AWS.md, "What it costs". One web host and one worker with 8 slots, on fauxqs, of which each call takes 10 ms.

    python clients.py FOLDER_OF_PROGRAMS FOLDER_OF_NODE_MODULES [LINGER]

It needs boto3. Rounds of all rows take turns, and each figure is the median of the rounds; the factor is p50 over that
of one client in the same round. All are of one machine: compare them with each other.
"""

import json
import os
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request
import zlib
from pathlib import Path

import boto3

CALL_MS, SLOTS, ROUNDS, SECONDS = 10, 8, 9, 3
CLIENTS = (1, 4, 16, 64)
REGION = "eu-central-1"


SQS_USD = 0.4e-6


def picture() -> bytes:
    """A small PNG."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 32, 32, 8, 2, 0, 0, 0)
    rows = b"".join(b"\0" + bytes((x * y) % 256 for x in range(96)) for y in range(32))
    parts = chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def wait_for(file: Path) -> str:
    for _ in range(600):
        if file.exists() and file.read_text().strip():
            return file.read_text().strip()
        time.sleep(0.05)
    raise SystemExit(f"{file} does not appear")


def main() -> None:
    programs, modules = (Path(argument).resolve() for argument in sys.argv[1:3])
    linger = sys.argv[3] if len(sys.argv) > 3 else "0s"
    folder = Path(tempfile.mkdtemp(prefix="eirs-clients-"))
    images = folder / "images"
    images.mkdir()
    (images / "a.png").write_bytes(picture())
    serve = [modules / ".bin/node", "--no-warnings", Path(__file__).with_name("serve.mjs"), modules]
    started = []
    try:
        started.append(
            subprocess.Popen([*map(str, serve), str(folder / "aws"), str(CALL_MS)], stdin=subprocess.PIPE)
        )
        endpoint = f"http://{wait_for(folder / 'aws')}"
        keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": REGION}
        os.environ.update(keys, AWS_DEFAULT_REGION=REGION)
        s3, sqs = (boto3.client(name, endpoint_url=endpoint) for name in ("s3", "sqs"))
        for bucket in ("eirs-in", "eirs-out"):
            s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION})
        for queue in ("requests-default", "dead-default", "trial-default", "events"):
            sqs.create_queue(QueueName=f"eirs-{queue}")
        settings = {
            "BACKEND": "aws",
            "AWS__REGION": REGION,
            "AWS__ENDPOINT": endpoint,
            "AWS__INPUT_BUCKET": "eirs-in",
            "AWS__OUTPUT_BUCKET": "eirs-out",
            "AWS__LINGER": linger,
            "WORKER__SLOTS": str(SLOTS),
            "MODELS__DEFAULT__CLASSIFIER": "noop",
            "WEB__ADMIN_LISTEN": "127.0.0.1:0",
            "LOCAL__STATE": str(folder / "state"),
        }
        environment = os.environ | {f"EIRS_{key}": value for key, value in settings.items()}
        log = (folder / "log").open("w")

        def start(name: str, *arguments: str, **more: str) -> None:
            command = [str(programs / name), *arguments]
            started.append(subprocess.Popen(command, env=environment | more, stdout=log, stderr=log))

        start("eirs-web", "--listen", "127.0.0.1:0", EIRS_WEB__ADDRESS_FILE=str(folder / "web"))
        start("eirs-worker", "--instance", "worker-1")
        url = f"http://{wait_for(folder / 'web')}"

        def load(clients: int) -> tuple[float, float, float]:
            urllib.request.urlopen(f"{endpoint}/calls").read()
            command = [programs / "eirs", "load", "--url", url, "--image-folder", images, "--unique", "--json"]
            command += ["--concurrency", clients, "--duration", f"{SECONDS}s"]
            done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True)
            report = json.loads(done.stdout)
            calls = json.load(urllib.request.urlopen(f"{endpoint}/calls"))
            return report["latency_ms"]["p50"], report["per_second"], calls["sqs"] / report["results"]

        load(16)  # everything is warm after that
        rounds = [{clients: load(clients) for clients in CLIENTS} for _ in range(ROUNDS)]
        print(f"{linger:>8} {'clients':>8} {'p50 ms':>8} {'factor':>8} {'images/s':>9} {'SQS each':>9} {'USD/1000':>9}")
        for clients in CLIENTS:
            p50, rate, sqs_each = (statistics.median(of) for of in zip(*(one[clients] for one in rounds)))
            factor = statistics.median(one[clients][0] / one[1][0] for one in rounds)
            usd = sqs_each * SQS_USD * 1000
            print(f"{'':8} {clients:8} {p50:8.0f} {factor:8.2f} {rate:9.0f} {sqs_each:9.1f} {usd:9.4f}", flush=True)
    finally:
        for process in reversed(started):
            process.terminate() if process.stdin is None else process.stdin.close()
        for process in started:
            process.wait(20)


main()
