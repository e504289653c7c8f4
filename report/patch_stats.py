"""Statistics over every patch of a split, in one pass through its pixels and a few hundred MB of memory."""

import hashlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache

import numpy as np

from pipeline.sources.source import PixelSource, TiffSource
from pipeline.sources.verify import iterate_pixels
from report.stain_groups import stain_directions
from system import shown

CHUNK = 64
"""Patches at a time: 64 of 96 x 96 pixels are 1.8 MB, so that the passes over them stay in the cache."""
THUMBNAIL = 8
"""Pixels a side of the block means that near-duplicates are confirmed with."""
_HASH_GRID, _HASH_SIDE = 32, 8
# A pixel of value 0 would have an infinite optical density; scikit-image sets the same bound.
_DARKEST = 1e-6


@dataclass(frozen=True)
class PatchStats:
    """What is known of the N patches of a split. Group g of the first two is class g, or all without
    labels.
    """

    histogram: np.ndarray
    """[G, 3, 256] int64: pixels by group, channel and value."""
    image_sum: np.ndarray
    """[G, H, W, 3] int64: sum of the patches of each group."""
    group_sizes: np.ndarray
    """[G] int64: patches."""
    colour: np.ndarray
    """[N, 3] float32: mean RGB, 0..1."""
    deviation: np.ndarray
    """[N] float32: standard deviation over all pixels and channels about their channel's mean, 0..1."""
    saturation: np.ndarray
    """[N] float32: mean saturation of HSV, 0..1."""
    haematoxylin: np.ndarray
    """[N] float32: mean concentration as of ``skimage.color.rgb2hed``."""
    eosin: np.ndarray
    """[N] float32: likewise."""
    darkest: np.ndarray
    """[N] uint8: lowest value of any pixel and channel."""
    brightest: np.ndarray
    """[N] uint8: highest."""
    sha1: np.ndarray
    """[N] S20: SHA-1 of the pixels. NumPy drops trailing zero bytes: ``sha1_hex`` puts them back."""
    phash: np.ndarray
    """[N] uint64: perceptual hash."""
    thumbnail: np.ndarray
    """[N, 8, 8, 3] uint8: block means."""
    stain: np.ndarray
    """[N, 9] float32: as of ``report.stain_groups.stain_directions``."""

    def __len__(self) -> int:
        return len(self.sha1)

    @property
    def brightness(self) -> np.ndarray:
        """[N] float32: mean over pixels and channels, 0..1."""
        return self.colour.mean(axis=1)

    @property
    def mean_images(self) -> np.ndarray:
        """[G, H, W, 3] float64, 0..255; NaN for a group without patches."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.image_sum / self.group_sizes[:, None, None, None]


def measure_patches(
    source: PixelSource | TiffSource, labels: np.ndarray | None, *, threads: int, name: str, progress: bool = True
) -> PatchStats:
    """Measure every patch of ``source``.

    Args:
        source: the split's pixels.
        labels: [N] of 0 and 1, or None.
        threads: threads that compute; reading has as many of its own, which mostly wait.
        name: what the progress bar says.
        progress: whether to show it (on a terminal only).

    Raises:
        UserError: an image cannot be read.
    """
    count, height, width = len(source), source.height, source.width
    groups = 1 if labels is None else 2
    of_row = np.zeros(count, np.int64) if labels is None else labels
    histogram = np.zeros((groups, 3, 256), np.int64)
    image_sum = np.zeros((groups, height, width, 3), np.int64)
    columns = {
        "colour": np.empty((count, 3), np.float32),
        "deviation": np.empty(count, np.float32),
        "saturation": np.empty(count, np.float32),
        "haematoxylin": np.empty(count, np.float32),
        "eosin": np.empty(count, np.float32),
        "darkest": np.empty(count, np.uint8),
        "brightest": np.empty(count, np.uint8),
        "sha1": np.empty(count, "S20"),
        "phash": np.empty(count, np.uint64),
        "thumbnail": np.empty((count, THUMBNAIL, THUMBNAIL, 3), np.uint8),
        "stain": np.empty((count, 9), np.float32),
    }
    chunks = iterate_pixels(source, np.arange(count), threads=threads, chunk=CHUNK)
    with shown.progress(name, count, "patches", shown=progress) as bar:
        for rows, (sums, values) in _in_threads(chunks, of_row, groups, threads):
            histogram += sums[0]
            image_sum += sums[1]
            for column, found in values.items():
                columns[column][rows] = found
            bar.update(len(rows))
    sizes = np.bincount(of_row, minlength=groups)
    return PatchStats(histogram=histogram, image_sum=image_sum, group_sizes=sizes, **columns)


def _in_threads(
    chunks: Iterator[tuple[np.ndarray, np.ndarray]], group_of_row: np.ndarray, groups: int, threads: int
) -> Iterator[tuple[np.ndarray, tuple]]:
    """Measure chunks (rows, pixels) in threads, a few at a time, in order."""
    waiting: deque[tuple[np.ndarray, Future]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for rows, patches in chunks:
            waiting.append((rows, pool.submit(measure_chunk, patches, group_of_row[rows], groups)))
            if len(waiting) > 2 * threads:
                done, future = waiting.popleft()
                yield done, future.result()
        while waiting:
            done, future = waiting.popleft()
            yield done, future.result()


def measure_chunk(
    patches_u8: np.ndarray, group: np.ndarray, groups: int
) -> tuple[tuple[np.ndarray, np.ndarray], dict[str, np.ndarray]]:
    """Measure patches [k, H, W, 3] uint8: ((histogram, image sum) of each group, {column: [k] values})."""
    k, height, width, _ = patches_u8.shape
    histogram = np.zeros((groups, 3, 256), np.int64)
    image_sum = np.zeros((groups, height, width, 3), np.int64)
    planes = np.ascontiguousarray(patches_u8.reshape(k, height * width, 3).transpose(2, 0, 1))
    # 256 counters a patch and channel give the histograms, and every moment exactly.
    counts = np.empty((k, 3, 256), np.int64)
    for channel in range(3):
        for at in range(k):
            counts[at, channel] = np.bincount(planes[channel, at], minlength=256)
    for index in range(groups):
        histogram[index] = counts[group == index].sum(axis=0)
        image_sum[index] = patches_u8[group == index].sum(axis=0, dtype=np.uint32)
    values = np.arange(256)
    mean = counts @ values / (height * width)
    variance = np.maximum(counts @ values**2 / (height * width) - mean**2, 0)
    present = counts.any(axis=1)
    highest = planes.max(axis=0)
    saturation = (highest - planes.min(axis=0)) / np.maximum(highest, 1, dtype=np.float32)
    haematoxylin, eosin = mean_stains(planes)
    gray = block_means(patches_u8, _HASH_GRID) @ np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
    return (histogram, image_sum), {
        "colour": mean / 255,
        "deviation": np.sqrt(variance.mean(axis=1)) / 255,
        "saturation": saturation.mean(axis=1),
        "haematoxylin": haematoxylin,
        "eosin": eosin,
        "darkest": present.argmax(axis=1),
        "brightest": 255 - present[:, ::-1].argmax(axis=1),
        "sha1": np.array([hashlib.sha1(patch).digest() for patch in np.ascontiguousarray(patches_u8)], "S20"),
        "phash": perceptual_hash(gray),
        "thumbnail": np.rint(block_means(patches_u8, THUMBNAIL)).astype(np.uint8),
        "stain": stain_directions(patches_u8),
    }


def mean_stains(planes_u8: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean haematoxylin and eosin [k] of patches [3, k, P] uint8.

    The same as the mean of ``skimage.color.rgb2hed`` over the pixels (Ruifrok and Johnston,
    "Quantification of histochemical staining by color deconvolution", 2001), in float32 and with a table of
    logarithms.
    """
    densities = density_table()[planes_u8]
    unmix = unmixing_matrix()
    stains = []
    for stain in range(2):
        amount = densities[0] * unmix[0, stain]
        amount += densities[1] * unmix[1, stain]
        amount += densities[2] * unmix[2, stain]
        stains.append(np.maximum(amount, 0, out=amount).mean(axis=1))
    return stains[0], stains[1]


@cache
def density_table() -> np.ndarray:
    """[256] float32: optical density of each pixel value in scikit-image's unit, in which 1e-6 has
    density 1.
    """
    intensity = np.maximum(np.arange(256) / 255, _DARKEST)
    return (np.log(intensity) / np.log(_DARKEST)).astype(np.float32)


@cache
def unmixing_matrix() -> np.ndarray:
    """[3, 3] float32: optical densities of R, G, B -> haematoxylin, eosin, DAB."""
    from skimage.color import hed_from_rgb

    return hed_from_rgb.astype(np.float32)


def block_means(patches_u8: np.ndarray, side: int) -> np.ndarray:
    """[k, H, W, 3] uint8 -> means over ``side`` x ``side`` blocks: [k, side, side, 3] float32, 0..255.

    Any H and W: blocks differ by a pixel where they do not divide, and repeat where the patch is smaller.
    """
    k, height, width, _ = patches_u8.shape
    if height % side == 0 and width % side == 0:
        y, x = height // side, width // side
        return patches_u8.reshape(k, side, y, side, x, 3).mean(axis=(2, 4), dtype=np.float32)
    top, left = np.arange(side) * height // side, np.arange(side) * width // side
    sums = np.add.reduceat(np.add.reduceat(patches_u8.astype(np.float32), top, axis=1), left, axis=2)
    tall, wide = np.maximum(np.diff([*top, height]), 1), np.maximum(np.diff([*left, width]), 1)
    return sums / (tall[:, None] * wide)[None, :, :, None]


def perceptual_hash(gray: np.ndarray) -> np.ndarray:
    """[k, 32, 32] -> [k] uint64: signs of the lowest 8 x 8 cosine frequencies about their median.

    The constant and the purely horizontal and vertical ones are left out: brightness does not change the
    hash.
    After C. Zauner, "Implementation and benchmarking of perceptual image hash functions", 2010.
    """
    from scipy.fft import dctn

    low = dctn(gray, axes=(1, 2))[:, 1 : _HASH_SIDE + 1, 1 : _HASH_SIDE + 1].reshape(len(gray), -1)
    bits = low > np.median(low, axis=1, keepdims=True)
    return np.packbits(bits, axis=1).view(">u8")[:, 0].astype(np.uint64)


def sha1_hex(digest: bytes) -> str:
    """A SHA-1 as NumPy's S20 gives it -> 40 hexadecimal digits."""
    return digest.ljust(20, b"\0").hex()
