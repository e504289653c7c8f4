"""python -m bench full-size: SYNTHETIC data of Kaggle's size and byte layout; some thousand patches, repeated."""

import hashlib
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from pathlib import Path

from bench.options_more import FullSizeOptions
from pipeline.dataset import SYNTHETIC_FILE, open_dataset
from pipeline.errors import UserError
from pipeline.image_files import LABELS_FILE, SAMPLE_FILE
from pipeline.settings import usable_cores
from pipeline.synthetic import write_dataset

_FILES_A_TASK = 2_000


class FullSize(FullSizeOptions):
    """Write a data set as large as Kaggle's: files of their own, so that reading them is as much work."""

    def run(self) -> None:
        """Write them. Raises UserError where the disk refuses."""
        workers = self.workers or usable_cores()
        began = time.perf_counter()
        originals = self.out_dir.with_name(self.out_dir.name + ".distinct")
        write_dataset(originals, train=min(self.distinct, self.train), test=0, progress=False, workers=workers)
        drawn_s = time.perf_counter() - began
        table = open_dataset(originals).require_train()
        counts = {"train": self.train, "test": self.test}
        try:
            for split in counts:
                (self.out_dir / split).mkdir(parents=True)
            tasks = [
                (split, range(start, min(start + _FILES_A_TASK, count)))
                for split, count in counts.items()
                for start in range(0, count, _FILES_A_TASK)
            ]
            paths = [table.store.name(row) for row in range(len(table))]
            with ProcessPoolExecutor(workers) as pool:
                list(pool.map(_write, repeat(self.out_dir), repeat(paths), *zip(*tasks, strict=True)))
            self._write_tables(table.labels.tolist())
        except OSError as error:
            raise UserError(
                f"{error.filename or self.out_dir}: cannot be written ({error.strerror or error}); make room for "
                f"{28e-6 * (self.train + self.test):.1f} GB, or choose another folder that does not exist yet"
            ) from error
        total_s = time.perf_counter() - began
        print(
            f"{self.train + self.test:,} files in {total_s:.1f} s, of which {drawn_s:.1f} s to draw {len(table):,}"
            f" distinct ones; {self.out_dir} [SYNTHETIC]"
        )

    def _write_tables(self, labels: list[int]) -> None:
        lines = [f"{name_of('train', n)},{labels[n % len(labels)]}\n" for n in range(self.train)]
        (self.out_dir / LABELS_FILE).write_text("id,label\n" + "".join(lines))
        lines = [f"{name_of('test', n)},0\n" for n in range(self.test)]
        (self.out_dir / SAMPLE_FILE).write_text("id,label\n" + "".join(lines))
        (self.out_dir / SYNTHETIC_FILE).write_text("SYNTHETIC: the same few patches under many names\n")


def name_of(split: str, number: int) -> str:
    """The id of a repeated patch: like Kaggle's, 40 hexadecimal digits in no order."""
    return hashlib.sha1(f"{split} {number}".encode()).hexdigest()


def _write(folder: Path, originals: list[str], split: str, numbers: range) -> None:
    whole: dict[str, bytes] = {}
    for number in numbers:
        original = originals[number % len(originals)]
        if original not in whole:
            whole[original] = Path(original).read_bytes()
        (folder / split / f"{name_of(split, number)}.tif").write_bytes(whole[original])
