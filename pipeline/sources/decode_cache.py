"""What a full decode of a compressed file has shown, kept so that the next start need not decode again."""

import hashlib
import inspect
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from pathlib import Path

from pipeline.storage.stores import Stamp, Store
from pipeline.tiff import blocks, codecs, header, pillow
from pipeline.tiff import layout as layout_rules
from pipeline.tiff.layout import NeedsDecoder, NeedsPillow, StripLayout
from system.errors import UserError
from system.files import read_json, write_json

SUFFIX = ".decoded.json"
_STRIP, _BY_PILLOW = "strip", "pillow: "
Layout = StripLayout | NeedsDecoder | NeedsPillow


class DecodeCache:
    """Layouts of sound files, by their names, sizes and times of change (in a .zip: their CRC-32).

    Bad files are not kept: they are looked at again each time. What is kept is never more than a saving of time: a
    file with another size or time, a damaged file, or one made by other rules count as nothing.
    Safe in several threads.
    """

    def __init__(self, cache_dir: Path | None, split: str, store: Store, say: Callable[[str], None]) -> None:
        """Read what is kept for this split of this folder or .zip; without a ``cache_dir`` nothing is."""
        self._path, self._say = None, say
        self._kept: dict[str, str] = {}
        self._used: dict[str, str] = {}
        if cache_dir is not None:
            place = hashlib.sha256(str(store.place.resolve()).encode("utf-8", "surrogateescape")).hexdigest()
            self._path = cache_dir / f"{split}-{place[:16]}{SUFFIX}"
            self._kept = self._read(self._path)

    def get(self, stamp: Stamp) -> Layout | None:
        """The file's layout, if a file of this stamp was found sound before."""
        key = _key(stamp)
        text = self._kept.get(key)
        if text is None:
            return None
        self._used[key] = text
        offset, height, width, reason = text.split(" ", 3)
        if reason == _STRIP:
            return StripLayout(int(offset), int(height), int(width))
        if reason.startswith(_BY_PILLOW):
            return NeedsPillow(int(height), int(width), reason.removeprefix(_BY_PILLOW))
        return NeedsDecoder(int(height), int(width), reason)

    def keep(self, stamp: Stamp, layout: Layout) -> None:
        """Remember that a file was read in full and is sound."""
        offset, reason = (layout.offset, _STRIP) if isinstance(layout, StripLayout) else (0, layout.reason)
        if isinstance(layout, NeedsPillow):
            reason = _BY_PILLOW + reason
        self._used[_key(stamp)] = f"{offset} {layout.height} {layout.width} {reason}"

    def save(self) -> None:
        """Write what was found, if anything is new. Only what was asked for stays: the file does not grow for ever."""
        if self._path is None or self._used.keys() <= self._kept.keys():
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_json(self._path, {"rules": _rules(), "sound": self._used})
        except (OSError, UserError) as error:
            self._say(f"warning: {error}; the files will be checked again next time")

    def _read(self, path: Path) -> dict[str, str]:
        if not path.exists():
            return {}
        try:
            content = read_json(path, sealed=True)
        except UserError as error:
            self._say(f"warning: {error}; every file is checked again")
            return {}
        # Sealed, so it is what this class wrote, if by the same rules.
        return content["sound"] if content.get("rules") == _rules() else {}


def _key(stamp: Stamp) -> str:
    return hashlib.blake2b("\0".join(map(str, stamp)).encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


@cache
def _rules() -> str:
    """Changes with the code that judges: a stricter version must not take over what an older one let through."""
    modules = (header, layout_rules, codecs, blocks, pillow)
    sources = [Path(inspect.getfile(module)).read_bytes() for module in modules]
    return hashlib.sha256(b"\0".join([*sources, version("pillow").encode()])).hexdigest()[:16]
