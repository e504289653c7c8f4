"""One pass over a patch on a CPU: its dihedral view, its colours and the normalisation in a single DALI operator.

DALI's own CPU operators need three passes for that (``flip``, ``transpose``, ``coord_transform``), none of which is
vectorised: docs/LOG.md has what each costs. This is DALI's operator for compiled functions: its threads run
machine code that numba makes of the functions below. The bits are those of DALI's own operators, which take over
where numba is not installed: additions and multiplications are done in their order, and never fused.
"""

import functools
from typing import Any

import numpy as np
from nvidia.dali import types
from nvidia.dali.plugin.numba import NumbaFunction

from system.compiler import jit

# What a compiler vectorises decides the speed here. Packed RGB it cannot move about pixel by pixel: so pixels become
# one 32-bit number each, are put in place, and become three floats. And it must know that no index is below zero, of
# which Python counts from the end: hence unsigned ones. docs/LOG.md has what both gave.
_1, _2, _3 = np.uint64(1), np.uint64(2), np.uint64(3)
_BYTE, _GREEN, _BLUE = np.uint32(255), np.uint32(8), np.uint32(16)


@jit
def _join(pixels, values):
    """``values`` [3 n] uint8 -> ``pixels`` [n] uint32: red in the lowest byte, then green, then blue."""
    for j in range(np.uint64(len(pixels))):
        red, green, blue = values[_3 * j], values[_3 * j + _1], values[_3 * j + _2]
        pixels[j] = np.uint32(red) | np.uint32(green) << _GREEN | np.uint32(blue) << _BLUE


@jit
def _channels(pixel):
    red, green, blue = pixel & _BYTE, pixel >> _GREEN & _BYTE, pixel >> _BLUE
    # Signed: processors convert those to floats in one instruction.
    return np.float32(np.int32(red)), np.float32(np.int32(green)), np.float32(np.int32(blue))


@jit
def _arrange(out, pixels, view):
    """``pixels`` [H, W] uint32 in their ``view`` -> ``out`` [H, W], or [W, H] if that transposes."""
    height, width = pixels.shape
    flat = pixels.reshape(-1)
    # Where the view begins in memory, and how far apart its rows and its pixels are.
    at, row_step, step = 0, width, 1
    if view[1]:
        at, row_step = at + (height - 1) * row_step, -row_step
    if view[0]:
        at, step = at + (width - 1) * step, -step
    if view[2]:
        row_step, step = step, row_step
    for i in range(len(out)):
        row, first = out[i], np.uint64(at + i * row_step)
        if step == 1:
            for j in range(np.uint64(len(row))):
                row[j] = flat[first + j]
        elif step == -1:
            for j in range(np.uint64(len(row))):
                row[j] = flat[first - j]
        else:
            for j in range(np.uint64(len(row))):
                row[j] = flat[first + j * np.uint64(step)]


@jit
def _seen(patch, view):
    """``patch`` [H, H, 3] uint8 in its view: [H * H] uint32 as ``_join`` makes them."""
    pixels, moved = np.empty(patch.shape[:2], np.uint32), np.empty(patch.shape[:2], np.uint32)
    _join(pixels.reshape(-1), patch.reshape(-1))
    _arrange(moved, pixels, view)
    return moved.reshape(-1)


@jit
def _colour(out, pixels, colour):
    m = colour
    rr, rg, rb, r0 = m[0, 0], m[0, 1], m[0, 2], m[0, 3]
    gr, gg, gb, g0 = m[1, 0], m[1, 1], m[1, 2], m[1, 3]
    br, bg, bb, b0 = m[2, 0], m[2, 1], m[2, 2], m[2, 3]
    for j in range(np.uint64(len(pixels))):
        red, green, blue = _channels(pixels[j])
        out[_3 * j] = rr * red + rg * green + rb * blue + r0
        out[_3 * j + _1] = gr * red + gg * green + gb * blue + g0
        out[_3 * j + _2] = br * red + bg * green + bb * blue + b0


@jit
def _normalise(out, pixels, scale):
    mean_r, mean_g, mean_b = scale[0, 0], scale[0, 1], scale[0, 2]
    gain_r, gain_g, gain_b = scale[1, 0], scale[1, 1], scale[1, 2]
    for j in range(np.uint64(len(pixels))):
        red, green, blue = _channels(pixels[j])
        out[_3 * j] = (red - mean_r) * gain_r
        out[_3 * j + _1] = (green - mean_g) * gain_g
        out[_3 * j + _2] = (blue - mean_b) * gain_b


@jit
def _coloured(out, patch, view, colour):
    _colour(out.reshape(-1), _seen(patch, view), colour)


@jit
def _normalised(out, patch, view, scale):
    _normalise(out.reshape(-1), _seen(patch, view), scale)


def _keep_shape(outs, ins):
    for i in range(len(outs[0])):
        for d in range(3):
            outs[0][i][d] = ins[0][i][d]


@functools.cache  # compiling takes seconds: once a process, whatever the number of graphs
def one_pass(coloured: bool) -> Any:
    """The DALI operator. Raises whatever numba raises where it cannot compile it.

    Args:
        coloured: what the operator takes beside square patches [H, H, 3] uint8 and views [3] int32 (as in
            ``EpochPlan.view``): colours [3, 4] float32 (as in ``EpochPlan.colour``), or the mean and one over the
            standard deviation [2, 3] float32, for pixels in [0, 255].

    Returns:
        A callable for use within a pipeline: (patches, view, colour or scale) -> [H, H, 3] float32.
    """
    kernel = _coloured if coloured else _normalised

    # DALI compiles a function of its own from this one; a compiled one it does not take.
    def run(out, patch, view, parameters):
        kernel(out, patch, view, parameters)

    return NumbaFunction(
        run_fn=run,
        setup_fn=_keep_shape,
        out_types=[types.FLOAT],
        outs_ndim=[3],
        in_types=[types.UINT8, types.INT32, types.FLOAT],
        ins_ndim=[3, 1, 2],
    )
