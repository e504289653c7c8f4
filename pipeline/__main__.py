"""python -m pipeline pack | synth | verify | convert | groups | check-submission: jobs on the data set itself."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from pipeline.settings import InputSettings, OnBad
from system.advice import command
from system.command import leave, run_command
from system.errors import UserError
from system.files import replaceable, require_writable, write_csv

if TYPE_CHECKING:  # what is heavy is imported once it is needed: a mistake is told before, at once
    from pipeline.data.patches import PatchTable


@dataclass(frozen=True)
class Pack:
    """Decode every patch once into one file per split, which then loads at memory speed."""

    data_dir: Path
    """Kaggle's folder or .zip, or a folder of PatchCamelyon's HDF5 files; it is only read."""
    out: Annotated[Path, tyro.conf.arg(aliases=["--cache-dir"])] = Path("cache")
    """Folder for the packed files: what train.py and predict.py take as --cache-dir."""
    workers: int = 0
    """Threads; 0 takes every core."""
    verify_ids: bool = False
    """Also check that each id is the SHA-1 of its pixels, as in Kaggle's data."""
    on_bad: OnBad = "error"
    """error: stop and list the bad files; skip: leave them out, which the packed file then says."""

    def run(self) -> None:
        from pipeline.sources.left_out import usable

        settings = InputSettings(source="packed", workers=self.workers)
        for listed in _tables(self.data_dir, self.out, skip_missing=True):
            from pipeline.open import open_source  # with torch

            table = usable(listed, self.on_bad, threads=settings.threads, cache_dir=self.out)
            open_source(table, settings, device="cpu", cache_dir=self.out, verify_ids=self.verify_ids)


@dataclass(frozen=True)
class Verify:
    """Check that each id is the SHA-1 of its patch's pixels, as in Kaggle's data: proves a whole download.

    PatchCamelyon's files are held against the published checksums. With --packs, packed files are held against the
    images that they were made from. A start alone checks a packed file against its own checksums, and the images'
    names, sizes and times of change; it cannot see an image that was changed in place with these kept.
    """

    data_dir: Path
    """Kaggle's folder or .zip, or a folder of PatchCamelyon's HDF5 files; it is only read."""
    cache_dir: Path = Path("cache")
    """Where packed files lie; a .zip is packed there first."""
    workers: int = 0
    """Threads; 0 takes every core."""
    packs: bool = False
    """Instead compare the packed files in --cache-dir, pixel for pixel, with the images; whatever the ids are."""

    def run(self) -> None:
        if self.packs:
            self._hold_packs()
            return
        for table in _tables(self.data_dir, self.cache_dir):
            from pipeline.open import open_source  # with torch

            settings = InputSettings(workers=self.workers)
            open_source(table, settings, device="cpu", cache_dir=self.cache_dir, verify_ids=True)
            print(f"{table.split}: all {len(table):,} ids are the SHA-1 of their pixels")
            if table.layout == "kaggle" and any(self.cache_dir.glob(f"{table.split}-*.packed")):
                print(f"{table.split}: a packed file stands for the images; --packs holds it against them")
        if table.layout == "pcam":  # there the ids are made of the pixels: they prove nothing about the download
            from pipeline.pcam.folder import verify_published

            verify_published(table.store.place)

    def _hold_packs(self) -> None:
        from pipeline.sources.left_out import without
        from pipeline.sources.verify import hold_against_images
        from pipeline.storage.packfile import PackFile

        held = 0
        threads = InputSettings(workers=self.workers).threads
        for listed in _tables(self.data_dir, self.cache_dir, skip_missing=True):
            if listed.layout != "kaggle":
                raise UserError(f"{self.data_dir}: --packs is for Kaggle's images, found PatchCamelyon's files")
            for path in sorted(self.cache_dir.glob(f"{listed.split}-*.packed")):
                pack = PackFile(path)
                table = without(listed, pack.left_out)
                if pack.ids == table.ids.tolist() and table.store.fingerprint() == pack.header.fingerprint:
                    hold_against_images(pack, table, threads=threads)
                    print(f"{path}: all {len(table):,} patches are those of the images")
                    held += 1
        if not held:
            raise UserError(
                f"{self.cache_dir}: expected a packed file of {self.data_dir}, found none; make one: "
                + command("pipeline pack", "--data-dir", self.data_dir, "--out", self.cache_dir)
            )


@dataclass(frozen=True)
class Convert:
    """Write a data set anew whose images are of a kind that is refused: 16 bits, CMYK, transparent, PNG and others.

    Images that can be used are copied as they are; so are tables. Transparency goes before white, of several pages the
    first is taken.
    """

    data_dir: Path
    """Folder or .zip; it is only read."""
    out: Path
    """Folder to write; it must not exist yet."""
    white: Annotated[float | None, tyro.conf.arg(metavar="FLOAT", help_behavior_hint="(default: 65535; 1.0)")] = None
    """The value that is white in gray images of 16 bits or floating point, such as 4095 of a camera of 12 bits."""
    on_bad: OnBad = "error"
    """error: list the images that cannot be converted, and leave nothing; skip: leave them out."""
    workers: int = 0
    """Threads; 0 takes every core."""

    def run(self) -> None:
        require_writable(self.out, "--out")
        if self.white is not None and not 0 < self.white < float("inf"):
            raise UserError(f"--white {self.white}: expected a number above 0")
        from pipeline.convert import convert

        threads = InputSettings(workers=self.workers).threads
        counts = convert(self.data_dir, self.out, white=self.white, skip=self.on_bad == "skip", threads=threads)
        for how, count in counts.most_common():
            print(f"{self.out}: {count:,} {how}")


@dataclass(frozen=True)
class Synth:
    """Write a SYNTHETIC data set of H&E-like patches in Kaggle's exact layout, or in PatchCamelyon's."""

    out: Path
    """Folder to write; new or empty."""
    layout: Literal["kaggle", "pcam"] = "kaggle"
    """kaggle: TIFF files and tables; pcam: HDF5 files of train, valid and test, with their slides."""
    train: int = 4000
    """Labelled patches."""
    test: int = 500
    """Unlabelled patches, from slides that train/ has not; with --layout pcam labelled, and as many to validate on."""
    size: int = 96
    """Pixels a side."""
    seed: int = 0
    """Same seed, same bytes."""

    def run(self) -> None:
        if self.layout == "pcam":
            from pipeline.synthetic.pcam import write_pcam

            write_pcam(self.out, train=self.train, valid=self.test, test=self.test, size=self.size, seed=self.seed)
            count = f"{self.train:,} training, {self.test:,} validation and {self.test:,} test patches"
            print(f"{self.out}: {count} in PatchCamelyon's layout [SYNTHETIC]")
            return
        from pipeline.synthetic.kaggle import write_dataset

        write_dataset(self.out, train=self.train, test=self.test, size=self.size, seed=self.seed)
        print(f"{self.out}: {self.train:,} training and {self.test:,} test patches [SYNTHETIC]")


@dataclass(frozen=True)
class Groups:
    """Find the slide of each of Kaggle's training patches in PatchCamelyon, for train.py --groups.

    Both name a patch by its pixels. Only training patches are looked up, and only in PatchCamelyon's training patches.
    Not tried on the published files yet: see how many ids it finds.
    """

    pcam: Path
    """Folder with PatchCamelyon's camelyonpatch_level_2_split_train_x.h5 (or .h5.gz) and ..._train_meta.csv."""
    data_dir: Path
    """Kaggle's folder or Kaggle's .zip."""
    out: Path
    """CSV file id,wsi to write."""
    cache_dir: Path = Path("cache")
    """Where a .h5.gz is unpacked; removed afterwards."""

    def run(self) -> None:
        require_writable(replaceable(self.out).parent, "--out")
        from pipeline.dataset import open_dataset
        from pipeline.pcam.slide_map import slide_map

        table = open_dataset(
            self.data_dir, skip_missing=True, cache_dir=self.cache_dir, splits=("train",)
        ).require_train()
        if table.layout != "kaggle":
            raise UserError(
                f"{self.data_dir}: expected Kaggle's data, found PatchCamelyon's, which names its slides itself"
            )
        ids = [*table.ids.tolist(), *table.left_out]
        found = slide_map(ids, self.pcam, self.cache_dir)
        said = f"found the slide of {len(found.slides):,} of {len(ids):,} training ids in {self.pcam}"
        said += f"; {found.missing:,} not found"
        if found.ambiguous:
            said += f"; {found.ambiguous:,} are on several slides, with the same pixels, and left out"
        if not found.slides:
            raise UserError(f"{said}; are both whole, and Kaggle's ids the SHA-1 of their pixels (pipeline verify)?")
        write_csv(self.out, ("id", "wsi"), found.slides.items())
        print(said)
        if len(found.slides) < len(ids):
            print(f"train with --groups {self.out} --groups-missing alone (or leave-out)")
        print(
            f"{self.out}: {len(set(found.slides.values())):,} slides. Not tried on the published files before: check it"
        )


@dataclass(frozen=True)
class CheckSubmission:
    """Check a submission.csv made anywhere: every test id once, with a probability or label."""

    file: tyro.conf.Positional[Path]
    """The submission."""
    data_dir: Path
    """Kaggle's folder or Kaggle's .zip."""

    def run(self) -> None:
        from pipeline.data.submission import check_submission, read_submission
        from pipeline.dataset import open_dataset

        dataset = open_dataset(self.data_dir, skip_missing=True, splits=("test",))
        expected = dataset.sample_ids or dataset.require_test().ids.tolist()
        text = read_submission(self.file)
        for warning in check_submission(text, expected, where=str(self.file)):
            print(f"warning: {warning}", file=sys.stderr)
        print(f"{self.file}: valid, {len(expected):,} predictions")


Command = (
    Annotated[Pack, tyro.conf.subcommand("pack")]
    | Annotated[Synth, tyro.conf.subcommand("synth")]
    | Annotated[Verify, tyro.conf.subcommand("verify")]
    | Annotated[Convert, tyro.conf.subcommand("convert")]
    | Annotated[Groups, tyro.conf.subcommand("groups")]
    | Annotated[CheckSubmission, tyro.conf.subcommand("check-submission")]
)


def _tables(data_dir: Path, cache_dir: Path, *, skip_missing: bool = False) -> "list[PatchTable]":
    from pipeline.dataset import open_dataset

    dataset = open_dataset(data_dir, skip_missing=skip_missing, cache_dir=cache_dir)
    tables = [table for table in (dataset.train, dataset.test) if table is not None]
    for table in tables:
        print(table.describe())
    return tables


def main() -> int:
    """Entry point; returns the exit status."""
    commands = tyro.conf.OmitSubcommandPrefixes[Command]
    return run_command(lambda: tyro.cli(commands, prog="python -m pipeline", description=__doc__).run())


if __name__ == "__main__":
    leave(main())
