"""A step's work on the device, recorded once as a CUDA graph and replayed once a batch.

Launching patchnet's 381 kernels takes a host longer than a GPU needs to run them. What changes from step to step, such
as the learning rate, is in device memory, where the recorded kernels read it. On a CPU, which has no graphs, the same
work runs call by call: so tests cover all but the recording.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch

Tensors = tuple[torch.Tensor, ...]
# Before recording: libraries pick their kernels and allocate; torch's own advice for graphs.
_WARM_UP_CALLS = 3


class StepGraph:
    """Runs ``work`` on batches of one form.

    Args:
        work: (x, y, values) -> results, all on the device, without a look at any of it from the host; values are
            0-dimensional float32 tensors.
        x, y: a batch, whose form every later one must have.
        count: of values.
        state: every tensor that ``work`` changes; asked for again after the first calls, which may make more. New ones
            must be made of zeros.
    """

    def __init__(
        self,
        work: Callable[[torch.Tensor, torch.Tensor, list[torch.Tensor]], Tensors],
        x: torch.Tensor,
        y: torch.Tensor,
        count: int,
        state: Callable[[], Iterable[torch.Tensor]],
    ) -> None:
        # As densely and in the same order as x: channels-last stays so.
        self._x, self._y = torch.empty_like(x), torch.empty_like(y)
        self._values = list(torch.zeros(count, device=x.device).unbind())
        self._run = lambda: work(self._x, self._y, self._values)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._results: Tensors = ()
        if x.is_cuda:
            self._x.copy_(x)
            self._y.copy_(y)
            self._record(state)

    def fits(self, x: torch.Tensor, y: torch.Tensor) -> bool:
        """Whether a batch has the form that was recorded."""
        return x.shape == self._x.shape and x.dtype == self._x.dtype and y.shape == self._y.shape

    def __call__(self, x: torch.Tensor, y: torch.Tensor, values: Iterable[float]) -> Tensors:
        """Do the work on a batch; results are the caller's own. Nothing waits for the device."""
        self._x.copy_(x)
        self._y.copy_(y)
        for tensor, value in zip(self._values, values, strict=True):
            tensor.fill_(value)  # the number travels in the launch: nothing to keep, or to wait for
        if self._graph is None:
            return self._run()
        self._graph.replay()
        return tuple(result.clone() for result in self._results)

    def _record(self, state: Callable[[], Iterable[torch.Tensor]]) -> None:
        device = self._x.device
        beside = torch.cuda.Stream(device)
        beside.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(beside), unchanged(state, device):
            for _ in range(_WARM_UP_CALLS):
                self._run()
        torch.cuda.current_stream(device).wait_stream(beside)
        self._graph = torch.cuda.CUDAGraph()
        # Other threads, of DALI and of the feeder, go on allocating meanwhile: that is no part of the recording.
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._results = self._run()


@contextmanager
def unchanged(state: Callable[[], Iterable[torch.Tensor]], device: torch.device) -> Iterator[None]:
    """Put back behind the block what it changes in ``state`` and in the random numbers; what is new becomes 0."""
    before = {id(tensor): (tensor, tensor.detach().clone()) for tensor in state()}
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield
    with torch.no_grad():
        for tensor in state():
            if id(tensor) in before:
                tensor.copy_(before[id(tensor)][1])
            else:
                tensor.zero_()
