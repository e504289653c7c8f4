"""Everything random about an epoch, drawn up front from (seed, epoch).

A sample's order and augmentation are thus a pure function of (seed, epoch, sample): no source, batch size,
thread count or number of processes can change them, and resuming needs no generator state.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from pipeline.settings import AugmentSettings, Normalisation

DIHEDRAL_VIEWS = 8
# Independent random streams: adding an augmentation never shifts the draws of another.
_ORDER, _VIEW, _COLOUR, _AFFINE, _STAIN = range(5)
# Luma weights of ITU-R BT.601, the gray that saturation moves to and hue turns about.
_LUMA = np.array([0.299, 0.587, 0.114])
# Optical densities of RGB of haematoxylin and of eosin (Ruifrok & Johnston, 2001).
_HAEMATOXYLIN, _EOSIN = np.array([0.650, 0.704, 0.286]), np.array([0.072, 0.990, 0.105])


@dataclass(frozen=True)
class EpochPlan:
    """What happens to each of n samples in one epoch. Arrays are indexed by sample, not by position."""

    order: np.ndarray
    """[n] int64: sample shown at each position; a fresh permutation each epoch."""
    view: np.ndarray
    """[n, 3] int32 of 0 or 1: flip left-right, flip up-down, then transpose."""
    colour: np.ndarray
    """[n, 3, 4] float32: normalised = colour[:, :3] @ rgb + colour[:, 3], rgb in [0, 255]."""
    affine: np.ndarray
    """[n, 2, 3] float32: source (x, y) = affine @ (x, y, 1), pixels."""
    stain: np.ndarray
    """[n, 3, 4] float32: the same form as colour, on optical densities."""


def _generator(seed: int, epoch: int, stream: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, epoch, stream))))


def dihedral_index(n: int, seed: int, epoch: int) -> np.ndarray:
    """Which of the eight views each of n samples shows: [n] int64 in 0..7.

    Derandomised: in the eight epochs 8k .. 8k + 7 every sample shows every view once, in an order of its own.
    """
    block, step = divmod(epoch, DIHEDRAL_VIEWS)
    orders = _generator(seed, block, _VIEW).random((n, DIHEDRAL_VIEWS)).argsort(axis=1)
    return orders[:, step]


def view_matrices(view: np.ndarray, side: int) -> np.ndarray:
    """Views [k, 3] of square patches as maps of their pixels' centres: [k, 2, 3] float32, the form of ``affine``."""
    across, flip = view[:, 2], 1 - 2 * view[:, :2]
    matrices = np.zeros((len(view), 2, 3), np.float32)
    for axis in (0, 1):  # the source's x, then its y
        matrices[np.arange(len(view)), axis, across ^ axis] = flip[:, axis]
        matrices[:, axis, 2] = side * view[:, axis]
    return matrices


def colour_matrices(n: int, augment: AugmentSettings, norm: Normalisation, rng: np.random.Generator) -> np.ndarray:
    """Brightness, contrast, saturation, hue and the normalisation as one [n, 3, 4] float32 map of RGB in [0, 255].

    All of them are linear, so the graph runs one 3 x 3 operation per pixel instead of five.
    """
    mean, std = np.array(norm.mean), np.array(norm.std)
    brightness, contrast, saturation = (
        1 + amount * rng.uniform(-1, 1, n) for amount in (augment.brightness, augment.contrast, augment.saturation)
    )
    hue = np.deg2rad(augment.hue_deg * rng.uniform(-1, 1, n))
    gray = np.outer(np.ones(3), _LUMA)
    saturate = gray + saturation[:, None, None] * (np.eye(3) - gray)
    linear = saturate @ _rotations_about_gray(hue)
    gain = (brightness * contrast)[:, None, None]
    # brightness * (contrast * (linear @ x - mean) + mean), then (. - mean) / std
    offset = (brightness * (1 - contrast))[:, None] * mean - mean
    matrix = np.empty((n, 3, 4), np.float32)
    matrix[:, :, :3] = gain * linear / (255 * std[:, None])
    matrix[:, :, 3] = offset / std
    return matrix


def _rotations_about_gray(angle: np.ndarray) -> np.ndarray:
    """[n, 3, 3]: rotations of RGB about the gray axis by angle (radians), Rodrigues' formula."""
    axis = np.full(3, 1 / np.sqrt(3))
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    sin, cos = np.sin(angle)[:, None, None], np.cos(angle)[:, None, None]
    return cos * np.eye(3) + sin * cross + (1 - cos) * np.outer(axis, axis)


def affine_matrices(n: int, augment: AugmentSettings, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Scale, rotation and shift about the centre of a patch of ``size`` (height, width): [n, 2, 3] float32."""
    angle = np.deg2rad(augment.rotate_deg * rng.uniform(-1, 1, n))
    scale = 1 / (1 + augment.scale * rng.uniform(-1, 1, n))
    shift = augment.shift_px * rng.uniform(-1, 1, (n, 2))
    sin, cos = scale * np.sin(angle), scale * np.cos(angle)
    linear = np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2)
    centre = np.array([size[1], size[0]]) / 2
    offset = centre - linear @ centre + shift
    return np.concatenate([linear, offset[:, :, None]], axis=2).astype(np.float32)


def stain_matrices(n: int, augment: AugmentSettings, rng: np.random.Generator) -> np.ndarray:
    """Jitter of the stain concentrations as a map of RGB optical densities: [n, 3, 4] float32."""
    stains = np.stack([_HAEMATOXYLIN, _EOSIN, np.cross(_HAEMATOXYLIN, _EOSIN)])
    stains /= np.linalg.norm(stains, axis=1, keepdims=True)
    gain = 1 + augment.stain * rng.uniform(-1, 1, (n, 3))
    # A tenth of the gain's range as an additive change: backgrounds keep being nearly white.
    offset = 0.1 * augment.stain * rng.uniform(-1, 1, (n, 3))
    matrix = np.empty((n, 3, 4), np.float32)
    # density = stains.T @ concentration, hence: stains.T @ (gain * (inv(stains.T) @ density) + offset)
    matrix[:, :, :3] = stains.T @ (gain[:, :, None] * np.linalg.inv(stains.T))
    matrix[:, :, 3] = offset @ stains
    return matrix


def draw_plan(
    n: int,
    *,
    seed: int,
    epoch: int,
    augment: AugmentSettings,
    norm: Normalisation | None,
    size: tuple[int, int],
    shuffle: bool,
) -> EpochPlan:
    """Draw the epoch's plan for n samples of ``size`` (height, width).

    Without ``shuffle`` the order is 0 .. n - 1; without ``norm`` nothing is normalised, and no colour changes.
    Parts that ``augment`` leaves off are empty arrays: the graph built from the same settings never asks for them.
    """
    order = _generator(seed, epoch, _ORDER).permutation(n) if shuffle else np.arange(n)
    empty = np.empty((0, 3, 4), np.float32)
    view = np.empty((0, 3), np.int32)
    if augment.dihedral:
        index = dihedral_index(n, seed, epoch)
        view = np.stack([index & 1, index >> 1 & 1, index >> 2], axis=1).astype(np.int32)
    colour = empty
    if augment.colour and norm is not None:
        colour = colour_matrices(n, augment, norm, _generator(seed, epoch, _COLOUR))
    affine = np.empty((0, 2, 3), np.float32)
    if augment.affine:
        affine = affine_matrices(n, augment, size, _generator(seed, epoch, _AFFINE))
    stain = stain_matrices(n, augment, _generator(seed, epoch, _STAIN)) if augment.stain else empty
    return EpochPlan(order=order, view=view, colour=colour, affine=affine, stain=stain)


class PlanAhead:
    """Draws the plan of the epoch that will likely come next while the current one runs.

    Drawing Kaggle's takes a tenth of a second and more: as long as a GPU needs for tens of thousands of patches.
    """

    def __init__(self, draw: Callable[..., EpochPlan], *, ahead: bool) -> None:
        """``draw(epoch=...)`` gives the plan; ``ahead``: whether the next epoch's differs and is worth drawing."""
        self._draw, self._ahead = draw, ahead
        self._thread: ThreadPoolExecutor | None = None
        self._drawn: tuple[int, Future[EpochPlan]] | None = None

    def take(self, epoch: int) -> EpochPlan:
        """The plan of ``epoch``; begins with the one after it."""
        if self._drawn is not None and self._drawn[0] == epoch:
            plan = self._drawn[1].result()
        else:
            plan = self._draw(epoch=epoch)
        if self._ahead:
            self._thread = self._thread or ThreadPoolExecutor(1, thread_name_prefix="plan")
            self._drawn = (epoch + 1, self._thread.submit(self._draw, epoch=epoch + 1))
        return plan

    def close(self) -> None:
        """End the thread."""
        self._drawn = None
        if self._thread is not None:
            self._thread.shutdown()
            self._thread = None
