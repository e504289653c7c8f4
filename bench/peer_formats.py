"""Peers with a format of their own: WebDataset, FFCV and MosaicML Streaming. Each holds raw pixels, as ours does.

Storing pixels rather than encoded files is the fastest that each of them offers, so nothing here decodes.
"""

import contextlib
import io
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.epochs import stack_nhwc
from bench.peer_kinds import AUGMENTED, PIXELS, Feed, Given, OnDevice, Peer
from bench.peer_torch import start
from pipeline.open import open_source
from pipeline.settings import KAGGLE_NORMALISATION, InputSettings

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
        )  # fmt: skip
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
        str(path), batch_size=given.batch_size, num_workers=given.workers, order=OrderOption.RANDOM, os_cache=True,
        drop_last=False,
        pipelines={
            "x": [SimpleRGBImageDecoder(), *change, ToTensor(), ToTorchImage(convert_back_int16=False)],
            "y": [IntDecoder(), ToTensor()],
        },
    )  # fmt: skip
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
