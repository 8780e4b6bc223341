"""A service that keeps nothing, to compare with: mosec with a worker that takes the image out of a form and answers a label."""

import sys

from mosec import Server, Worker


class Noop(Worker):
    def deserialize(self, data):
        # The one part of the form: behind its head, before the last boundary.
        boundary = data[: data.index(b"\r\n")]
        start = data.index(b"\r\n\r\n") + 4
        end = data.rindex(b"\r\n" + boundary)
        return memoryview(data)[start:end]

    def forward(self, image):
        return {"label": "noop", "confidence": 1.0, "bytes": len(image)}


if __name__ == "__main__":
    workers = int(sys.argv.pop(1))
    server = Server()
    server.append_worker(Noop, num=workers)
    server.run()
