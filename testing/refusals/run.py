#!/usr/bin/env python3
"""Whether every refusal arrives at clients that first send all of a large body: urllib, requests, aiohttp, curl and the fetch of Node, over
HTTP/1.1, TLS and HTTP/2. A server that closes too early resets the connection, and the client never sees why it was refused.

    cargo build --release && testing/refusals/run.py --tries 200

A client that is not installed is left out, with a line that says so (pip install -r testing/refusals/requirements.txt).
"""

import argparse
import asyncio
import collections
import concurrent.futures
import json
import os
import pathlib
import shutil
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
JPEG = b"\xff\xd8\xff\xe0"
TRUSTING = ssl._create_unverified_context()

# What the settings of a server must be for a status, the path, and whether the client dribbles.
STATUSES = {
    400: ({}, "/upload?wait=soon"),
    401: ({"EIRS_WEB__TOKENS": "tokens.json"}, "/upload"),
    404: ({}, "/upload?model=nope"),
    408: ({"EIRS_WEB__UPLOAD_DEADLINE": "300ms", "EIRS_WEB__MAX_IMAGE": "64MiB"}, "/upload?wait=0"),
    413: ({"EIRS_WEB__MAX_IMAGE": "1MiB"}, "/upload"),
    415: ({"EIRS_WEB__MAX_IMAGE": "64MiB"}, "/upload"),
    429: ({"EIRS_WEB__RATE_PER_ADDRESS": "0.001", "EIRS_WEB__RATE_BURST": "1"}, "/upload?wait=soon"),
    503: ({"EIRS_WEB__MAX_BACKLOG": "0", "EIRS_WEB__MAX_IMAGE": "64MiB"}, "/upload"),
    507: ({"EIRS_WEB__UPLOAD_FOLDER": "uploads", "EIRS_WEB__MAX_IMAGE": "64MiB"}, "/upload"),
}
RETRIES_LATER = {429, 503, 507}


class Server:
    """One eirs-web with these settings."""

    def __init__(self, binaries, settings, is_encrypted):
        self.folder = tempfile.mkdtemp(prefix="eirs-refusals-")
        environment = {key: value for key, value in os.environ.items() if not key.startswith("EIRS_")}
        environment |= {
            "EIRS_LOCAL__STATE": self.folder + "/state",
            "EIRS_WEB__ADMIN_LISTEN": "127.0.0.1:0",
            "EIRS_WEB__ADDRESS_FILE": self.folder + "/address",
            "EIRS_WEB__MAX_CONNECTIONS_PER_ADDRESS": "4096",
            **settings,
        }
        (pathlib.Path(self.folder) / "tokens.json").write_text('{"v":1,"tokens":[]}')
        if is_encrypted:
            certificate = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
            subprocess.run(
                ["openssl", *certificate, "-keyout", "key.pem", "-out", "cert.pem"],
                cwd=self.folder,
                check=True,
                capture_output=True,
            )
            environment |= {"EIRS_WEB__TLS__CERTIFICATE": "cert.pem", "EIRS_WEB__TLS__KEY": "key.pem"}
        # A disk that is too small for any of the images; the bodies arrive elsewhere.
        self.disk = self.folder + "/state" if "EIRS_WEB__UPLOAD_FOLDER" in settings else None
        if self.disk:
            os.mkdir(self.disk)
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", self.disk], check=True)
        log = open(self.folder + "/log", "w")
        self.process = subprocess.Popen(
            [binaries / "eirs-web", "--listen", "127.0.0.1:0"], cwd=self.folder, env=environment, stderr=log
        )
        address = pathlib.Path(self.folder) / "address"
        deadline = time.monotonic() + 30
        while not address.exists() or not address.read_text():
            if self.process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"eirs-web did not start:\n{open(self.folder + '/log').read()}")
            time.sleep(0.02)
        self.url = f"{'https' if is_encrypted else 'http'}://{address.read_text()}"

    def close(self):
        self.process.kill()
        self.process.wait()
        if self.disk:
            subprocess.run(["umount", "-l", self.disk], check=True)
        shutil.rmtree(self.folder)


# Each client: (url, body, seconds that the sending takes) -> (status, Retry-After, whether there was a sentence)


def slowly(body, seconds):
    """The body in pieces that take so long together."""
    piece = max(len(body) // 20, 1)
    for start in range(0, len(body), piece):
        yield body[start : start + piece]
        time.sleep(seconds / 20)


def seen(status, retry_after, text):
    try:
        return status, retry_after, bool(json.loads(text)["detail"])
    except (ValueError, KeyError):
        return status, retry_after, False


def by_urllib(url, body, seconds):
    data = slowly(body, seconds) if seconds else body
    headers = {"Content-Type": "image/jpeg", **({"Content-Length": str(len(body))} if seconds else {})}
    request = urllib.request.Request(url, data=data, headers=headers, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=60, context=TRUSTING if url.startswith("https") else None) as answer:
            return seen(answer.status, answer.headers["Retry-After"], answer.read())
    except urllib.error.HTTPError as error:
        return seen(error.code, error.headers["Retry-After"], error.read())


def by_requests(url, body, seconds):
    import requests
    import urllib3

    urllib3.disable_warnings()
    data = slowly(body, seconds) if seconds else body
    answer = requests.post(url, data=data, headers={"Content-Type": "image/jpeg"}, timeout=60, verify=False)
    return seen(answer.status_code, answer.headers.get("Retry-After"), answer.text)


def by_aiohttp(url, body, seconds):
    import aiohttp

    async def pieces():
        piece = max(len(body) // 20, 1)
        for start in range(0, len(body), piece):
            yield body[start : start + piece]
            await asyncio.sleep(seconds / 20)

    async def post():
        async with aiohttp.ClientSession() as session:
            data = pieces() if seconds else body
            headers = {"Content-Type": "image/jpeg"}
            async with session.post(url, data=data, headers=headers, ssl=False) as answer:
                return seen(answer.status, answer.headers.get("Retry-After"), await answer.text())

    return asyncio.run(post())


def by_curl(url, body, seconds, *options):
    with tempfile.NamedTemporaryFile() as file, tempfile.NamedTemporaryFile() as head:
        file.write(body)
        file.flush()
        limit = ["--limit-rate", str(int(len(body) / seconds))] if seconds else []
        command = ["curl", "-sS", "-k", "-D", head.name, "-m", "60", "-H", "Content-Type: image/jpeg", *limit, *options]
        # curl asks first whether it may send: that is another way, and this one is the hard one.
        command += ["-H", "Expect:", "--data-binary", "@" + file.name, url]
        ended = subprocess.run(command, capture_output=True, text=True)
        if ended.returncode:
            raise OSError(ended.stderr.strip())
        lines = [line.decode() for line in head.read().splitlines()]
        status = [int(line.split()[1]) for line in lines if line.startswith("HTTP/")][-1]
        later = [line.split(": ")[1] for line in lines if line.lower().startswith("retry-after: ")]
        return seen(status, later[0] if later else None, ended.stdout)


def by_curl_2(url, body, seconds):
    return by_curl(url, body, seconds, "--http2" if url.startswith("https") else "--http2-prior-knowledge")


NODE = """
const [url, bytes, seconds] = [process.argv[1], Number(process.argv[2]), Number(process.argv[3])];
const whole = Buffer.alloc(bytes, 7); whole.set([0xff, 0xd8, 0xff, 0xe0]); if (process.argv[4] == 'no') whole.fill(7);
async function* pieces() { const n = Math.ceil(bytes / 20);
  for (let at = 0; at < bytes; at += n) { yield whole.subarray(at, at + n); await new Promise(f => setTimeout(f, seconds * 50)); } }
const body = seconds ? ReadableStream.from(pieces()) : whole;
try { const a = await fetch(url, { method: 'POST', body, duplex: 'half', headers: { 'content-type': 'image/jpeg' } });
  console.log(JSON.stringify([a.status, a.headers.get('retry-after'), await a.text()])); }
catch (error) { console.log(JSON.stringify([String(error.cause ?? error)])); }
"""


def by_node(url, body, seconds):
    environment = {**os.environ, "NODE_TLS_REJECT_UNAUTHORIZED": "0", "NODE_NO_WARNINGS": "1"}
    is_image = "yes" if body.startswith(JPEG) else "no"
    command = ["node", "--input-type=module", "-e", NODE, url, str(len(body)), str(seconds), is_image]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    said = json.loads(ended.stdout)
    if len(said) == 1:
        raise OSError(said[0])
    return seen(*said)


def clients():
    found = {"urllib": by_urllib}
    for name, client in (("requests", by_requests), ("aiohttp", by_aiohttp)):
        try:
            __import__(name)
            found[name] = client
        except ImportError:
            print(f"left out: {name} is not installed (pip install -r testing/refusals/requirements.txt)")
    for name, client in (("curl", by_curl), ("curl, HTTP/2", by_curl_2), ("node", by_node)):
        if shutil.which(name.split(",")[0]):
            found[name] = client
        else:
            print(f"left out: {name} is not installed")
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tries", type=int, default=200, help="of each status, size, client and protocol")
    parser.add_argument("--at-once", type=int, default=8)
    parser.add_argument("--binaries", type=lambda path: pathlib.Path(path).resolve(), default=ROOT / "target/release")
    parser.add_argument("--only", help="statuses, like 401,429")
    parser.add_argument("--megabytes", default="3,30", help="the sizes of the bodies")
    parser.add_argument("--clients", help="names of clients, like urllib,node")
    arguments = parser.parse_args()
    only = [int(status) for status in arguments.only.split(",")] if arguments.only else list(STATUSES)
    named = arguments.clients.split(",") if arguments.clients else None
    used = {name: client for name, client in clients().items() if named is None or name in named}
    if 507 in only and os.geteuid() != 0:
        only.remove(507)
        print("left out: 507, which needs a disk of its own (run it as root)")
    is_bad = False
    for is_encrypted in (False, True):
        for status in only:
            settings, path = STATUSES[status]
            server = Server(arguments.binaries, settings, is_encrypted)
            if status == 429:
                by_urllib(server.url + path, JPEG, 0)
            for megabytes in map(int, arguments.megabytes.split(",")):
                body = (b"\x07" * 4 if status == 415 else JPEG) + b"\x07" * (megabytes * 1_000_000)
                seconds = 3 if status == 408 else 0
                for name, client in used.items():

                    def attempt(_):
                        try:
                            got, later, is_said = client(server.url + path, body, seconds)
                            right = got == status and is_said and (later is not None or status not in RETRIES_LATER)
                            return "right" if right else f"{got}, Retry-After {later}, {'a' if is_said else 'no'} sentence"
                        except Exception as error:
                            return f"{type(error).__name__}: {error}"[:120]

                    with concurrent.futures.ThreadPoolExecutor(arguments.at_once) as pool:
                        ends = collections.Counter(pool.map(attempt, range(arguments.tries)))
                    right = ends.pop("right", 0)
                    is_bad |= bool(ends)
                    how = "TLS" if is_encrypted else "plain"
                    print(f"{status} {megabytes:>2} MB {how:>5} {name:<13} {right}/{arguments.tries} {dict(ends) or ''}", flush=True)
            server.close()
    return 1 if is_bad else 0


if __name__ == "__main__":
    sys.exit(main())
