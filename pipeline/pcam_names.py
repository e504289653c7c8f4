"""What PatchCamelyon's files are called."""

import re
from collections.abc import Iterable

SPLITS = ("train", "valid", "test")
PATTERN = re.compile(r"camelyonpatch_level_2_split_(train|valid|test)_([xy])\.h5(\.gz)?")


def file_name(split: str, kind: str) -> str:
    """Of ``kind`` x (patches), y (labels) or meta (slides)."""
    return f"camelyonpatch_level_2_split_{split}_{kind}.{'csv' if kind == 'meta' else 'h5'}"


def is_pcam(names: Iterable[str]) -> bool:
    """Whether patches or labels of PatchCamelyon are among files of these names."""
    return any(PATTERN.fullmatch(name) for name in names)
