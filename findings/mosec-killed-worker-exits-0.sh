#!/bin/sh
# mosec 0.9.8: when the kernel kills the only worker process, the whole service stops and exits with status 0.
#
# A worker that the out-of-memory killer takes is the ordinary accident of a model server. mosec does not start another one: the two
# requests that were waiting get 408 after the server's time limit, the server says "gracefully shutting down" and "halted normally", and
# the process exits with 0. A unit with Restart=on-failure then leaves it stopped, because 0 is no failure; use Restart=always.
#
# Expected beforehand: a new worker process, or an exit status other than 0.
# Seen: 408 and 408, then connection refused, exit status 0.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check mosec==0.9.8
cat >"$folder/service.py" <<'PYTHON'
import time
from mosec import Server, Worker


class Sleep(Worker):
    def deserialize(self, data):
        return data

    def serialize(self, data):
        return data

    def forward(self, data):
        time.sleep(float(data))
        return b"done"


if __name__ == "__main__":
    server = Server()
    server.append_worker(Sleep, num=1)
    server.run()
PYTHON
cat >"$folder/try.py" <<'PYTHON'
import os, signal, socket, subprocess, sys, threading, time, urllib.error, urllib.request

with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    port = s.getsockname()[1]
service = subprocess.Popen(
    [sys.executable, "service.py", "--address", "127.0.0.1", "--port", str(port), "--timeout", "4000"],
    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
)


def post(seconds):
    request = urllib.request.Request(f"http://127.0.0.1:{port}/inference", data=seconds)
    try:
        return urllib.request.urlopen(request, timeout=20).status
    except urllib.error.HTTPError as e:
        return e.code
    except OSError:
        return None


deadline = time.time() + 60
while post(b"0") != 200:
    assert time.time() < deadline, "the service did not start"
    time.sleep(0.2)
children = subprocess.check_output(["ps", "-o", "pid=,args=", "--ppid", str(service.pid)], text=True).splitlines()
workers = [int(line.split()[0]) for line in children if "spawn_main" in line]
assert len(workers) == 1, children
statuses = []
threads = [threading.Thread(target=lambda: statuses.append(post(b"2"))) for _ in range(2)]
for thread in threads:
    thread.start()
time.sleep(0.5)
os.kill(workers[0], signal.SIGKILL)
for thread in threads:
    thread.join()
try:
    status = service.wait(30)
except subprocess.TimeoutExpired:
    service.kill()
    sys.exit("changed: the service goes on")
print("answers", statuses, "afterwards", post(b"0"), "exit status", status)
assert statuses == [408, 408] and status == 0, "changed"
PYTHON
cd "$folder"
venv/bin/python try.py
