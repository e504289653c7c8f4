"""Batches -> logits, with test-time augmentation over the dihedral group."""

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import nn

from models.views import mean_over_views
from training.device import Precision

# Of predict.py, by device, where neither the command line nor the tuner says another.
# 64 keeps a CPU's caches warm: 1.4 times as fast as 256. Of 2,048 patches in eight views some of torchvision's networks
# would make tensors of over 2**31 elements.
BATCH_SIZES = {"cpu": 64, "cuda": 1024}


@torch.inference_mode()
def batch_logits(
    model: nn.Module, x: torch.Tensor, *, precision: Precision, views: int = 1, batched: bool | None = None
) -> torch.Tensor:
    """Mean logit [B] float32 over the first ``views`` dihedral views of x [B, 3, H, W].

    ``batched`` runs all views of square patches as one batch: on a GPU by default, which wants large ones; a CPU
    wants its caches.
    """
    x = x if precision.name != "fp32" else x.float()
    with precision.autocast():
        return mean_over_views(model, x, views, batched=batched if batched is not None else x.is_cuda)


def predict_logits(
    models: Iterable[nn.Module],
    batches: Iterable,
    *,
    precision: Precision,
    views: int = 1,
    after_batch: Callable[[int], None] = lambda n: None,
) -> tuple[np.ndarray, np.ndarray]:
    """Logits of all batches. Each patch is decoded once, whatever the number of networks and views.

    Args:
        models: networks, on the batches' device; put into evaluation mode here.
        batches: yields (x, y, rows).
        precision: number format.
        views: 1, 2, 4 or 8 dihedral views.
        after_batch: told the number of patches of each batch, for a progress bar; may raise to stop.

    Returns:
        (rows [N] int64, logits [number of networks, N] float32), in the order of the batches. Results stay on
        the device until the end: one copy, one wait.
    """
    models = [model.eval() for model in models]
    rows, logits = [np.empty(0, np.int64)], []
    for x, _, batch_rows in batches:
        logits.append(torch.stack([batch_logits(model, x, precision=precision, views=views) for model in models]))
        rows.append(batch_rows)
        after_batch(len(batch_rows))
    found = torch.cat(logits, dim=1).cpu().numpy() if logits else np.empty((len(models), 0), np.float32)
    return np.concatenate(rows), found
