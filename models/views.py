"""The eight flips and quarter turns of a batch: the dihedral group D4, in predict.py's and the report's order."""

from __future__ import annotations

import torch
from torch import nn

# The first 1, 2, 4 and 8 views are each closed under composition. (flip left-right, flip up-down, transpose)
_FLIPS = [(h, v, t) for t in (False, True) for v in (False, True) for h in (False, True)]
TTA_VIEWS = (1, 2, 4, 8)


def dihedral_view(x: torch.Tensor, index: int) -> torch.Tensor:
    """View `index` (0 to 7; 0 is x itself) of x [B, 3, H, W]; from 4 on height and width change places."""
    horizontal, vertical, transpose = _FLIPS[index]
    dims = [dim for dim, flip in ((3, horizontal), (2, vertical)) if flip]
    x = x.flip(dims) if dims else x
    # A transposed channels-last batch is not channels-last any more.
    return x.transpose(2, 3).contiguous(memory_format=torch.channels_last) if transpose else x


def mean_over_views(model: nn.Module, x: torch.Tensor, views: int, *, batched: bool) -> torch.Tensor:
    """Mean logit [B] float32 of `model` over the first `views` views of x [B, 3, H, W].

    Logits are averaged rather than probabilities: the views are looks at one patch by one network, and a mean of
    logits is not dominated by the one view that saturates. `batched` runs all views of square patches as one batch.
    """
    seen = (dihedral_view(x, index) for index in range(views))
    if batched and x.shape[2] == x.shape[3]:
        return model(torch.cat(list(seen))).float().view(views, x.shape[0]).mean(0)
    return sum(model(view).float() for view in seen) / views
