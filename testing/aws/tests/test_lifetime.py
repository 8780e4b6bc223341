import http.client
import signal
import time
import unittest
from pathlib import Path

from tests.running import UBUNTU, Case, Emulator, client, until


class Lifetime(unittest.TestCase):
    def start(self, *options: str) -> Emulator:
        emulator = Emulator(*options)
        self.addCleanup(emulator.close)
        return emulator

    def test_it_ends_with_its_standard_input_with_sigterm_and_with_sigint(self) -> None:
        ends = (
            lambda each: each.stdin.close(),
            lambda each: each.terminate(),
            lambda each: each.send_signal(signal.SIGINT),
        )
        for end in ends:
            process = self.start().process
            end(process)
            self.assertEqual(process.wait(timeout=5), 0)

    def test_the_address_file_appears_complete_and_soon(self) -> None:
        begun = time.monotonic()
        emulator = self.start()
        self.assertRegex(emulator.address, r"^127\.0\.0\.1:\d+$")
        client(emulator, "sqs", ("test", "test", None)).list_queues()
        print(f"\nserves after {time.monotonic() - begun:.2f} s", end=" ")

    def test_plain_is_moto_and_no_more(self) -> None:
        emulator = self.start("--plain")
        self.assertEqual(emulator.ask("GET", "ready"), {"ready": True})
        sqs = client(emulator, "sqs", ("test", "test", None))
        url = sqs.create_queue(QueueName="q")["QueueUrl"]
        sqs.delete_queue(QueueUrl=url)
        sqs.create_queue(QueueName="q")  # the emulator would refuse the name

    def test_instances_die_with_an_emulator_that_is_killed(self) -> None:
        emulator = self.start("--fleet", "process", "--pending", "0")
        ec2 = client(emulator, "ec2", ("test", "test", None))
        script = f"#!/bin/sh\necho $$ > {emulator.folder}/pid\nsleep 1000 & sleep 1000\n"
        image = client(emulator, "ssm", ("test", "test", None)).get_parameter(Name=UBUNTU)["Parameter"]["Value"]
        ec2.run_instances(ImageId=image, MinCount=1, MaxCount=1, UserData=script)
        pid = int(until(lambda: (file := Path(emulator.folder, "pid")).exists() and file.read_text()))
        emulator.process.kill()
        until(lambda: not members(pid))


def members(group: int) -> list[str]:
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                state, _, member_of = (folder / "stat").read_text().rpartition(")")[2].split()[:3]
            except (OSError, ValueError):
                continue
            if int(member_of) == group and state != "Z":
                found.append(folder.name)
    return found


class Connections(Case):
    def test_a_connection_serves_many_calls(self) -> None:
        connection = http.client.HTTPConnection(self.emulator.address)
        self.addCleanup(connection.close)
        sockets = set()
        for path in ("/harness/ready", "/nowhere/at-all", "/harness/ready"):
            connection.request("GET", path)
            connection.getresponse().read()
            sockets.add(connection.sock)
        self.assertEqual(len(sockets), 1)
        self.assertIsNotNone(connection.sock)


if __name__ == "__main__":
    unittest.main()
