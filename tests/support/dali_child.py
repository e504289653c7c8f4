"""DALI's image decoder in a child process, so that a test survives, and sees, its crashing or hanging."""

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

BATCH_SIZE = 256
TIMEOUT_S = 60


class DecoderFailed(Exception):
    """The child raised, died or hung; what it was decoding is in the text."""


class DaliDecoder:
    def __init__(self, connection, process):
        self.connection, self.process = connection, process

    def decode(self, files: list[bytes]) -> list[np.ndarray]:
        """The images [H, W, 3] uint8 of at most BATCH_SIZE files, as one batch on the CPU."""
        self.connection.send(files)
        if not self.connection.poll(TIMEOUT_S):
            raise DecoderFailed(f"DALI hangs on one of {len(files)} files")
        try:
            answer = self.connection.recv()
        except EOFError:
            self.process.join()
            raise DecoderFailed(f"DALI died on one of {len(files)} files: exit {self.process.exitcode}") from None
        if isinstance(answer, str):
            raise DecoderFailed(answer)
        return answer


@contextmanager
def dali_decoder() -> Iterator[DaliDecoder]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    theirs.close()
    try:
        yield DaliDecoder(ours, process)
    finally:
        ours.close()
        process.join(timeout=10)
        if process.is_alive():
            process.kill()


def _serve(connection) -> None:
    """Decodes each list of files that arrives, until the other side closes or DALI raises, unusable then."""
    from nvidia.dali import fn, pipeline_def, types

    batch: list[np.ndarray] = []

    @pipeline_def(batch_size=BATCH_SIZE, num_threads=2, device_id=None, prefetch_queue_depth=1)
    def graph():
        files = fn.external_source(lambda: batch, dtype=types.UINT8, ndim=1)
        return fn.decoders.image(files, device="cpu", output_type=types.RGB)

    pipeline = graph()
    pipeline.build()
    while True:
        try:
            files = connection.recv()
        except EOFError:
            return
        batch[:] = [np.frombuffer(data, np.uint8) for data in files]
        try:
            (images,) = pipeline.run()
        except RuntimeError as error:
            connection.send(str(error))
            return
        connection.send([np.array(image) for image in images])
