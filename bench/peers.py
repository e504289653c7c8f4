"""python -m bench peers: the loader beside other ways of loading, in turns; here are those with their own formats."""

import contextlib
import io
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.common import BenchOptions, print_table
from bench.epochs import stack_nhwc
from bench.options import PeersOptions
from bench.peer_ways import (
    AUGMENTED,
    BASELINE,
    BASELINE_AUGMENTED,
    CEILING,
    DATA_LOADERS,
    OURS,
    PASS_THROUGH,
    PIXELS,
    RANDOM_GATHER,
    Feed,
    Given,
    OnDevice,
    Peer,
    ceilings,
    first_epoch,
    start,
)
from bench.results import interleave, median_ratio, one_line, summary
from pipeline.batches.loader import Loader
from pipeline.open import open_source
from pipeline.settings import KAGGLE_NORMALISATION, InputSettings, usable_cores
from system.errors import UserError

# Shards for each reading process: few enough to read in long runs, enough to shuffle.
_SHARDS_A_WORKER = 4
# Patches that WebDataset's shuffle holds back; its shards are shuffled besides.
_SHUFFLE_BUFFER = 1000
FFCV_RAW = "FFCV raw"
FFCV_AUGMENTED = "FFCV, flip and normalisation alone"
_FROM_PYPI = "pip install --no-deps -r requirements-bench.txt"


class Pixels:
    """The patches [H, W, 3] uint8 and labels, by position: what is written into each format."""

    def __init__(self, given: Given) -> None:
        settings = InputSettings(source="packed", workers=given.workers)
        self._source = open_source(
            given.table, settings, device="cpu", cache_dir=given.cache_dir, say=lambda line: None
        )
        self._rows, self._labels = given.rows, given.labels
        self.shape = (self._source.height, self._source.width, 3)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        if index >= len(self):
            raise IndexError(index)
        patch = np.empty((1, *self.shape), np.uint8)
        self._source.read_into(self._rows[index : index + 1], patch)
        return patch[0], int(self._labels[index])

    def __iter__(self) -> Iterator[tuple[np.ndarray, int]]:
        return (self[index] for index in range(len(self)))


class Unpack:
    """Stored bytes -> a patch [3, H, W] uint8 and its label. A class, since worker processes must unpickle it."""

    def __init__(self, shape: Sequence[int]) -> None:
        self._shape = tuple(shape)

    def one(self, sample: Mapping[str, Any]) -> tuple[torch.Tensor, int]:
        """Of a mapping with the pixels as "rgb" and the label as "cls"."""
        patch = np.frombuffer(bytearray(sample["rgb"]), np.uint8).reshape(self._shape)
        return torch.from_numpy(patch).permute(2, 0, 1), int(sample["cls"])

    def many(self, samples: Sequence[Mapping[str, Any]]) -> tuple[torch.Tensor, torch.Tensor]:
        """A batch."""
        return stack_nhwc([self.one(sample) for sample in samples])


def write_shards(pixels: Pixels, folder: Path, count: int) -> list[str]:
    """Write .tar files with <index>.rgb and <index>.cls, patches dealt round: their paths."""
    paths = [folder / f"{shard:03d}.tar" for shard in range(count)]
    with contextlib.ExitStack() as stack:
        shards = [stack.enter_context(tarfile.open(path, "w")) for path in paths]
        for index, (patch, label) in enumerate(pixels):
            for suffix, data in (("rgb", patch.tobytes()), ("cls", str(label).encode())):
                member = tarfile.TarInfo(f"{index:08d}.{suffix}")
                member.size = len(data)
                shards[index % count].addfile(member, io.BytesIO(data))
    return [str(path) for path in paths]


def _open_webdataset(given: Given) -> Feed:
    import webdataset

    pixels = Pixels(given)
    count = min(len(pixels), _SHARDS_A_WORKER * given.workers)
    folder = given.folder / "webdataset"
    folder.mkdir()
    dataset = (
        webdataset.WebDataset(write_shards(pixels, folder, count), shardshuffle=count)
        .shuffle(_SHUFFLE_BUFFER)
        .map(Unpack(pixels.shape).one)
        .batched(given.batch_size, collation_fn=stack_nhwc)
    )
    return Feed(OnDevice(start(given, dataset, batch_size=None), given.device))


def _open_streaming(given: Given) -> Feed:
    from streaming import MDSWriter, StreamingDataset

    pixels = Pixels(given)
    folder = str(given.folder / "streaming")
    with MDSWriter(out=folder, columns={"rgb": "bytes", "cls": "int"}) as writer:
        for patch, label in pixels:
            writer.write({"rgb": patch.tobytes(), "cls": label})
    dataset = StreamingDataset(local=folder, shuffle=True, batch_size=given.batch_size)
    return Feed(OnDevice(start(given, dataset, collate_fn=Unpack(pixels.shape).many), given.device))


def _open_ffcv(given: Given, *, augmented: bool) -> Feed:
    from ffcv.fields import IntField, RGBImageField
    from ffcv.fields.decoders import IntDecoder
    from ffcv.fields.rgb_image import SimpleRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import NormalizeImage, RandomHorizontalFlip, ToTensor, ToTorchImage
    from ffcv.writer import DatasetWriter

    path = given.folder / "ffcv.beton"
    if not path.exists():
        fields = {"x": RGBImageField(write_mode="raw"), "y": IntField()}
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
            DatasetWriter(str(path), fields, num_workers=1).from_indexed_dataset(Pixels(given))
    mean, std = (255 * np.array(values) for values in (KAGGLE_NORMALISATION.mean, KAGGLE_NORMALISATION.std))
    change = [RandomHorizontalFlip(), NormalizeImage(mean, std, np.float32)] if augmented else []
    loader = Loader(
        str(path),
        batch_size=given.batch_size,
        num_workers=given.workers,
        order=OrderOption.RANDOM,
        os_cache=True,
        drop_last=False,
        pipelines={
            "x": [SimpleRGBImageDecoder(), *change, ToTensor(), ToTorchImage(convert_back_int16=False)],
            "y": [IntDecoder(), ToTensor()],
        },
    )
    return Feed(OnDevice(loader, given.device))


def _open_ffcv_raw(given: Given) -> Feed:
    return _open_ffcv(given, augmented=False)


def _open_ffcv_augmented(given: Given) -> Feed:
    return _open_ffcv(given, augmented=True)


_FFCV = (
    f"{_FROM_PYPI}; apt-get install libopencv-dev libturbojpeg0-dev pkg-config; "
    f"pip install --no-deps --no-build-isolation ffcv==1.0.2"
)
FORMATS = (
    Peer("WebDataset", PIXELS, _open_webdataset, "webdataset", _FROM_PYPI),
    Peer("MosaicML Streaming", PIXELS, _open_streaming, "streaming", _FROM_PYPI),
    Peer(FFCV_RAW, PIXELS, _open_ffcv_raw, "ffcv", _FFCV),
    Peer(FFCV_AUGMENTED, AUGMENTED, _open_ffcv_augmented, "ffcv", _FFCV),
)


# What comes first forks worker processes, which is best done before threads have started.
PEERS: tuple[Peer, ...] = (*DATA_LOADERS, *FORMATS, *OURS)
# What a row is held against: the first is "times_baseline".
REFERENCES: Mapping[str, Sequence[str]] = {
    PIXELS: (BASELINE, FFCV_RAW, RANDOM_GATHER, PASS_THROUGH),
    AUGMENTED: (BASELINE_AUGMENTED, FFCV_AUGMENTED),
    CEILING: (BASELINE,),
}


class Peers(PeersOptions, BenchOptions):
    """Compare the loader's sources with other ways of loading. What is not installed is listed as such."""

    def run(self) -> None:
        """Measure, print and write. Raises UserError where the pixels differ."""
        table, rows, device = self.open()
        self.cache_dir.mkdir(parents=True, exist_ok=True)
        failed: dict[str, str] = {}
        feeds: dict[str, Feed] = {}
        # The peers' own formats live as long as the measurement: they are as large as the patches.
        with tempfile.TemporaryDirectory(dir=self.cache_dir, prefix="peers-") as folder:
            given = Given(
                table=table,
                rows=rows,
                batch_size=self.batch_size,
                workers=self.workers or usable_cores(),
                device=device,
                cache_dir=self.cache_dir,
                folder=Path(folder),
            )
            try:
                self._open_all(given, feeds, failed)
                measures = {name: self._timed(feed, device) for name, feed in feeds.items()}
                measures |= ceilings(given)
                figures = interleave(measures, self.repeats, failed=failed, title="peers")
            finally:
                for feed in feeds.values():
                    feed.close()
        groups = {peer.name: peer.group for peer in PEERS} | dict.fromkeys((RANDOM_GATHER, PASS_THROUGH), CEILING)
        result = [describe(name, group, figures, failed) for name, group in groups.items()]
        show(result)
        self.save("peers", result, synthetic=table.synthetic)

    def _open_all(self, given: Given, feeds: dict[str, Feed], failed: dict[str, str]) -> None:
        """Open every peer and run it once: compiled, in the page cache, and its pixels those of the others."""
        prints: dict[str, int] = {}
        for peer in PEERS:
            if peer.needs and find_spec(peer.needs) is None:
                failed[peer.name] = f"not installed: {peer.install}"
                continue
            print(f"opening {peer.name}", flush=True)
            mine = replace(given, rows=given.rows[: self.slow_patches]) if peer.slow else given
            try:
                feeds[peer.name] = feed = peer.open(mine)
                found = first_epoch(feed, peer.group, len(mine.rows))
            except Exception as error:  # whatever goes wrong in a peer is a line of the table
                failed[peer.name] = one_line(error)
                if peer.name in feeds:
                    feeds.pop(peer.name).close()
                continue
            if peer.group == PIXELS:
                prints[peer.name] = found
        if len(set(prints.values())) > 1:
            raise UserError(f"the ways of loading differ in their pixels or labels: {prints}")

    def _timed(self, feed: Feed, device: torch.device) -> Callable[[], float]:
        """A function that measures images/s of whole epochs; each batch is touched, so that nothing is lazy."""
        epoch = 0

        def measure() -> float:
            nonlocal epoch
            count, began = 0, time.perf_counter()
            while (passed := time.perf_counter() - began) < self.seconds:
                if isinstance(feed.batches, Loader):
                    epoch += 1
                    feed.batches.set_epoch(epoch)
                count += run_through(feed)
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
            return count / passed

        return measure


def run_through(feed: Feed) -> int:
    """Deliver one epoch, touching each batch: the number of patches."""
    count = 0
    for batch in feed.batches:
        x = batch[0]
        count += len(x)
        x[-1, -1, -1, -1].item()
    return count


def describe(
    name: str, group: str, figures: Mapping[str, Sequence[float]], failed: Mapping[str, str]
) -> dict[str, Any]:
    """A row of the result: raw repeats and ratios to the references of its group, or what went wrong."""
    row: dict[str, Any] = {"name": name, "group": group}
    if name in failed:
        return row | {"error": failed[name]}
    mine = figures[name]
    row |= {"images_per_s": mine, **summary(mine)}
    references = REFERENCES[group]
    ratios = {reference: median_ratio(mine, figures[reference]) for reference in references if reference in figures}
    return row | {"times_baseline": ratios.get(references[0]), "ratios": ratios}


def show(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the result, a table for each group."""
    for group, references in REFERENCES.items():
        mine = [row for row in rows if row["group"] == group]
        done = [row for row in mine if "error" not in row]
        print(f"\n{group}")
        print_table(
            ["way of loading", "images/s", "spread", *(f"× {name}" for name in references)],
            [
                [row["name"], f"{row['median']:,.0f}", f"{row['spread']:.0%}"]
                + [f"{row['ratios'][name]:.2f}" if name in row["ratios"] else "-" for name in references]
                for row in sorted(done, key=lambda row: -row["median"])
            ],
        )
        for row in mine:
            if "error" in row:
                print(f"{row['name']}: {row['error']}")
