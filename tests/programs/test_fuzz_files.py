"""Damage to every other file that is read: it is refused by name with the reason, or what is read is what was written.

Seeded; ``make fuzz`` goes on with other seeds.
"""

import csv
import io
import json
import time
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from mutations import ANY_BYTES, mutate, seeds
from tests_support import write_kaggle_folder
from training_cases import INFO, TinyNet, one_thread  # noqa: F401 (a fixture)

from bench.results import read_result, write_result
from models.saved import read_weights, weights_digest, weights_file
from pipeline.data.kaggle import read_ids
from pipeline.data.patches import PatchTable
from pipeline.data.split import make_split, read_split, write_split
from pipeline.data.submission import check_submission, read_submission
from pipeline.dataset import open_dataset
from pipeline.sources.decode_cache import DecodeCache
from pipeline.sources.left_out import read_left_out, write_left_out
from pipeline.sources.pack import find_pack, make_pack
from pipeline.storage.packfile import _PREFIX, HEADER_BYTES, PackFile
from pipeline.storage.stores import Stamp
from pipeline.tiff.layout import NeedsDecoder, StripLayout
from system.errors import UserError
from system.files import write_json
from training.checkpoint import load_checkpoint, save_checkpoint
from training.config import TrainConfig, to_dict
from training.networks import read_temperatures
from training.run_folder import CONFIG_SCHEMA, RunFolder, read_config, require_own, text_digest

CASES_PER_SEED = 100
FIXED_SEEDS = 2
IDS = np.array([f"{n:040x}" for n in range(40)])
STATE = {"config_hash": "abc", "weights": torch.arange(100.0), "nested": {"list": [1, 2.5, "x", None, True]}}


@dataclass(frozen=True)
class Kind:
    """A file, and how the program reads it."""

    path: Path
    read: Callable[[], object]
    """Something to compare with ==."""
    expected: Callable[[bytes], object] | None = None
    """What an independent reader finds in damaged bytes; None where nothing but the original may be found."""


def change_digit(rng: np.random.Generator, data: bytearray, files: object) -> None:
    """Another digit where one is: still a valid number."""
    digits = [place for place, value in enumerate(data) if 48 <= value <= 57]
    if digits:
        data[digits[rng.integers(len(digits))]] = rng.integers(48, 58)


def plain_rows(data: bytes) -> list[list[str]]:
    """By Python's own reader: the rows of a CSV file, its header first."""
    return list(csv.reader(io.StringIO(data.decode("utf-8-sig"), newline="")))


def labels_kind(folder: Path) -> Kind:
    path = folder / "train_labels.csv"
    path.write_text("id,label\n" + "".join(f"{i},{n % 2}\n" for n, i in enumerate(IDS)))

    def read() -> object:
        table = read_ids(path.read_bytes(), str(path), labelled=True)
        return [["id", "label"], *([i, label] for i, label in zip(table["id"], table["label"], strict=True))]

    def expected(data: bytes) -> object:
        """What the damage left of a table, without the empty lines and the blanks that it may have made."""
        rows = [[field.strip() for field in row] for row in plain_rows(data) if "".join(row).strip()]
        return [["id", "label"], *rows[1:]]

    return Kind(path, read, expected)


def submission_kind(folder: Path) -> Kind:
    path = folder / "submission.csv"
    path.write_text("id,label\n" + "".join(f"{i},0.{n:02}\n" for n, i in enumerate(IDS)))

    def read() -> object:
        text = read_submission(path)
        check_submission(text, IDS.tolist(), where=str(path))
        return list(csv.reader(io.StringIO(text)))

    def expected(data: bytes) -> object:
        rows = plain_rows(data)
        assert [row[0] for row in rows[1:]] == IDS.tolist() and all(0 <= float(row[1]) <= 1 for row in rows[1:])
        return rows

    return Kind(path, read, expected)


def pack_kind(folder: Path) -> Kind:
    write_kaggle_folder(folder / "data", train=20, test=0, size=12)
    table = open_dataset(folder / "data").train
    path = folder / "train-0.packed"
    make_pack(table, path, "f" * 64, threads=1, progress=False)

    def read() -> object:
        return packed_content(path, table)

    return Kind(path, read)


def packed_content(path: Path, table: PatchTable) -> object:
    pack = find_pack(path, table, "f" * 64, threads=1)
    return pack.header, pack.ids, pack.left_out, pack.read(range(len(pack))).tobytes()


def json_kinds(folder: Path) -> list[Kind]:
    run = RunFolder(folder)
    write_json(folder / "calibration.json", {"schema": 1, "temperature": 1.25})
    write_split(run.split, IDS, make_split(np.arange(40) % 2, val_fraction=0.2, seed=0))
    write_left_out(run.left_out, {"a": "a.tif: is empty", "b": 'b, "quoted"'})
    written = {path.name: text_digest(path.read_bytes()) for path in (run.split, run.left_out)}
    write_json(run.config, {"schema": CONFIG_SCHEMA, "settings": to_dict(TrainConfig()), "written": written})
    write_result(folder / "result.json", "loader", {"workers": 2}, [{"name": "packed", "images_per_s": [1.5, 2.5]}])

    def read_own_split() -> object:
        require_own(run, run.split)
        split = read_split(run.split, IDS)
        return split.train.tolist(), split.validation.tolist()

    def read_own_left_out() -> object:
        require_own(run, run.left_out)
        return read_left_out(run.left_out)

    return [
        Kind(folder / "calibration.json", lambda: read_temperatures([folder]).tolist()),
        Kind(run.config, lambda: read_config(run.config)),
        Kind(run.split, read_own_split),
        Kind(run.left_out, read_own_left_out),
        Kind(folder / "result.json", lambda: read_result(folder / "result.json")),
    ]


def weights_kinds(folder: Path) -> list[Kind]:
    def read_last() -> object:
        state = load_checkpoint(folder / "last.pt", belongs_to={})
        return {**state, "weights": state["weights"].tolist()}

    def read_best() -> object:
        weights, info = read_weights(folder / "best.safetensors")
        return weights_digest(weights), info

    save_checkpoint(folder / "last.pt", STATE)
    (folder / "best.safetensors").write_bytes(weights_file(TinyNet(), INFO))
    return [Kind(folder / "last.pt", read_last), Kind(folder / "best.safetensors", read_best)]


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> list[Kind]:
    folder = tmp_path_factory.mktemp("files")
    return [labels_kind(folder), submission_kind(folder), pack_kind(folder), *json_kinds(folder),
            *weights_kinds(folder)]  # fmt: skip


def try_one(kind: Kind, original: object, data: bytes) -> str:
    """What became of a damaged file; fails if it was read as something else, or died of anything but a refusal."""
    kind.path.write_bytes(data)
    try:
        found = kind.read()
    except UserError as error:
        assert kind.path.name in str(error) and len(str(error)) < 1000
        return "refused"
    assert found == (original if kind.expected is None else kind.expected(data))
    return "accepted"


def test_damaged_files_are_refused_by_name_or_read_as_they_are(kinds):
    mutations = [*ANY_BYTES, change_digit, change_digit]
    counts: Counter[tuple[str, str]] = Counter()
    began = time.monotonic()
    for seed in seeds(FIXED_SEEDS):
        rng = np.random.default_rng(seed)
        for kind in kinds:
            content, original = kind.path.read_bytes(), kind.read()
            try:
                for _ in range(CASES_PER_SEED):
                    counts[kind.path.name, try_one(kind, original, mutate(rng, [content], mutations))] += 1
            finally:
                kind.path.write_bytes(content)
    summary = ", ".join(f"{name}: {n:,} {outcome}" for (name, outcome), n in sorted(counts.items()))
    print(f"\nfuzzed files in {time.monotonic() - began:.0f} s, {counts.total():,} cases: {summary}")
    for kind in kinds:
        assert counts[kind.path.name, "refused"] > FIXED_SEEDS * CASES_PER_SEED / 2, kind.path.name


def test_damaged_decode_caches_are_never_used(tmp_path):
    """They are no file that a run needs: damage costs time, and is said."""

    class Store:
        place = tmp_path / "data"

    known = {Stamp(f"{n}.tif", 100 + n, n): NeedsDecoder(96, 96, "LZW compression") for n in range(20)}
    known[Stamp("strip.tif", 9, 9)] = StripLayout(287, 96, 96)
    kept = DecodeCache(tmp_path, "train", Store(), print)
    for stamp, layout in known.items():
        kept.keep(stamp, layout)
    kept.save()
    (path,) = tmp_path.glob("*.decoded.json")
    content, rng, used = path.read_bytes(), np.random.default_rng(0), 0
    for _ in range(300):
        path.write_bytes(mutate(rng, [content], [*ANY_BYTES, change_digit]))
        said: list[str] = []
        again = DecodeCache(tmp_path, "train", Store(), said.append)
        found = {stamp: again.get(stamp) for stamp in known}
        assert found in (known, dict.fromkeys(known)) and bool(said) == (found != known)
        used += found == known
    assert used < 30


def test_packed_files_forged_with_right_checksums_do_no_more_than_be_refused(kinds):
    """Whoever writes the checksums too can write anything: it must not crash or take memory, that is all."""
    kind = next(kind for kind in kinds if kind.path.suffix == ".packed")
    content, rng, refused = kind.path.read_bytes(), np.random.default_rng(0), 0
    magic, _, length = _PREFIX.unpack_from(content)
    start = _PREFIX.size
    header = json.loads(content[start : start + length])
    values = (0, -1, 1, 7, 2**31, 2**70, 1.5, "3", None, [], True, "f" * 64)
    for _ in range(300):
        forged = {**header, rng.choice(list(header)): values[rng.integers(len(values))]}
        if rng.random() < 0.3:
            del forged[rng.choice(list(header))]
        text = json.dumps(forged).encode()
        if len(text) > HEADER_BYTES - start:
            continue
        head = _PREFIX.pack(magic, zlib.crc32(text), len(text)) + text
        kind.path.write_bytes(head.ljust(HEADER_BYTES, b"\0") + content[HEADER_BYTES:])
        try:
            PackFile(kind.path).require_undamaged(threads=1)
        except UserError as error:
            refused += 1
            assert kind.path.name in str(error)
    kind.path.write_bytes(content)
    assert refused > 100
