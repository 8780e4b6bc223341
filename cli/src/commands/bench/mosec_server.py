"""A service that keeps nothing, to compare with: mosec, with workers that take the image out of a form and answer a label.

Arguments: WORKERS, and mosec's own. MODEL in the environment names a model; without one they answer without looking.
"""

import os
import sys

from mosec import Server, Worker


def image_of(data):
    # The one part of the form: behind its head, before the last boundary.
    boundary = data[: data.index(b"\r\n")]
    start = data.index(b"\r\n\r\n") + 4
    end = data.rindex(b"\r\n" + boundary)
    return memoryview(data)[start:end]


class Noop(Worker):
    def deserialize(self, data):
        return image_of(data)

    def forward(self, image):
        return {"label": "noop", "confidence": 1.0, "bytes": len(image)}


class Classify(Worker):
    def __init__(self):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(MODEL, options, providers=["CPUExecutionProvider"])
        [self.entry] = self.session.get_inputs()

    def deserialize(self, data):
        return image_of(data)

    def forward(self, image):
        from python_loop import prepare

        [scores] = self.session.run(None, {self.entry.name: prepare(image, self.entry.shape[-1])})
        return {"label": str(scores[0].argmax()), "confidence": float(scores[0].max())}


# mosec starts its workers by running this file again, with other arguments.
MODEL = os.environ.get("MODEL")

if __name__ == "__main__":
    workers = int(sys.argv.pop(1))
    server = Server()
    server.append_worker(Classify if MODEL else Noop, num=workers)
    server.run()
