"""All that happens to a batch on a GPU, in one hand-written kernel: gather, view, affine, stain, colour, normalisation.

The formulas are those of the DALI graph (``pipeline.batches.graph``), which it is tested against, and of float64 NumPy.
uint8 pixels move bit for bit; interpolated and stained ones are rounded to uint8 at the same places as in the graph.
What an augmentation level leaves out is left out of the compiled code. ``TRITON_INTERPRET=1``, set before this module
is imported, runs the kernel on a CPU, in NumPy: for tests.
"""

from dataclasses import dataclass

import numpy as np
import torch
import triton
import triton.language as tl

# One uint8 step of optical density: log((255 + 1) / (v + 1)) stays finite at black. As in the graph.
DENSITY = np.log(256 / (np.arange(256) + 1)).astype(np.float32)
# Pixels a program works on: eight a thread. Nine programs a patch of 96 x 96.
_BLOCK = 1024


@dataclass(frozen=True)
class Parameters:
    """What an epoch does to each sample, in device memory; fields that the level leaves off are None."""

    labels: torch.Tensor
    """[N] float32, by row of the source."""
    rows: torch.Tensor
    """[n] int64: sample -> row of the source."""
    view: torch.Tensor | None = None
    """[n, 3] int32, as in EpochPlan; so are the others."""
    affine: torch.Tensor | None = None
    """[n, 2, 3] float32."""
    stain: torch.Tensor | None = None
    """[n, 3, 4] float32."""
    colour: torch.Tensor | None = None
    """[n, 3, 4] float32, which normalises too."""
    scale: torch.Tensor | None = None
    """[2, 3] float32, without ``colour``: mean and 1 / standard deviation of pixels in [0, 255]; None leaves uint8."""
    density: torch.Tensor | None = None
    """[256] float32, with ``stain``: ``DENSITY``."""


@triton.jit
def _load_rgb(
    patch, y, x, flip_x, flip_y, transpose, inside, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, VIEW: tl.constexpr
):
    """The pixels at (y, x) of a patch as its view shows it: three float32 of 0 to 255."""
    if VIEW:
        from_y, from_x = tl.where(transpose != 0, x, y), tl.where(transpose != 0, y, x)
        y = tl.where(flip_y != 0, HEIGHT - 1 - from_y, from_y)
        x = tl.where(flip_x != 0, WIDTH - 1 - from_x, from_x)
    at = patch + (y * WIDTH + x) * 3
    red = tl.load(at, mask=inside, other=0).to(tl.float32)
    green = tl.load(at + 1, mask=inside, other=0).to(tl.float32)
    blue = tl.load(at + 2, mask=inside, other=0).to(tl.float32)
    return red, green, blue


@triton.jit
def _mix(a, b, c, d, right, down):
    """Linear interpolation between four neighbours, rounded to uint8's steps."""
    upper = a * (1 - right) + b * right
    lower = c * (1 - right) + d * right
    return tl.floor(upper * (1 - down) + lower * down + 0.5)


@triton.jit
def _linear(matrix, row: tl.constexpr, red, green, blue):
    """One row of a [3, 4] matrix applied to pixels, summed in the order of the graph."""
    m = matrix + 4 * row
    return tl.load(m) * red + tl.load(m + 1) * green + tl.load(m + 2) * blue + tl.load(m + 3)


@triton.jit
def _undensify(density):
    """Optical density back to 0 to 255, rounded to uint8's steps."""
    return tl.floor(tl.minimum(tl.maximum(256 * tl.exp(-density) - 0.5, 0.0), 255.0) + 0.5)


@triton.jit
def _augment(  # noqa: PLR0915  (one kernel: a launch is what costs)
    patches,
    samples,
    rows,
    labels,
    view,
    affine,
    stain,
    density,
    colour,
    scale,
    x_out,
    y_out,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    CHANNELS: tl.constexpr,
    GATHER: tl.constexpr,
    VIEW: tl.constexpr,
    AFFINE: tl.constexpr,
    STAIN: tl.constexpr,
    COLOUR: tl.constexpr,
    SCALE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    place = tl.program_id(0)
    sample = tl.load(samples + place)
    row = tl.load(rows + sample)
    if tl.program_id(1) == 0:
        tl.store(y_out + place, tl.load(labels + row))
    pixel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < HEIGHT * WIDTH
    y, x = pixel // WIDTH, pixel % WIDTH
    # 64 bits: Kaggle's patches are 6 GB.
    patch = patches + (row if GATHER else place.to(tl.int64)) * (HEIGHT * WIDTH * 3)
    flip_x, flip_y, transpose = 0, 0, 0
    if VIEW:
        flip_x, flip_y = tl.load(view + 3 * sample), tl.load(view + 3 * sample + 1)
        transpose = tl.load(view + 3 * sample + 2)
    if AFFINE:
        # Pixels have their centres at halves. Beyond the edge its pixels are repeated, as warp_affine does.
        m = affine + 6 * sample
        at_x, at_y = x.to(tl.float32) + 0.5, y.to(tl.float32) + 0.5
        from_x = tl.load(m) * at_x + tl.load(m + 1) * at_y + tl.load(m + 2) - 0.5
        from_y = tl.load(m + 3) * at_x + tl.load(m + 4) * at_y + tl.load(m + 5) - 0.5
        left, top = tl.floor(from_x), tl.floor(from_y)
        right, down = from_x - left, from_y - top
        x0, y0 = left.to(tl.int32), top.to(tl.int32)
        x1, y1 = tl.minimum(tl.maximum(x0 + 1, 0), WIDTH - 1), tl.minimum(tl.maximum(y0 + 1, 0), HEIGHT - 1)
        x0, y0 = tl.minimum(tl.maximum(x0, 0), WIDTH - 1), tl.minimum(tl.maximum(y0, 0), HEIGHT - 1)
        ra, ga, ba = _load_rgb(patch, y0, x0, flip_x, flip_y, transpose, inside, HEIGHT, WIDTH, VIEW)
        rb, gb, bb = _load_rgb(patch, y0, x1, flip_x, flip_y, transpose, inside, HEIGHT, WIDTH, VIEW)
        rc, gc, bc = _load_rgb(patch, y1, x0, flip_x, flip_y, transpose, inside, HEIGHT, WIDTH, VIEW)
        rd, gd, bd = _load_rgb(patch, y1, x1, flip_x, flip_y, transpose, inside, HEIGHT, WIDTH, VIEW)
        red = _mix(ra, rb, rc, rd, right, down)
        green = _mix(ga, gb, gc, gd, right, down)
        blue = _mix(ba, bb, bc, bd, right, down)
    else:
        red, green, blue = _load_rgb(patch, y, x, flip_x, flip_y, transpose, inside, HEIGHT, WIDTH, VIEW)
    if STAIN:
        dr = tl.load(density + red.to(tl.int32))
        dg = tl.load(density + green.to(tl.int32))
        db = tl.load(density + blue.to(tl.int32))
        m = stain + 12 * sample
        red, green = _undensify(_linear(m, 0, dr, dg, db)), _undensify(_linear(m, 1, dr, dg, db))
        blue = _undensify(_linear(m, 2, dr, dg, db))
    if COLOUR:
        m = colour + 12 * sample
        r, g = _linear(m, 0, red, green, blue), _linear(m, 1, red, green, blue)
        red, green, blue = r, g, _linear(m, 2, red, green, blue)
    elif SCALE:
        red = (red - tl.load(scale)) * tl.load(scale + 3)
        green = (green - tl.load(scale + 1)) * tl.load(scale + 4)
        blue = (blue - tl.load(scale + 2)) * tl.load(scale + 5)
    kind: tl.constexpr = x_out.dtype.element_ty
    to = x_out + (place.to(tl.int64) * (HEIGHT * WIDTH) + pixel) * CHANNELS
    tl.store(to, red.to(kind), mask=inside)
    tl.store(to + 1, green.to(kind), mask=inside)
    tl.store(to + 2, blue.to(kind), mask=inside)
    for channel in tl.static_range(3, CHANNELS):
        tl.store(to + channel, tl.zeros([BLOCK], tl.float32).to(kind), mask=inside)


def augment_into(
    x: torch.Tensor,
    y: torch.Tensor,
    patches_u8: torch.Tensor,
    samples: torch.Tensor,
    parameters: Parameters,
    *,
    gather: bool,
) -> None:
    """Write a batch, on torch's current stream; nothing waits.

    Args:
        x: [B, H, W, C] contiguous, on the device: uint8 where nothing normalises, else float16, bfloat16 or float32.
            C of 3, 4 or 8; channels behind the third become 0.
        y: [B] float32 on the device: becomes the labels.
        patches_u8: [N, H, W, 3] uint8 contiguous, on the device: all of the source's, or the batch's own.
        samples: [B] int64 on the device: which samples these are.
        parameters: what to do to each.
        gather: whether ``patches_u8`` are the source's, by row, rather than the batch's, in its order.
    """
    count, height, width, channels = x.shape
    p = parameters
    _augment[(count, -(-height * width // _BLOCK))](
        patches_u8,
        samples,
        p.rows,
        p.labels,
        p.view,
        p.affine,
        p.stain,
        p.density,
        p.colour,
        p.scale,
        x,
        y,
        HEIGHT=height,
        WIDTH=width,
        CHANNELS=channels,
        GATHER=gather,
        VIEW=p.view is not None,
        AFFINE=p.affine is not None,
        STAIN=p.stain is not None,
        COLOUR=p.colour is not None,
        SCALE=p.scale is not None,
        BLOCK=_BLOCK,
    )
