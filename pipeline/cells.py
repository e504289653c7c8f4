"""The cells of the image model: how each kind looks, and a library of them drawn for a slide, ready to stamp.

Sizes are those of a microscope's image at about 0.97 um a pixel: a lymphocyte's nucleus is some 7 um
across; tumour nuclei are larger, irregular and coarse, but the two distributions overlap. Histiocytes are as
large and as pale as tumour cells, and smooth: they are what makes the task hard.
"""

from dataclasses import dataclass

import numpy as np

CYTOPLASM_COVER = 0.6  # of what lies under it: a nucleus below shows through


@dataclass(frozen=True)
class CellKind:
    """How one kind of cell is drawn. Pairs are (low, high) of a uniform draw unless said otherwise."""

    radius: tuple[float, float]
    """Of the nucleus, px: the median and the sigma of its logarithm (log-normal)."""
    radius_limits: tuple[float, float]
    """The radius is clipped to these, px."""
    elongation: tuple[float, float]
    """Long axis / short axis."""
    irregular: float
    """Largest relative size of each of the outline's waves."""
    haematoxylin: tuple[float, float]
    """Amount inside the nucleus, in units of optical density."""
    clumps: float
    """Relative contrast of the chromatin."""
    rim: float
    """How much darker the nuclear membrane is, relative to the inside."""
    nucleoli: int = 0
    """At most so many dark spots."""
    cytoplasm: tuple[float, float] = (0, 0)
    """Radius of the cell / radius of its nucleus; (0, 0) draws the nucleus alone."""
    cytoplasm_stain: tuple[float, float] = (0, 0)
    """Amounts of haematoxylin and of eosin in the cytoplasm."""
    variants: int = 16
    """Different cells of this kind in a slide's library."""


LYMPHOCYTE = CellKind(
    radius=(3.6, 0.14), radius_limits=(2.6, 6.0), elongation=(1.0, 1.35), irregular=0.05,
    haematoxylin=(1.5, 2.5), clumps=0.32, rim=0.05,
)  # fmt: skip
FIBROBLAST = CellKind(
    radius=(3.3, 0.15), radius_limits=(2.5, 4.5), elongation=(2.5, 4.5), irregular=0.06,
    haematoxylin=(1.1, 1.9), clumps=0.15, rim=0.05,
)  # fmt: skip
HISTIOCYTE = CellKind(
    radius=(5.1, 0.15), radius_limits=(3.5, 7.5), elongation=(1.1, 1.7), irregular=0.05,
    haematoxylin=(0.75, 1.5), clumps=0.20, rim=0.30, nucleoli=1,
    cytoplasm=(1.4, 1.9), cytoplasm_stain=(0.17, 0.42),
)  # fmt: skip
TUMOUR = CellKind(
    radius=(5.8, 0.22), radius_limits=(3.8, 9.5), elongation=(1.0, 1.6), irregular=0.11,
    haematoxylin=(0.65, 1.45), clumps=0.33, rim=0.30, nucleoli=3,
    cytoplasm=(1.25, 1.75), cytoplasm_stain=(0.18, 0.42),
)  # fmt: skip

NUCLEAR_EOSIN = 0.35
OUTLINE_WAVES = (2, 3, 5)  # waves around a nucleus
WOBBLE = 0.08  # relative, of the cell's outline
OFF_CENTRE = 0.15  # nuclear radii by which a nucleus may lie off its cell's middle, along each axis


@dataclass(frozen=True)
class Cell:
    """One drawn cell, ready to stamp: the ground under it becomes ``ground * keep + add``."""

    keep: np.ndarray
    """float32 [s, s], s odd: 0 where the cell covers all, 1 outside."""
    add: np.ndarray
    """float32 [2, s, s]: haematoxylin and eosin."""
    inside: np.ndarray
    """bool [s, s]: the cell's own pixels; the middle one is always among them."""
    half: int
    """s // 2: the stamp reaches so many px beyond its middle pixel."""


def draw_cells(rng: np.random.Generator, kind: CellKind, scale: float = 1.0) -> tuple[Cell, ...]:
    """A slide's library of ``kind``, its nuclei ``scale`` times the usual size."""
    median, sigma = kind.radius
    radii = (median * scale * np.exp(rng.normal(0, sigma, kind.variants))).clip(*kind.radius_limits)
    return tuple(_draw_cell(rng, kind, radius) for radius in radii)


def _draw_cell(rng: np.random.Generator, kind: CellKind, radius: float) -> Cell:
    elongation = np.sqrt(rng.uniform(*kind.elongation))
    around = rng.uniform(*kind.cytoplasm)
    nucleus_reach = elongation * (1 + kind.irregular) ** len(OUTLINE_WAVES)
    cell_reach = around * (1 + WOBBLE) + OFF_CENTRE * np.sqrt(2)
    half = int(np.ceil(radius * max(nucleus_reach, cell_reach) + 1))  # and 1 px for the soft edge and offset
    offset = rng.uniform(-0.5, 0.5, 2)
    y, x = np.mgrid[-half : half + 1, -half : half + 1].astype(np.float32) + offset[:, None, None]
    turn = rng.uniform(0, np.pi)
    u = (x * np.cos(turn) + y * np.sin(turn)) / elongation
    v = (y * np.cos(turn) - x * np.sin(turn)) * elongation
    theta, rho = np.arctan2(v, u), np.hypot(u, v)

    outline = np.full_like(rho, radius)
    for wave in OUTLINE_WAVES:
        outline *= 1 + kind.irregular * rng.uniform(-1, 1) * np.cos(wave * theta + rng.uniform(0, 2 * np.pi))
    nucleus = ramp(outline - rho)
    chromatin = 1 + kind.clumps * smooth_field(rng, 1, 2 * half + 1, 2.2)[0]
    chromatin += kind.rim * np.exp(-((rho - outline + 1) ** 2))
    for _ in range(rng.integers(0, kind.nucleoli + 1)):
        spot_u, spot_v = rng.uniform(-0.5, 0.5, 2) * radius
        chromatin += 0.9 * np.exp(-((u - spot_u) ** 2 + (v - spot_v) ** 2) / 1.3)
    nucleus_h = rng.uniform(*kind.haematoxylin) * chromatin.clip(0.2)

    cell = nucleus
    if around:
        shift = rng.uniform(-OFF_CENTRE, OFF_CENTRE, 2) * radius
        wobble = 1 + WOBBLE * np.cos(3 * theta + rng.uniform(0, 2 * np.pi))
        cell = np.maximum(ramp(radius * around * wobble - np.hypot(x - shift[0], y - shift[1])), nucleus)
    body = cell * CYTOPLASM_COVER
    body_h, body_e = np.array(kind.cytoplasm_stain) * rng.uniform(0.75, 1.25, 2)
    cover = 1 - nucleus
    body, keep = body * cover, (1 - body) * cover
    add = np.stack([body * body_h + nucleus * nucleus_h, body * body_e + nucleus * NUCLEAR_EOSIN])
    return Cell(keep.astype(np.float32), add.astype(np.float32), cell > 0.5, half)


def smooth_field(rng: np.random.Generator, n: int, size: int, cell: float) -> np.ndarray:
    """Noise of unit variance or less, with features of about ``cell`` px: float32 [n, size, size].

    Random knots with a smooth step between them; written without BLAS, whose results vary with its threads.
    """
    knots = int(size / cell) + 3
    field = rng.standard_normal((n, knots, knots), np.float32)
    at = np.arange(size, dtype=np.float32) / np.float32(cell)
    low = at.astype(int)
    t = at - low
    t *= t * (3 - 2 * t)
    columns = field[:, :, low]
    columns += (field[:, :, low + 1] - columns) * t
    rows = columns[:, low]
    rows += (columns[:, low + 1] - rows) * t[:, None]
    return rows


def ramp(value: np.ndarray) -> np.ndarray:
    """0 below -0.5, 1 above 0.5, linear between."""
    return (value + np.float32(0.5)).clip(0, 1)
