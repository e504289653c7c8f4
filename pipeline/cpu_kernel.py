"""One pass over a patch on a CPU: its dihedral view, its colours and the normalisation in a single DALI operator.

DALI's own CPU operators need three passes for that (``flip``, ``transpose``, ``coord_transform``), none of which is
vectorised: bench/README.md has what each costs. This is DALI's operator for compiled functions: its threads run
machine code that numba makes of the functions below. The bits are those of DALI's own operators, which take over
where numba is not installed: additions and multiplications are done in their order, and never fused.
"""

import functools
from typing import Any

import numpy as np
from numba.core.errors import NumbaError
from nvidia.dali import types
from nvidia.dali.plugin.numba import NumbaFunction

from pipeline.errors import warn_once
from pipeline.jit import jit

# A pixel's three values depend on at most two neighbours to either side, in memory: colour is a row filter of five taps
# whose weights repeat with the pixels. Filters are what compilers vectorise; 3 x 3 matrices on packed RGB are not.
_TAPS = 5
_REACH = 2


@jit
def _load(row, values, at, step):
    """Copy pixels ``step`` values apart, from ``at`` on, into ``row`` [3 n] float32."""
    if step == 3:
        found = values[at : at + len(row)]
        for e in range(len(row)):
            row[e] = np.float32(found[e])
    else:
        for j in range(len(row) // 3):
            pixel = values[at : at + 3]
            place = row[3 * j : 3 * j + 3]
            place[0] = pixel[0]
            place[1] = pixel[1]
            place[2] = pixel[2]
            at += step


@jit
def _walk(height, width, view):
    """Where a view begins in memory, and how far apart its rows and its pixels are, in values."""
    row_step, step = 3 * width, 3
    at = 0
    if view[1]:
        at += (height - 1) * row_step
        row_step = -row_step
    if view[0]:
        at += (width - 1) * step
        step = -step
    if view[2]:
        return at, step, row_step
    return at, row_step, step


@jit
def _filter(out, row, weights, offset):
    w0, w1, w2, w3, w4 = weights[0], weights[1], weights[2], weights[3], weights[4]
    r1, r2, r3, r4 = row[1:], row[2:], row[3:], row[4:]
    for e in range(len(out)):
        out[e] = w0[e] * row[e] + w1[e] * r1[e] + w2[e] * r2[e] + w3[e] * r3[e] + w4[e] * r4[e] + offset[e]


@jit
def _scale(out, row, mean, gain):
    for e in range(len(out)):
        out[e] = (row[e] - mean[e]) * gain[e]


@jit
def _coloured(out, patch, view, colour):
    height, width = patch.shape[0], patch.shape[1]
    values, target, length = patch.reshape(-1), out.reshape(-1), 3 * width
    weights, offset = np.zeros((_TAPS, length), np.float32), np.empty(length, np.float32)
    for e in range(length):
        c = e % 3
        for k in range(3):
            weights[k - c + _REACH, e] = colour[c, k]
        offset[e] = colour[c, 3]
    at, row_step, step = _walk(height, width, view)
    row = np.zeros(length + 2 * _REACH, np.float32)
    for i in range(height):
        _load(row[_REACH : _REACH + length], values, at + i * row_step, step)
        _filter(target[i * length : (i + 1) * length], row, weights, offset)


@jit
def _normalised(out, patch, view, scale):
    height, width = patch.shape[0], patch.shape[1]
    values, target, length = patch.reshape(-1), out.reshape(-1), 3 * width
    mean, gain = np.empty(length, np.float32), np.empty(length, np.float32)
    for e in range(length):
        mean[e] = scale[0, e % 3]
        gain[e] = scale[1, e % 3]
    at, row_step, step = _walk(height, width, view)
    row = np.empty(length, np.float32)
    for i in range(height):
        _load(row, values, at + i * row_step, step)
        _scale(target[i * length : (i + 1) * length], row, mean, gain)


def _keep_shape(outs, ins):
    for i in range(len(outs[0])):
        for d in range(3):
            outs[0][i][d] = ins[0][i][d]


@functools.cache  # compiling takes seconds: once a process, whatever the number of graphs
def one_pass(coloured: bool) -> Any | None:
    """The DALI operator; None, with a warning, where this numba cannot compile it.

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

    try:
        return NumbaFunction(
            run_fn=run, setup_fn=_keep_shape, out_types=[types.FLOAT], outs_ndim=[3],
            in_types=[types.UINT8, types.INT32, types.FLOAT], ins_ndim=[3, 1, 2],
        )  # fmt: skip
    except NumbaError as error:
        warn_once(f"numba cannot compile the CPU's operator ({error}); DALI's own take over, slower")
        return None
