"""Patches as image files."""

import io

import numpy as np

_MOST_OF_MAP = 0.65
"""How much of a pixel the strongest part of a map covers."""


def png(patch_u8: np.ndarray) -> bytes:
    """A patch [H, W, 3] uint8 as a PNG file's bytes, every pixel as it is."""
    return _encode(patch_u8, "PNG")


def jpeg(picture_u8: np.ndarray) -> bytes:
    """A picture [H, W, 3] uint8 as a JPEG file's bytes: an illustration, an eighth of the PNG's size."""
    return _encode(picture_u8, "JPEG", quality=88)


def under_map(patch_u8: np.ndarray, strength: np.ndarray) -> np.ndarray:
    """A patch [H, W, 3] uint8 under a map [H, W], dark where it is weak and yellow where it is strongest."""
    from matplotlib import colormaps

    of_most = (strength / max(float(strength.max()), 1e-12))[..., None]
    colours = colormaps["inferno"](of_most[..., 0])[..., :3] * 255
    covered = 0.15 + (_MOST_OF_MAP - 0.15) * of_most
    return np.rint(patch_u8 * (1 - covered) + colours * covered).astype(np.uint8)


def sheet(pictures_u8: list[np.ndarray], columns: int, gap: int = 6) -> np.ndarray:
    """Pictures [H, W, 3] uint8 of one size in rows of ``columns`` on white."""
    height, width, _ = pictures_u8[0].shape
    rows = -(-len(pictures_u8) // columns)
    found = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for at, picture in enumerate(pictures_u8):
        top, left = at // columns * (height + gap), at % columns * (width + gap)
        found[top : top + height, left : left + width] = picture
    return found


def _encode(picture_u8: np.ndarray, form: str, **options: int) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture_u8)).save(buffer, form, **options)
    return buffer.getvalue()
