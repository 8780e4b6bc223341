"""systemctl, poweroff, shutdown, halt and reboot as an emulated instance meets them: they ask the emulator.

Called with the name it is called by, then its arguments. Standard library only, started without site-packages.
"""

import http.client
import json
import os
import sys
from urllib.parse import urlsplit


def main(name: str, arguments: list[str]) -> int:
    address = urlsplit(os.environ["EMULATOR"])
    connection = http.client.HTTPConnection(address.hostname or "127.0.0.1", address.port)
    body = json.dumps({"name": name, "arguments": arguments})
    connection.request("POST", f"/harness/instance/{os.environ['EMULATOR_INSTANCE_ID']}/system", body)
    answer = json.loads(connection.getresponse().read())
    sys.stdout.write(answer["output"])
    return int(answer["status"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
