#!/usr/bin/env python3
"""How honest `Retry-After` is: what uploads and polls are told, over what it really took, with real processes.

    cargo build --release && testing/eta/run.py

Clients upload with `?wait=0`, come back when they were told to, and so on until the label is there. Each announcement counts. It is right
where it is between 0.8 and 1.5 of the time that remained. `Retry-After` is whole seconds, and cannot be right where less than 0.67 s remain;
`eta_s` in the body can.
"""

import argparse
import http.client
import json
import os
import pathlib
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
RIGHT = (0.8, 1.5)


def picture(number):
    """A BMP of one pixel, unlike that of any other number."""
    pixel = struct.pack("<I", number)
    head = b"BM" + struct.pack("<IIIIiiHHIIiiII", 58, 0, 54, 40, 1, 1, 1, 24, 0, 0, 0, 0, 0, 0)
    return head + pixel


class Service:
    """A web server and a number of workers, whose jobs take a given time."""

    def __init__(self, binaries, service_s, workers, controller):
        self.folder = tempfile.mkdtemp(prefix="eirs-eta-")
        # The label is the moment at which it was done.
        command = json.dumps(["sh", "-c", f"sleep {service_s}; date +%s.%N", "sh"])
        self.environment = {key: value for key, value in os.environ.items() if not key.startswith("EIRS_")} | {
            "EIRS_LOCAL__STATE": self.folder + "/state",
            "EIRS_WEB__ADMIN_LISTEN": "127.0.0.1:0",
            "EIRS_WEB__ADDRESS_FILE": self.folder + "/address",
            "EIRS_WORKER__THREADS": "1",
            "EIRS_MODELS__DEFAULT__CLASSIFIER": "script",
            "EIRS_MODELS__DEFAULT__COMMAND": command,
            "EIRS_MODELS__DEFAULT__TIMEOUT": "10m",
            "EIRS_QUEUE__VISIBILITY": "120s",
        }
        self.binaries, self.processes = binaries, []
        self.start("eirs-web", "--listen", "127.0.0.1:0")
        address = pathlib.Path(self.folder) / "address"
        while not address.exists() or not address.read_text():
            if self.processes[0].poll() is not None:
                sys.exit(open(self.folder + "/log").read())
            time.sleep(0.02)
        self.host, self.port = address.read_text().rsplit(":", 1)
        if controller:
            policies = pathlib.Path(self.folder) / "policies"
            policies.mkdir()
            (policies / "default.toml").write_text(
                f'[pool]\nmodel = "default"\nmin = 0\nmax = {workers}\n[[rule]]\nkind = "backlog"\nper_instance = 1\n'
                '[instance]\nbilling_minimum = "0s"\n[scale_in]\nidle = "5s"\nwindow = "5s"\n'
            )
            self.start("eirs-controller", "--policies", str(policies))
        else:
            for _ in range(workers):
                self.start("eirs-worker")

    def start(self, program, *arguments):
        log = open(self.folder + "/log", "a")
        command = [self.binaries / program, *arguments]
        self.processes.append(subprocess.Popen(command, cwd=self.folder, env=self.environment, stdout=log, stderr=log))

    def close(self):
        for process in reversed(self.processes):
            process.terminate()
        # Workers outlive their controller, as they should.
        for record in pathlib.Path(self.folder).glob("state/instances/*"):
            try:
                os.kill(json.loads(record.read_text())["process"]["pid"], signal.SIGTERM)
            except (ValueError, KeyError, TypeError, OSError):
                pass
        for process in self.processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def until_nobody_is_there(self):
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with open(self.folder + "/state/status.json") as file:
                pools = json.load(file)["pools"]
            if all(instance["state"] in ("stopped", "drained") for pool in pools for instance in pool["instances"]):
                return
            time.sleep(0.2)
        sys.exit("the fleet did not go")

    def ask(self, method, path, body=None):
        connection = http.client.HTTPConnection(self.host, int(self.port), timeout=60)
        headers = {"Accept": "application/json", **({"Content-Type": "image/bmp"} if body else {})}
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        return answer.status, answer.headers, json.loads(text)


class Client(threading.Thread):
    """Uploads one image at its time and comes back as it is told."""

    def __init__(self, service, number, at):
        super().__init__(daemon=True)
        self.service, self.number, self.at = service, number, at
        self.said, self.ended = [], None

    def run(self):
        time.sleep(max(self.at - time.time(), 0))
        status, headers, answer = self.service.ask("POST", "/upload?wait=0", picture(self.number))
        while status == 202:
            announced = int(headers["Retry-After"])
            self.said.append((time.time(), announced, answer["eta_s"]))
            time.sleep(announced)
            status, headers, answer = self.service.ask("GET", answer["location"])
        if status == 200:
            self.ended = float(answer["label"])

    def ratios(self):
        for at, announced, eta_s in self.said:
            remaining = self.ended - at
            if remaining > 0:
                yield announced, eta_s, remaining, at


def measure(service, number, count, spread_s, dump=False):
    began = time.time() + 0.2
    clients = [Client(service, number + n, began + spread_s * n) for n in range(count)]
    for client in clients:
        client.start()
    for client in clients:
        client.join(600)
    lost = [client for client in clients if client.ended is None]
    if lost:
        print(f"  {len(lost)} got no result")
    if dump:
        for client in clients:
            said = [f"{at - began:.2f}: {eta} of {(client.ended or 0) - at:.2f}" for at, _, eta in client.said]
            print(f"  job {client.number - number}, ended {(client.ended or 0) - began:.2f}; {'; '.join(said)}")
    pairs = [pair for client in clients if client.ended for pair in client.ratios()]
    rising = sum(
        1 for client in clients for (t, _, a), (u, _, b) in zip(client.said, client.said[1:]) if u + b > t + a + max(1.0, 0.5 * a)
    )
    return pairs, rising


def show(what, pairs, rising):
    def share(said, of=pairs):
        right = sum(RIGHT[0] <= said(pair) / pair[2] <= RIGHT[1] for pair in of)
        return 100 * right / max(len(of), 1)

    def header(pair):
        return pair[0]

    def eta(pair):
        return pair[1]

    whole = [pair for pair in pairs if pair[2] >= 1]
    print(
        f"{what:<40} {len(pairs):>4} announcements, right: eta_s {share(eta):3.0f} %, Retry-After {share(header):3.0f} % "
        f"({share(header, whole):3.0f} % of those of a second or more); {rising} were put off",
        flush=True,
    )


class Known:
    """All announcements of which something can be known."""

    def __init__(self):
        self.pairs, self.rising = [], 0

    def show(self, what, pairs, rising):
        self.pairs += pairs
        self.rising += rising
        show(what, pairs, rising)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binaries", type=lambda path: pathlib.Path(path).resolve(), default=ROOT / "target/release")
    parser.add_argument("--service", default="0.05,1,5", help="seconds that jobs take")
    parser.add_argument("--workers", default="1,3")
    parser.add_argument("--jobs", type=int, help="how many at once, instead of a number that fits the service")
    parser.add_argument("--controller", choices=["without", "with", "both"], default="both", help="who starts the workers")
    parser.add_argument("--dump", action="store_true", help="show each announcement")
    arguments = parser.parse_args()
    number, known = 1, Known()
    for service_s in map(float, arguments.service.split(",")):
        for workers in map(int, arguments.workers.split(",")):
            for controller in {"without": (False,), "with": (True,), "both": (False, True)}[arguments.controller]:
                service = Service(arguments.binaries, service_s, workers, controller)
                try:
                    count = arguments.jobs or min(max(int(workers * 12 / service_s), 8), 200)
                    who = f"{service_s} s, {workers} workers{', from zero' if controller else ''}"
                    # Of the first jobs of all, nobody knows how long they take.
                    show(f"{who}, unknown, at once", *measure(service, number, count, 0, arguments.dump))
                    number += count
                    known.show(f"{who}, known, at once", *measure(service, number, count, 0, arguments.dump))
                    number += count
                    if controller:
                        service.until_nobody_is_there()
                        known.show(f"{who}, cold, at once", *measure(service, number, count, 0, arguments.dump))
                        number += count
                    known.show(f"{who}, steadily", *measure(service, number, count, service_s / workers * 0.8, arguments.dump))
                    number += count
                finally:
                    service.close()
    show("all of these but the unknown", known.pairs, known.rising)


if __name__ == "__main__":
    main()
