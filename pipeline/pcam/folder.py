"""PatchCamelyon as it is published: HDF5 files and tables of slides -> the same tables of patches as Kaggle's.

https://github.com/basveeling/pcam: for each of train, valid and test ``camelyonpatch_level_2_split_<split>_x.h5``
(patches), ``..._y.h5`` (labels), either also as .h5.gz, and ``..._meta.csv`` (which slide each patch is from). A
patch's id is the SHA-1 of its pixels, as in Kaggle's data; of patches that are there several times, all but the first
have their number after it.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.data.find import PCAM_PATTERN, PCAM_SPLITS, pcam_file
from pipeline.data.image_files import SYNTHETIC_FILE, DatasetError
from pipeline.data.patches import Dataset, PatchTable
from pipeline.data.tables import read_table
from pipeline.pcam.hdf5 import GZ, md5_of, read_labels
from pipeline.pcam.pack import pack_files
from pipeline.settings import usable_cores
from pipeline.storage.packed_store import PackedStore
from pipeline.storage.stores import unreadable

LAYOUT = "pcam"
# Of the published files. valid and test are as long as each other, so that length does not tell them apart.
PUBLISHED_COUNT = {"train": 262_144, "valid": 32_768, "test": 32_768}
# Of the unpacked files, as kaiko-ai/eva checks its downloads of https://zenodo.org/records/2546921.
PUBLISHED_MD5 = {
    ("train", "x"): "01844da899645b4d6f84946d417ba453",
    ("train", "y"): "0781386bf6c2fb62d58ff18891466aca",
    ("valid", "x"): "81cf9680f1724c40673f10dc88e909b1",
    ("valid", "y"): "94d8aacc249253159ce2a2e78a86e658",
    ("test", "x"): "2614b2e6717d6356be141d9d6dbfcb7e",
    ("test", "y"): "11ed647efe9fe457a4eb45df1dba19ba",
}
# Share of patches whose label differs between y and the table of slides, above which that is of other patches.
_OTHER_PATCHES = 0.25
_TRUE = ("true", "1", "1.0")


@dataclass(frozen=True)
class PcamSplit:
    """The files of one split."""

    split: str
    """train, valid or test."""
    x: Path
    """.h5 or .h5.gz."""
    y: Path
    """Likewise."""
    meta: Path | None
    """None where there is none."""

    def slides(self, labels: np.ndarray) -> np.ndarray:
        """Slides [N] str of the patches with these labels [N]. Raises DatasetError if the table is of other patches."""
        assert self.meta is not None, "asked for where there is a table"
        slides, centre = read_meta(self.meta)
        if len(slides) != len(labels):
            raise DatasetError(
                f"{self.meta}: expected a line for each of the {len(labels):,} labels in {self.y.name}, found"
                f" {len(slides):,}; download both again"
            )
        if centre is not None and (differing := float(np.mean(centre != labels))) > _OTHER_PATCHES:
            raise DatasetError(
                f"{self.meta}: its center_tumor_patch differs from the label in {self.y.name} for {differing:.0%} of"
                " the patches; is one of them of another split?"
            )
        return slides

    def require_own(self, x: Path, patches: int, labels: int) -> None:
        """Find out whether the files belong together, once: it may read them whole.

        Args:
            x: the patches' file, unpacked.
            patches: how many it holds.
            labels: how many the labels' file holds.

        Raises:
            DatasetError: they are not as many, or a file is published as that of another split.
        """
        if patches != labels:
            raise DatasetError(
                f"{self.x}: expected a patch for each of the {labels:,} labels in {self.y.name}, found {patches:,};"
                " are both whole, and of the same split?"
            )
        if patches not in PUBLISHED_COUNT.values() or (patches, self.split) == (PUBLISHED_COUNT["train"], "train"):
            return  # no other published file is as long
        for kind, path, shown in (("y", self.y, self.y), ("x", x, self.x)):
            found = md5_of(path)
            if found == PUBLISHED_MD5[self.split, kind]:
                continue
            if owner := next((which for which, md5 in PUBLISHED_MD5.items() if md5 == found), None):
                raise DatasetError(
                    f"{shown}: holds what is published as {pcam_file(*owner)}; are the files of {self.split} and"
                    f" {owner[0]} swapped?"
                )


class PcamFolder:
    """Which of PatchCamelyon's files a folder has."""

    def __init__(self, root: Path) -> None:
        self.root = root
        try:
            self._names = {entry.name for entry in root.iterdir()}
        except OSError as error:
            raise unreadable(str(root), error) from error

    def find(self, split: str) -> PcamSplit | None:
        """The split's files; None if it has none of them. Raises DatasetError if it has one of two."""
        x, y = self._path(split, "x"), self._path(split, "y")
        if x is None and y is None:
            return None
        if x is None or y is None:
            raise self.lacking(split, "x" if x is None else "y")
        meta = pcam_file(split, "meta")
        return PcamSplit(split, x, y, self.root / meta if meta in self._names else None)

    def lacking(self, split: str, kind: str = "x") -> DatasetError:
        """The error that says that a split's file is missing."""
        has = sorted(name for name in self._names if PCAM_PATTERN.fullmatch(name))
        return DatasetError(
            f"{self.root}: expected {pcam_file(split, kind)} or {pcam_file(split, kind)}{GZ}, found neither beside"
            f" {', '.join(has)}; is the download complete?"
        )

    @property
    def synthetic(self) -> bool:
        """Whether it was generated by this project."""
        return SYNTHETIC_FILE in self._names

    def _path(self, split: str, kind: str) -> Path | None:
        name = pcam_file(split, kind)
        # Who downloads them with torchvision has both: what is unpacked already is read.
        return next((self.root / which for which in (name, name + GZ) if which in self._names), None)


def open_pcam(
    root: Path,
    *,
    splits: Collection[str],
    cache_dir: Path,
    threads: int = 0,
    progress: bool = True,
    say: Callable[[str], None] = print,
) -> Dataset:
    """Open a folder of PatchCamelyon's files; what was not packed before is packed.

    Args:
        root: the folder. It is only read.
        splits: train, test or both: what is wanted. train is the published train and valid, one after the other.
        cache_dir: where packed files are found and made.
        threads: that pack; 0 takes every core.
        progress: whether to show progress bars (on a terminal only).
        say: told what is not there and can be done without.

    Raises:
        UserError: a file is missing, damaged, swapped for another, or does not belong to the others.
    """
    folder = PcamFolder(root)
    parts = {split: folder.find(split) for split in PCAM_SPLITS}
    wanted = {"train": ("train", "valid"), "test": ("test",)}
    tables: dict[str, PatchTable | None] = dict.fromkeys(wanted)
    lacking: dict[str, str] = {}
    for name in splits:
        first = wanted[name][0]
        if parts[first] is None:
            lacking[name] = str(folder.lacking(first))
            continue
        mine = [part for split in wanted[name] if (part := parts[split]) is not None]
        tables[name] = _table(name, mine, folder, cache_dir, threads or usable_cores(), progress, say)
    if len(lacking) == len(splits):
        raise DatasetError(next(iter(lacking.values())))
    for name in lacking:
        say(f"{root}: {name} is missing: there is no {pcam_file(wanted[name][0], 'x')}")
    test = tables["test"]
    return Dataset(
        root=root,
        train=tables["train"],
        test=test,
        sample_ids=None if test is None else test.ids.tolist(),
        synthetic=folder.synthetic,
        lacking=lacking,
    )


def verify_published(root: Path, *, say: Callable[[str], None] = print) -> None:
    """Hold every file of patches and labels, unpacked, against the published checksums; ``say`` what came out.

    Raises:
        DatasetError: a split is as long as the published one and its files are others; lists them.
    """
    folder, wrong = PcamFolder(root), []
    for split in PCAM_SPLITS:
        part = folder.find(split)
        if part is None:
            continue
        count = len(read_labels(part.y))
        if count != PUBLISHED_COUNT[split]:
            say(f"{split}: {count:,} patches, {PUBLISHED_COUNT[split]:,} are published: none to hold them against")
            continue
        others = [path for kind, path in (("x", part.x), ("y", part.y)) if md5_of(path) != PUBLISHED_MD5[split, kind]]
        wrong += others
        if not others:
            say(f"{split}: patches and labels are as published")
    if wrong:
        raise DatasetError(f"not as published, by their MD5: {', '.join(map(str, wrong))}; download them again")


def _table(
    name: str,
    parts: list[PcamSplit],
    folder: PcamFolder,
    cache_dir: Path,
    threads: int,
    progress: bool,
    say: Callable[[str], None],
) -> PatchTable:
    labels = [read_labels(part.y) for part in parts]
    slides = _slides(parts, labels, say)

    def check(plain: Sequence[Path], counts: Sequence[int]) -> None:
        for part, path, count, own in zip(parts, plain, counts, labels, strict=True):
            part.require_own(path, count, len(own))

    pack = pack_files(
        [part.x for part in parts],
        name,
        cache_dir,
        beside=[part.y for part in parts],
        check=check,
        threads=threads,
        progress=progress,
    )
    starts = np.cumsum([0, *map(len, labels)])
    validation = np.repeat([part.split == "valid" for part in parts], [len(own) for own in labels])
    return PatchTable(
        split=name,
        ids=np.array(pack.ids, str),
        labels=np.concatenate(labels),
        store=PackedStore(pack, folder.root, list(zip(starts.tolist(), (str(part.x) for part in parts), strict=False))),
        synthetic=folder.synthetic,
        layout=LAYOUT,
        slides=slides,
        validation=validation if validation.any() else None,
    )


def _slides(parts: list[PcamSplit], labels: list[np.ndarray], say: Callable[[str], None]) -> np.ndarray | None:
    if lacking := [part for part in parts if part.meta is None]:
        say(f"{lacking[0].x.parent}: slides are not known: there is no {pcam_file(lacking[0].split, 'meta')}")
        return None
    return np.concatenate([part.slides(own) for part, own in zip(parts, labels, strict=True)])


def read_meta(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """A table of slides, which may have a column of line numbers before the others.

    Returns:
        (column wsi [N] str, column center_tumor_patch [N] of 0 and 1 or None where there is none).

    Raises:
        DatasetError: it cannot be read, or has no such column.
    """
    table = read_table(path, ("wsi",), ("center_tumor_patch",), error=DatasetError)
    table.require("wsi", bool, "a slide")
    tumour = table.columns.get("center_tumor_patch")
    return np.array(table["wsi"], str), None if tumour is None else np.array([t.lower() in _TRUE for t in tumour])
