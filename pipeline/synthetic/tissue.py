"""An image model of H&E-stained lymph node: seeded random tissue, as RGB patches with their tumour masks.

Light passes two stains: a pixel is ``white * exp(-(h * H + e * E))``, with H and E near the stain vectors of
Macenko et al. ("A method for normalizing histology slides for quantitative analysis", ISBI 2009) and h, e the
amounts of haematoxylin and eosin. Tissue is painted as these two amounts: smooth fields for the ground, and
cells stamped over it from a library drawn afresh for each slide. One pixel is about 0.97 um, as in PCam.

The model is not anatomy. It is there to look enough like the real patches, and be hard enough, that a
pipeline or a network which fails on it is broken; a score on it says nothing about real tissue. Its numbers
were set by eye beside real patches, and by what colour moments and a small network can learn from it.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from pipeline.synthetic.cells import FIBROBLAST, HISTIOCYTE, LYMPHOCYTE, TUMOUR, Cell, draw_cells, ramp, smooth_field

HAEMATOXYLIN = (0.5626, 0.7201, 0.4062)  # optical density in R, G, B of a unit amount (Macenko et al.)
EOSIN = (0.2159, 0.8012, 0.5581)

MIN_SIZE = 48  # px; below it a slide's smallest tumour cell may not fit beside the central third
SMALL_REACH = 8  # px beyond the patch's border where lymphocytes and fibroblasts still have their middle
LARGE_REACH = 16  # and larger cells
MARGIN = LARGE_REACH + 24  # px of canvas around a patch: room for half of the largest cell there
BLUR_REACH = 2  # px; the blur is a 3 x 3 kernel applied so many times
FAT_SHARE = 0.08  # of the patches
PLAIN_SHARE = 0.20  # of the patches without tumour: no histiocytes either
WALL_WIDTH = 1.5  # px, of fat cells
INFILTRATES = (0.02, 0.06, 0.25)  # share of a cluster's places that lymphocytes take
FIBROBLAST_SHARE = 0.14  # of the places in stroma
LARGE_SPACING = (11.5, 15.5)  # px between neighbouring tumour cells or histiocytes


class Scene(IntEnum):
    """What a patch is drawn to show. Only POSITIVE has tumour in the central third."""

    POSITIVE = 0
    NEAR_MISS = 1  # tumour, all of it outside the central third
    NEGATIVE = 2  # no tumour


@dataclass(frozen=True)
class Slide:
    """What the patches of one slide have in common: stain, scanner and the cells."""

    stain: np.ndarray
    """float32 [2, 3]: optical density in R, G, B of a unit of haematoxylin and of eosin."""
    white: np.ndarray
    """float32 [3]: the light without tissue, 0..255."""
    blur: float
    """Weight of each neighbour in the blur's kernel along an axis; 0 is sharp."""
    noise: float
    """Half the width of the uniform noise, in levels of 255."""
    spacing: float
    """px between neighbouring lymphocytes."""
    fibrosis: float
    """0..1, tendency to stroma."""
    lymphocytes: tuple[Cell, ...]
    fibroblasts: tuple[Cell, ...]
    histiocytes: tuple[Cell, ...]
    tumour: tuple[Cell, ...]


def draw_slide(rng: np.random.Generator) -> Slide:
    """A random slide. The same generator state gives the same slide."""
    vectors = np.array([HAEMATOXYLIN, EOSIN]) + rng.normal(0, 0.04, (2, 3))
    strength = np.exp(rng.normal(0, (0.20, 0.28)))
    grade = np.exp(rng.normal(0, 0.06))  # tumours differ in the size of their nuclei from patient to patient
    return Slide(
        stain=(vectors.clip(0.05) * strength[:, None]).astype(np.float32),
        white=(rng.uniform(242, 253) + rng.uniform(-3, 3, 3)).astype(np.float32),
        blur=rng.uniform(0.02, 0.22),
        noise=rng.uniform(2.0, 9.0),
        spacing=rng.uniform(7.0, 8.8),
        fibrosis=rng.uniform(0, 1),
        lymphocytes=draw_cells(rng, LYMPHOCYTE),
        fibroblasts=draw_cells(rng, FIBROBLAST),
        histiocytes=draw_cells(rng, HISTIOCYTE),
        tumour=draw_cells(rng, TUMOUR, grade),
    )


def central_third(size: int) -> slice:
    """The rows (and columns) of the central third: 32 to 64 for a patch of 96 pixels."""
    third = size // 3
    start = (size - third) // 2
    return slice(start, start + third)


def draw_patches(
    rng: np.random.Generator, slide: Slide, scenes: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draw one patch of ``size`` px (at least MIN_SIZE) for each of ``scenes`` (int [N] of Scene).

    Returns ``patches_u8`` uint8 [N, size, size, 3] and ``tumour`` bool [N, size, size], the pixels of tumour
    cells: some in the central third of a POSITIVE patch, some outside it but none in it in a NEAR_MISS, and
    none at all in a NEGATIVE.
    """
    inner = slice(MARGIN - BLUR_REACH, -(MARGIN - BLUR_REACH))
    stains = np.zeros((len(scenes), 2, size + 2 * MARGIN, size + 2 * MARGIN), np.float32)
    region = _draw_ground(rng, slide, scenes, stains[:, :, inner, inner])
    region = region[:, BLUR_REACH:-BLUR_REACH, BLUR_REACH:-BLUR_REACH]
    tumour = np.zeros((len(scenes), size + 2 * MARGIN, size + 2 * MARGIN), bool)
    for i, scene in enumerate(scenes):
        _stamp_cells(rng, slide, Scene(scene), region[i], (stains[i], tumour[i]))
    patches_u8 = _develop(rng, slide, stains[:, :, inner, inner])
    return patches_u8, tumour[:, MARGIN:-MARGIN, MARGIN:-MARGIN]


# ---- the ground: smooth fields of stain, and which tissue lies where ----

LYMPHOID, STROMA, LUMEN, CLUSTER = range(4)  # values of a region map


def _draw_ground(rng: np.random.Generator, slide: Slide, scenes: np.ndarray, stains: np.ndarray) -> np.ndarray:
    """Fill ``stains`` float32 [N, 2, S, S] with what lies between the cells; region maps uint8 [N, S, S]."""
    n, size = len(scenes), stains.shape[-1]
    wide, fine = smooth_field(rng, n, size, 30), smooth_field(rng, n, size, 3)
    lumen_field = smooth_field(rng, n, size, 26)
    y, x = np.mgrid[:size, :size].astype(np.float32)

    def per_patch(low: float, high: float) -> np.ndarray:
        return rng.uniform(low, high, (n, 1, 1)).astype(np.float32)

    # Fibres run at one angle in a patch, bent by the wide field.
    angle, wavenumber = per_patch(0, np.pi), 2 * np.pi / per_patch(5, 11)
    fibres = x * (np.cos(angle) * wavenumber) + y * (np.sin(angle) * wavenumber)
    fibres += (9 * wide + 1.5 * fine) * wavenumber
    stroma = ramp(4 * wide + (per_patch(-8.8, 3.6) + np.float32(4 * slide.fibrosis)))
    lumen = ramp(9 * lumen_field + per_patch(-32, -4))
    for i in np.flatnonzero(rng.random(n) < FAT_SHARE):
        np.maximum(lumen[i], _draw_fat(rng, size, y, x), out=lumen[i])

    cluster = _cluster_mask(rng, scenes, wide + 0.4 * fine, y, x)
    haematoxylin, eosin = stains[:, 0], stains[:, 1]
    haematoxylin[:] = 0.15 + 0.07 * fine + 0.04 * wide
    eosin[:] = 0.28 + 0.06 * wide + 0.10 * fine + 0.08 * cluster + stroma * (0.25 + 0.16 * np.sin(fibres))
    stains.clip(0, out=stains)
    stains *= (1 - np.float32(0.97) * lumen)[:, None]
    region = np.full(stroma.shape, LYMPHOID, np.uint8)
    region[stroma > 0.5] = STROMA
    region[cluster] = CLUSTER
    region[lumen > 0.35] = LUMEN
    return region


def _draw_fat(rng: np.random.Generator, size: int, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Fat cells, which the solvents have emptied: float32 [size, size], 1 inside and 0 in the walls."""
    holes = rng.uniform(-10, size + 10, (2, 9, 1, 1)).astype(np.float32)
    radius = rng.uniform(14, 30, (9, 1, 1)).astype(np.float32)
    inside = radius - np.sqrt((y - holes[0]) ** 2 + (x - holes[1]) ** 2)
    nearest, second = np.maximum(inside[0], inside[1]), np.minimum(inside[0], inside[1])
    for one in inside[2:]:
        second = np.maximum(second, np.minimum(nearest, one))
        nearest = np.maximum(nearest, one)
    wall = nearest - second.clip(0)  # small where two cells meet
    return np.minimum(ramp(nearest), ramp(wall - WALL_WIDTH))


def _cluster_mask(
    rng: np.random.Generator, scenes: np.ndarray, ragged: np.ndarray, y: np.ndarray, x: np.ndarray
) -> np.ndarray:
    """Where pale large cells gather (tumour, or histiocytes in a negative): bool [N, size, size].

    Their geometry is drawn alike for positives and negatives, so that neither area nor place gives the label
    away. A near miss has the central third cut out of a cluster that is larger.
    """
    near_miss = (scenes == Scene.NEAR_MISS)[:, None, None]
    n, size = len(scenes), len(y)
    radius = (rng.uniform(0.16, 0.75, (n, 1, 1)) + 0.2 * near_miss).astype(np.float32) * size
    centre = rng.uniform(0.2, 0.8, (2, n, 1, 1)).astype(np.float32) * size
    distance = np.sqrt((y - centre[0]) ** 2 + (x - centre[1]) ** 2)
    to_middle = np.maximum(abs(y - size / 2), abs(x - size / 2))
    cut = near_miss & (to_middle + 4 * ragged < size / 6 + 8)
    plain = (scenes == Scene.NEGATIVE) & (rng.random(n) < PLAIN_SHARE)
    return (distance + 5 * ragged < radius) & ~cut & ~plain[:, None, None]


# ---- cells ----


def _scatter(rng: np.random.Generator, size: int, spacing: float, reach: int) -> np.ndarray:
    """A jittered hexagonal grid, int [n, 2] of (y, x), over the patch and ``reach`` px beyond."""
    rows = np.arange(-reach, size + reach, spacing * 0.87)
    columns = np.arange(-reach, size + reach, spacing)
    y, x = np.meshgrid(rows, columns, indexing="ij")
    x[1::2] += spacing / 2
    points = np.stack([y.ravel(), x.ravel()], 1) + rng.uniform(-0.5, 0.5, 2) * spacing
    points += rng.uniform(-0.28, 0.28, points.shape) * spacing
    points = np.rint(points).astype(int)
    return points[((points >= -reach) & (points < size + reach)).all(1)]


def _stamp_cells(
    rng: np.random.Generator, slide: Slide, scene: Scene, region: np.ndarray, canvas: tuple[np.ndarray, np.ndarray]
) -> None:
    """Paint a patch's cells onto ``canvas``: stains [2, C, C] and tumour mask [C, C], C = S + 2 MARGIN."""
    size, (stains, tumour) = len(region), canvas

    def tissue_at(points: np.ndarray) -> np.ndarray:
        y, x = points.clip(0, size - 1).T
        return region[y, x]

    points = _scatter(rng, size, slide.spacing, SMALL_REACH)
    tissue = tissue_at(points)
    chance = rng.random(len(points))
    density, infiltrate = rng.uniform(0.55, 1.0), rng.choice(INFILTRATES)
    share = np.zeros(4)  # of the places that a lymphocyte takes, by tissue
    share[[LYMPHOID, STROMA, CLUSTER]] = density, infiltrate / 2, infiltrate
    for y, x, cell in _choose(rng, slide.lymphocytes, points[chance < share[tissue]]):
        _stamp(stains, cell, y, x)
    elongated = (tissue == STROMA) & (chance > 1 - FIBROBLAST_SHARE)
    for y, x, cell in _choose(rng, slide.fibroblasts, points[elongated]):
        _stamp(stains, cell, y, x)

    points = _scatter(rng, size, rng.uniform(*LARGE_SPACING), LARGE_REACH)
    points = points[(tissue_at(points) == CLUSTER) & (rng.random(len(points)) < 0.92)]
    if scene is Scene.NEGATIVE:
        for y, x, cell in _choose(rng, slide.histiocytes, points):
            _stamp(stains, cell, y, x)
        return
    chosen = _choose(rng, slide.tumour, points)
    chosen.append(_certain_cell(rng, slide, scene, size))
    centre = central_third(size)
    for y, x, cell in chosen:
        touches = all(centre.start - cell.half <= at < centre.stop + cell.half for at in (y, x))
        if scene is Scene.NEAR_MISS and touches:
            _stamp(stains, slide.lymphocytes[0], y, x)
        else:
            _stamp(stains, cell, y, x)
            top, left = y + MARGIN - cell.half, x + MARGIN - cell.half
            tumour[top : top + len(cell.keep), left : left + len(cell.keep)] |= cell.inside


def _certain_cell(rng: np.random.Generator, slide: Slide, scene: Scene, size: int) -> tuple[int, int, Cell]:
    """A tumour cell that makes sure of the scene, wherever the clusters lie."""
    centre = central_third(size)
    if scene is Scene.POSITIVE:
        y, x = rng.integers(centre.start, centre.stop, 2).tolist()
        return y, x, slide.tumour[rng.integers(len(slide.tumour))]
    cell = min(slide.tumour, key=lambda one: one.half)
    y, x = int(rng.integers(0, centre.start - cell.half)), int(rng.integers(0, size))
    if rng.random() < 0.5:
        y = size - 1 - y
    return (x, y, cell) if rng.random() < 0.5 else (y, x, cell)


def _choose(rng: np.random.Generator, cells: tuple[Cell, ...], points: np.ndarray) -> list[tuple[int, int, Cell]]:
    """A random cell for each of ``points`` int [n, 2]: (y, x, cell)."""
    kinds = rng.integers(0, len(cells), len(points)).tolist()
    return [(y, x, cells[k]) for (y, x), k in zip(points.tolist(), kinds, strict=True)]


def _stamp(stains: np.ndarray, cell: Cell, y: int, x: int) -> None:
    """Some 120 times a patch, half of the drawing's time: two in-place operations on a small view."""
    low, high = MARGIN - cell.half, MARGIN + cell.half + 1
    under = stains[:, y + low : y + high, x + low : x + high]
    under *= cell.keep
    under += cell.add


# ---- from stain to light ----


def _develop(rng: np.random.Generator, slide: Slide, stains: np.ndarray) -> np.ndarray:
    """Blur the stain [N, 2, S + 2 BLUR_REACH, ...], let light through and add noise: uint8 [N, S, S, 3]."""
    side, middle = np.float32(slide.blur), np.float32(1 - 2 * slide.blur)
    for _ in range(BLUR_REACH):
        stains = side * (stains[:, :, :-2] + stains[:, :, 2:]) + middle * stains[:, :, 1:-1]
        stains = side * (stains[..., :-2] + stains[..., 2:]) + middle * stains[..., 1:-1]
    haematoxylin, eosin = stains[:, 0], stains[:, 1]
    patches_u8 = np.empty((*haematoxylin.shape, 3), np.uint8)
    for channel in range(3):
        light = haematoxylin * -slide.stain[0, channel]
        light -= eosin * slide.stain[1, channel]
        np.exp(light, out=light)
        light *= slide.white[channel]
        light += rng.integers(0, 256, light.shape, np.uint8) * np.float32(slide.noise / 127.5)
        light += np.float32(0.5 - slide.noise)  # the noise around zero; and so that cutting to uint8 rounds
        patches_u8[..., channel] = light.clip(0, 255, out=light)
    return patches_u8
