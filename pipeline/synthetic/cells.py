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
    variants: int = 24
    """Different cells of this kind in a slide, each in eight views."""


LYMPHOCYTE = CellKind(
    radius=(3.6, 0.14),
    radius_limits=(2.6, 6.0),
    elongation=(1.0, 1.35),
    irregular=0.05,
    haematoxylin=(1.5, 2.5),
    clumps=0.32,
    rim=0.05,
)
FIBROBLAST = CellKind(
    radius=(3.3, 0.15),
    radius_limits=(2.5, 4.5),
    elongation=(2.5, 4.5),
    irregular=0.06,
    haematoxylin=(1.1, 1.9),
    clumps=0.15,
    rim=0.05,
)
HISTIOCYTE = CellKind(
    radius=(5.1, 0.15),
    radius_limits=(3.5, 7.5),
    elongation=(1.1, 1.7),
    irregular=0.05,
    haematoxylin=(0.75, 1.5),
    clumps=0.20,
    rim=0.30,
    nucleoli=1,
    cytoplasm=(1.4, 1.9),
    cytoplasm_stain=(0.17, 0.42),
)
TUMOUR = CellKind(
    radius=(5.8, 0.22),
    radius_limits=(3.8, 9.5),
    elongation=(1.0, 1.6),
    irregular=0.12,
    haematoxylin=(0.65, 1.45),
    clumps=0.36,
    rim=0.30,
    nucleoli=3,
    cytoplasm=(1.25, 1.75),
    cytoplasm_stain=(0.18, 0.42),
)

NUCLEAR_EOSIN = 0.35
CLUMP_SIZE = 2.2  # px, of chromatin
NUCLEOLUS_AREA = 1.3  # px^2, of a Gaussian spot
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
    """A slide's library of ``kind``, its nuclei ``scale`` times the usual size: in eight views each."""
    n = kind.variants

    def per_cell(low: float, high: float) -> np.ndarray:
        return rng.uniform(low, high, (n, 1, 1)).astype(np.float32)

    median, sigma = kind.radius
    radius = (median * scale * np.exp(sigma * rng.standard_normal((n, 1, 1), np.float32))).clip(*kind.radius_limits)
    elongation, around = np.sqrt(per_cell(*kind.elongation)), per_cell(*kind.cytoplasm)
    nucleus_reach = elongation * (1 + kind.irregular) ** len(OUTLINE_WAVES)
    cell_reach = around * (1 + WOBBLE) + OFF_CENTRE * np.sqrt(2)
    # and 1 px for the soft edge and the offset
    halves = np.ceil(radius * np.maximum(nucleus_reach, cell_reach) + 1).astype(int).ravel()
    half = halves.max()

    y, x = np.mgrid[-half : half + 1, -half : half + 1].astype(np.float32)[:, None]
    y, x = y + per_cell(-0.5, 0.5), x + per_cell(-0.5, 0.5)
    turn = per_cell(0, np.pi)
    u = (x * np.cos(turn) + y * np.sin(turn)) / elongation
    v = (y * np.cos(turn) - x * np.sin(turn)) * elongation
    rho = np.hypot(u, v)
    direction = (u + 1j * v) / rho.clip(1e-3)  # its k-th power is exp(i k theta): waves without trigonometry

    def wave(k: int) -> np.ndarray:
        return (direction**k * np.exp(1j * per_cell(0, 2 * np.pi))).real

    outline = np.broadcast_to(radius, rho.shape)
    for k in OUTLINE_WAVES:
        outline = outline * (1 + per_cell(-kind.irregular, kind.irregular) * wave(k))
    nucleus = ramp(outline - rho)
    chromatin = 1 + kind.clumps * smooth_field(rng, n, 2 * half + 1, CLUMP_SIZE)
    chromatin += kind.rim * np.exp(-((rho - outline + 1) ** 2))
    for _ in range(kind.nucleoli):
        spot_u, spot_v = per_cell(-0.5, 0.5) * radius, per_cell(-0.5, 0.5) * radius
        present = rng.random((n, 1, 1)) < 0.5
        chromatin += np.float32(0.9) * present * np.exp(-((u - spot_u) ** 2 + (v - spot_v) ** 2) / NUCLEOLUS_AREA)
    nucleus_h = per_cell(*kind.haematoxylin) * chromatin.clip(0.2)

    body = nucleus
    if kind.cytoplasm[1]:
        shift_y, shift_x = (per_cell(-OFF_CENTRE, OFF_CENTRE) * radius for _ in range(2))
        outer = radius * around * (1 + WOBBLE * wave(3))
        body = np.maximum(ramp(outer - np.hypot(x - shift_x, y - shift_y)), nucleus)
    cytoplasm = body * CYTOPLASM_COVER * (1 - nucleus)
    keep = (1 - body * CYTOPLASM_COVER) * (1 - nucleus)
    body_h, body_e = (amount * per_cell(0.75, 1.25) for amount in kind.cytoplasm_stain)
    add = np.stack([cytoplasm * body_h + nucleus * nucleus_h, cytoplasm * body_e + nucleus * NUCLEAR_EOSIN], 1)
    planes = np.concatenate([keep[:, None], add, body[:, None]], axis=1).astype(np.float32)
    return tuple(cell for one, h in zip(planes, halves.tolist(), strict=True) for cell in _views(one, half - h))


def _views(planes: np.ndarray, trim: int) -> list[Cell]:
    """The eight dihedral views of a cell's planes float32 [4, s, s], less ``trim`` px on each side."""
    planes = planes[:, trim : planes.shape[1] - trim, trim : planes.shape[2] - trim]
    half = planes.shape[1] // 2
    views = [flipped[:, :, ::step] for flipped in (planes, planes.swapaxes(1, 2)) for step in (1, -1)]
    copies = [np.ascontiguousarray(view[:, ::step]) for view in views for step in (1, -1)]
    return [Cell(copy[0], copy[1:3], copy[3] > 0.5, half) for copy in copies]


def smooth_field(rng: np.random.Generator, n: int, size: int, cell: float) -> np.ndarray:
    """Noise of unit variance or less, with features of about ``cell`` px: float32 [n, size, size].

    Random knots with a smooth step between them; written without BLAS, whose results vary with its threads.
    """
    knots = int(size / cell) + 3
    field = rng.standard_normal((n, knots, knots), np.float32)
    at = np.arange(size, dtype=np.float32) / np.float32(cell)
    low = at.astype(int)
    t = at - low.astype(np.float32)
    t *= t * (3 - 2 * t)
    columns = np.take(field, low, axis=2)
    step = np.take(field, low + 1, axis=2)
    step -= columns
    step *= t
    columns += step
    rows = np.take(columns, low, axis=1)
    step = np.take(columns, low + 1, axis=1)
    step -= rows
    step *= t[:, None]
    rows += step
    return rows


def ramp(value: np.ndarray) -> np.ndarray:
    """0 below -0.5, 1 above 0.5, linear between."""
    return (value + np.float32(0.5)).clip(0, 1)
