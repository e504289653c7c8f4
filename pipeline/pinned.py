"""Host memory that patches are read into on their way to a GPU."""

import torch


class HostPatches:
    """Room for some patches in host memory, pinned where they go on to a GPU: copies then run beside all else."""

    def __init__(self, shape: tuple[int, ...], *, to_gpu: bool) -> None:
        """``shape`` (n, H, W, 3) of uint8."""
        self._tensor = torch.empty(shape, dtype=torch.uint8, pin_memory=to_gpu)
        self.patches_u8 = self._tensor.numpy()
        """[n, H, W, 3] uint8: the same memory."""
        self._copied = torch.cuda.Event() if to_gpu else None

    def wait(self) -> None:
        """Return once the last copy out of here is done: what is read now would overwrite it."""
        if self._copied is not None:
            self._copied.synchronize()

    def copy_to(self, out_u8: torch.Tensor) -> None:
        """Copy the first len(out_u8) patches to ``out_u8`` on a GPU, once the current stream gets there."""
        out_u8.copy_(self._tensor[: len(out_u8)], non_blocking=True)
        self._copied.record()
