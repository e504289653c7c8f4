"""PatchCamelyon's published files: the same patches, whatever way they are read; one line for whatever is wrong."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pcam_cases import COUNTS, gzipped, labels_of, slides_of, write_array, write_meta, write_pcam_folder
from training_cases import ONE_THREAD, ROOT

from pipeline.data.find import pcam_file
from pipeline.data.patches import PatchTable, checksum_of, numbered
from pipeline.data.split import published_split
from pipeline.dataset import open_dataset
from pipeline.open import open_source
from pipeline.pcam import folder as pcam
from pipeline.pcam import pack as pcam_pack
from pipeline.pcam.hdf5 import open_patches, patch_blocks
from pipeline.settings import InputSettings
from pipeline.sources.layouts import check_image
from pipeline.sources.verify import iterate_pixels
from pipeline.tiff.layout import LayoutChecker
from system.errors import UserError

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> tuple[Path, dict[str, np.ndarray]]:
    folder = tmp_path_factory.mktemp("pcam") / "data"
    return folder, write_pcam_folder(folder)


@pytest.fixture
def copied(written, tmp_path) -> Path:
    """Files of one's own to damage."""
    return shutil.copytree(written[0], tmp_path / "data")


def pixels_of(table: PatchTable, cache: Path, source: str = "auto") -> np.ndarray:
    opened = open_source(
        table, InputSettings(source=source, workers=2), device="cpu", cache_dir=cache, say=lambda line: None
    )
    return np.concatenate([pixels for _, pixels in iterate_pixels(opened, np.arange(len(table)), threads=1)])


def test_tables_hold_what_the_files_do(written, tmp_path):
    dataset = open_dataset(written[0], cache_dir=tmp_path)
    train, test = dataset.require_train(), dataset.require_test()
    assert (len(train), len(test)) == (250, 40)
    assert not dataset.synthetic and train.layout == test.layout == "pcam"
    assert np.array_equal(train.labels, np.concatenate([labels_of(200), labels_of(50)]))
    assert np.array_equal(test.labels, labels_of(40))
    assert train.slides.tolist() == slides_of(200, "train") + slides_of(50, "valid")
    assert np.flatnonzero(train.validation).tolist() == list(range(200, 250))
    assert test.validation is None and dataset.sample_ids == test.ids.tolist()
    assert train.store.name(3).endswith("train_x.h5: patch 3")
    assert train.take(np.array([2, 203])).store.name(1).endswith("valid_x.h5: patch 3")


def test_ids_are_the_sha1_of_the_pixels_and_each_stands_once(written, tmp_path):
    folder, pixels = written
    train = open_dataset(folder, cache_dir=tmp_path).train
    expected = [hashlib.sha1(patch).hexdigest() for patch in [*pixels["train"], *pixels["valid"]]]
    assert [checksum_of(name) for name in train.ids.tolist()] == expected
    assert len(set(train.ids.tolist())) == 250
    assert train.ids[2] == expected[2] and train.ids[7] == f"{expected[2]}-2"
    assert numbered(["a", "b", "a", "a"]) == ["a", "b", "a-2", "a-3"]


@pytest.mark.parametrize("source", ["auto", "packed", "tiff"])
def test_every_source_gives_the_files_pixels(written, tmp_path, source):
    folder, pixels = written
    dataset = open_dataset(folder, cache_dir=tmp_path)
    whole = np.concatenate([pixels["train"], pixels["valid"]])
    assert np.array_equal(pixels_of(dataset.train, tmp_path, source), whole)
    rows = np.array([3, 7, 211, 249])
    assert np.array_equal(pixels_of(dataset.train.take(rows), tmp_path, source), whole[rows])
    assert len(list(tmp_path.glob("train-*.packed"))) == 1, "a part of the patches was packed again"


def test_strip_does_not_apply_and_says_so(written, tmp_path):
    with pytest.raises(UserError, match="strip: expected a folder of image files, found the HDF5"):
        pixels_of(open_dataset(written[0], cache_dir=tmp_path).test, tmp_path, "strip")


def test_a_patch_is_also_a_tiff_file_like_kaggles(written, tmp_path):
    folder, pixels = written
    store = open_dataset(folder, cache_dir=tmp_path).test.store
    data = store.read(5)
    layout = check_image(data, LayoutChecker())
    assert (layout.height, layout.width) == (32, 32)
    assert data[layout.offset :] == pixels["test"][5].tobytes()


@pytest.mark.parametrize("chunks", [None, True, (3, 32, 32, 3), (250, 8, 8, 1), (1000, 4, 4, 1)])
@pytest.mark.parametrize("compression", [None, "gzip"])
def test_blocks_are_the_patches_in_their_order_for_every_chunking(tmp_path, monkeypatch, chunks, compression):
    if chunks is None and compression:
        pytest.skip("HDF5 compresses chunks alone")
    path = tmp_path / "x.h5"
    x = np.random.default_rng(0).integers(0, 256, (1000, 32, 32, 3), np.uint8)
    write_array(path, "x", x, chunks=chunks, compression=compression)
    monkeypatch.setattr("pipeline.pcam.hdf5._BLOCK_BYTES", 100 * 32 * 32 * 3)
    with open_patches(path) as array:
        blocks = list(patch_blocks(array, path))
        rows = array.chunks[0] if array.chunks else 1
    assert all(start % rows == 0 for start, _ in blocks), "a chunk is read twice"
    assert np.array_equal(np.concatenate([block for _, block in blocks]), x)
    assert [start for start, _ in blocks] == list(np.cumsum([0, *(len(block) for _, block in blocks[:-1])]))


def test_a_wanted_split_alone_is_packed(written, tmp_path):
    assert open_dataset(written[0], cache_dir=tmp_path, splits=("test",)).train is None
    assert [path.name.split("-")[0] for path in tmp_path.glob("*.packed")] == ["test"]


def test_packs_once(written, tmp_path, monkeypatch):
    first = open_dataset(written[0], cache_dir=tmp_path)
    monkeypatch.setattr(pcam_pack, "patch_blocks", lambda *_: pytest.fail("packed again"))
    again = open_dataset(written[0], cache_dir=tmp_path)
    assert again.train.ids.tolist() == first.train.ids.tolist()


def test_gzip_is_unpacked_for_packing_and_gone_afterwards(copied, written, tmp_path):
    for path in list(copied.glob("*.h5")):
        gzipped(path)
    dataset = open_dataset(copied, cache_dir=tmp_path / "cache")
    pixels = written[1]
    assert np.array_equal(pixels_of(dataset.train, tmp_path), np.concatenate([pixels["train"], pixels["valid"]]))
    assert np.array_equal(pixels_of(dataset.test, tmp_path), pixels["test"])
    left = {path.suffix for path in (tmp_path / "cache").iterdir()}
    assert left == {".packed", ".lock"}
    assert not list(copied.glob("*.h5")), "the data folder was written to"


def test_what_is_unpacked_beside_a_gzip_file_is_read(copied, tmp_path):
    path = copied / pcam_file("train", "x")
    path.with_name(path.name + ".gz").write_bytes(b"torchvision keeps it")
    assert len(open_dataset(copied, cache_dir=tmp_path).train) == 250


def test_a_mask_file_and_a_folder_between_are_no_obstacle(copied, tmp_path):
    (copied / "camelyonpatch_level_2_split_train_mask.h5").write_bytes(b"not read")
    (tmp_path / "root").mkdir()
    copied.rename(tmp_path / "root" / "pcam")
    dataset = open_dataset(tmp_path / "root", cache_dir=tmp_path / "cache")
    assert dataset.root.name == "pcam" and len(dataset.train) == 250


def test_labels_of_other_whole_numbers_and_shapes(copied, tmp_path):
    write_array(copied / pcam_file("test", "y"), "y", labels_of(40).astype(np.uint32))
    write_array(copied / pcam_file("valid", "y"), "y", labels_of(50).astype(bool).reshape(-1, 1))
    dataset = open_dataset(copied, cache_dir=tmp_path)
    assert np.array_equal(dataset.test.labels, labels_of(40))
    assert np.array_equal(dataset.train.labels[200:], labels_of(50))


def test_without_tables_of_slides(copied, tmp_path, capsys):
    (copied / pcam_file("valid", "meta")).unlink()
    dataset = open_dataset(copied, cache_dir=tmp_path)
    assert dataset.train.slides is None and dataset.test.slides is not None
    assert "slides are not known: there is no camelyonpatch_level_2_split_valid_meta.csv" in capsys.readouterr().out


def test_a_table_without_line_numbers_or_labels(copied, tmp_path):
    path = copied / pcam_file("test", "meta")
    path.write_text("wsi,coord_x\n" + "".join(f"{slide},7\n" for slide in slides_of(40, "test")))
    assert open_dataset(copied, cache_dir=tmp_path).test.slides.tolist() == slides_of(40, "test")


def x_path(folder: Path, split: str = "train") -> Path:
    return folder / pcam_file(split, "x")


def y_path(folder: Path, split: str = "train") -> Path:
    return folder / pcam_file(split, "y")


def swap(first: Path, second: Path) -> None:
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)


def cut(path: Path, share: float = 0.5) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def as_array(path: Path, key: str, values: np.ndarray) -> None:
    write_array(path, key, values)


def scratch_data(path: Path) -> None:
    """Damage compressed chunks, whose end the library notices."""
    with open_patches(path) as x:
        values = x[:]
    write_array(path, "x", values, chunks=(16, 32, 32, 3), compression="gzip")
    data = bytearray(path.read_bytes())
    at = len(data) // 2
    data[at : at + 2000] = b"\xff" * 2000
    path.write_bytes(data)


WRONG = {
    "no labels": (lambda f: y_path(f).unlink(), r"expected .*train_y.h5 or .*train_y.h5.gz, found neither beside"),
    "no patches": (lambda f: x_path(f, "valid").unlink(), r"expected .*valid_x.h5 or .*found neither"),
    "x and y swapped": (lambda f: swap(x_path(f), y_path(f)), "train_y.h5: expected an array y, found x; .*swapped"),
    "y for x": (lambda f: shutil.copy(y_path(f), x_path(f)), "train_x.h5: expected an array x, found y; .*swapped"),
    "patches of another split": (
        lambda f: swap(x_path(f), x_path(f, "test")), "a patch for each of the 200 labels .*train_y.h5, found 40"),
    "labels of another split": (
        lambda f: swap(y_path(f), y_path(f, "test")), "train_meta.csv: expected a line for each of the 40 labels"),
    "fewer labels": (
        lambda f: (write_array(y_path(f), "y", labels_of(190)), (f / pcam_file("train", "meta")).unlink()),
        "train_x.h5: expected a patch for each of the 190 labels in .*train_y.h5, found 200"),
    "cut patches": (lambda f: cut(x_path(f)), r"train_x.h5: cut short \(.*\); download it again"),
    "cut labels": (lambda f: cut(y_path(f)), r"train_y.h5: cut short"),
    "cut to the first bytes": (lambda f: cut(x_path(f), 1e-4), r"train_x.h5: cut short|train_x.h5: damaged"),
    "empty": (lambda f: x_path(f).write_bytes(b""), "train_x.h5: expected an HDF5 file, found something else"),
    "a web page": (lambda f: x_path(f).write_bytes(b"<html>sign in</html>"), "train_x.h5: expected an HDF5 file"),
    "gzip under another name": (
        lambda f: gzipped(x_path(f)).rename(x_path(f)), "train_x.h5: .* found a gzip file; add .gz"),
    "a folder": (lambda f: (x_path(f).unlink(), x_path(f).mkdir()), "train_x.h5: cannot be read: it is a directory"),
    "a dangling link": (
        lambda f: (x_path(f).unlink(), x_path(f).symlink_to("nowhere")), "train_x.h5: cannot be read: it is missing"),
    "float patches": (
        lambda f: as_array(x_path(f), "x", np.zeros((200, 32, 32, 3), np.float32)),
        r"expected patches x of uint8 \[N, height, width, 3\], found float32 \[200, 32, 32, 3\]"),
    "gray patches": (
        lambda f: as_array(x_path(f), "x", np.zeros((200, 32, 32), np.uint8)), r"found uint8 \[200, 32, 32\]"),
    "channels first": (
        lambda f: as_array(x_path(f), "x", np.zeros((200, 3, 32, 32), np.uint8)), r"found uint8 \[200, 3, 32, 32\]"),
    "no patch at all": (
        lambda f: as_array(x_path(f), "x", np.zeros((0, 32, 32, 3), np.uint8)), r"found uint8 \[0, 32, 32, 3\]"),
    "other sizes in valid": (
        lambda f: as_array(x_path(f, "valid"), "x", np.zeros((50, 48, 48, 3), np.uint8)),
        "valid_x.h5: expected patches of 32 x 32 pixels as in .*train_x.h5, found 48 x 48"),
    "a name that is no text": (
        lambda f: as_array(y_path(f), b"\xff", labels_of(200)), r"train_y.h5: expected an array y, found b'\\xff'"),
    "a group for an array": (
        lambda f: as_array(y_path(f), "y/deep", labels_of(200)), r"train_y.h5: expected an array y, found y"),
    "float labels": (
        lambda f: as_array(y_path(f), "y", np.zeros(200)), r"labels y of whole numbers .*found float64 \[200\]"),
    "masks for labels": (
        lambda f: as_array(y_path(f), "y", np.zeros((200, 32, 32, 1), np.uint8)), r"found uint8 \[200, 32, 32, 1\]"),
    "label 2": (
        lambda f: as_array(y_path(f), "y", np.where(np.arange(200) < 2, 2, 0)),
        "expected labels 0 and 1, found 2 for patch 0 and 1 others"),
    "table of another split": (
        lambda f: write_meta(f / pcam_file("train", "meta"), 1 - labels_of(200), "train"),
        "center_tumor_patch differs from the label in .*train_y.h5 for 100% of the patches"),
    "table cut": (lambda f: cut(f / pcam_file("train", "meta")), "train_meta.csv: (line|expected a line for each)"),
    "table without slides": (
        lambda f: (f / pcam_file("train", "meta")).write_text("a,b\n1,2\n"), "expected the header wsi, found 'a,b'"),
    "table of bytes": (
        lambda f: (f / pcam_file("train", "meta")).write_bytes(b"wsi\n\xff\xfe\n"), "line 2: expected text in UTF-8"),
    "damaged data": (lambda f: scratch_data(x_path(f)), r"train_x.h5: damaged \(.*\); download it again"),
    "gzip cut short": (lambda f: cut(gzipped(x_path(f))), "train_x.h5.gz: cut short: the gzip file ends before"),
    "gzip of labels cut short": (lambda f: cut(gzipped(y_path(f))), "train_y.h5.gz: cut short"),
    "no gzip": (
        lambda f: x_path(f).rename(x_path(f).with_name(x_path(f).name + ".gz")),
        "train_x.h5.gz: expected a gzip file, found something else"),
    "gzip of something else": (
        lambda f: (x_path(f).write_bytes(b"no HDF5" * 99), gzipped(x_path(f))), "train_x.h5.gz: expected an HDF5 file"),
    "Kaggle's beside it": (
        lambda f: (f / "train_labels.csv").write_text("id,label\n"), "holds files of Kaggle's and of PatchCamelyon's"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said_in_one_line(case, copied, tmp_path):
    spoil, message = WRONG[case]
    spoil(copied)
    cache = tmp_path / "cache"
    with pytest.raises(UserError, match=message) as error:
        open_dataset(copied, cache_dir=cache)
    assert "\n" not in str(error.value) and str(copied) in str(error.value)
    assert not [path for path in cache.glob("*") if path.suffix != ".lock"], "something was left in the cache"


def test_a_flipped_bit_in_a_gzip_file_is_found(copied, tmp_path):
    path = gzipped(x_path(copied))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)
    with pytest.raises(UserError, match="train_x.h5.gz: (damaged|cut short)"):
        open_dataset(copied, cache_dir=tmp_path / "cache")


def test_missing_splits(copied, tmp_path, capsys):
    for kind in ("x", "y"):
        (copied / pcam_file("test", kind)).unlink()
    assert open_dataset(copied, cache_dir=tmp_path).test is None
    assert "test is missing: there is no camelyonpatch_level_2_split_test_x.h5" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"expected .*test_x.h5 or .*test_x.h5.gz, found neither beside .*train_x.h5"):
        open_dataset(copied, cache_dir=tmp_path, splits=("test",))
    for kind in ("x", "y"):
        (copied / pcam_file("train", kind)).unlink()
    with pytest.raises(UserError, match=r"expected .*train_x.h5 or .*found neither beside .*valid_x.h5"):
        open_dataset(copied, cache_dir=tmp_path)


def test_one_of_the_files_for_the_folder(written):
    with pytest.raises(UserError, match="expected the folder of PatchCamelyon's files, found one of them"):
        open_dataset(x_path(written[0]))


def test_published_files_under_each_others_names(copied, tmp_path, monkeypatch):
    """Valid and test are as long as each other: there the published checksums tell."""
    write_pcam_folder(copied, counts={"train": 200, "valid": 40, "test": 40})
    monkeypatch.setattr(pcam, "PUBLISHED_COUNT", {"train": 200, "valid": 40, "test": 40})
    monkeypatch.setattr(
        pcam, "PUBLISHED_MD5",
        {(split, kind): pcam.md5_of(copied / pcam_file(split, kind)) for split in COUNTS for kind in ("x", "y")},
    )  # fmt: skip
    assert len(open_dataset(copied, cache_dir=tmp_path / "well").train) == 240
    swap(x_path(copied, "valid"), x_path(copied, "test"))
    for packed in (False, True):
        if packed:
            gzipped(x_path(copied, "valid"))
        with pytest.raises(UserError, match=r"valid_x.h5(.gz)?: holds what is published as .*test_x.h5; .*swapped"):
            open_dataset(copied, cache_dir=tmp_path / "swapped")


def test_files_are_verified_against_the_published_checksums(copied, monkeypatch):
    said: list[str] = []
    pcam.verify_published(copied, say=said.append)
    assert said[0] == "train: 200 patches, 262,144 are published: none to hold them against"
    monkeypatch.setattr(pcam, "PUBLISHED_COUNT", COUNTS)
    md5 = {(split, kind): pcam.md5_of(copied / pcam_file(split, kind)) for split in COUNTS for kind in ("x", "y")}
    monkeypatch.setattr(pcam, "PUBLISHED_MD5", md5)
    gzipped(x_path(copied))
    said.clear()
    pcam.verify_published(copied, say=said.append)
    assert said == [f"{split}: patches and labels are as published" for split in COUNTS]
    write_array(y_path(copied, "test"), "y", 1 - labels_of(40))
    with pytest.raises(UserError, match="not as published, by their MD5: .*test_y.h5; download them again"):
        pcam.verify_published(copied, say=said.append)


@pytest.mark.parametrize("moment", ["unpacking", "packing"])
def test_a_killed_process_leaves_nothing_half_made(copied, written, tmp_path, moment):
    """Killed while it unpacks: the next one begins anew. While it packs: what was unpacked is of use."""
    gzipped(x_path(copied, "test"))
    cache = tmp_path / "cache"
    child = ROOT / "tests/support/pcam_child.py"
    ended = subprocess.run(
        [sys.executable, child, str(copied), str(cache), moment], check=False, env={**os.environ, **ONE_THREAD}
    )
    assert ended.returncode == -signal.SIGKILL
    whole = [path for path in cache.iterdir() if not path.name.endswith(".tmp") and path.suffix != ".lock"]
    assert len([path for path in cache.iterdir() if path.name.endswith(".tmp")]) == 1
    if moment == "unpacking":
        assert not whole
    else:
        (unpacked,) = whole
        with open_patches(unpacked) as x:
            assert np.array_equal(x[:], written[1]["test"])
    test = open_dataset(copied, cache_dir=cache, splits=("test",)).test
    assert np.array_equal(pixels_of(test, cache), written[1]["test"])
    assert {path.suffix for path in cache.iterdir()} == {".packed", ".lock"}


def test_h5py_that_is_not_there(written, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UserError, match="HDF5 files need h5py: pip install h5py"):
        open_dataset(written[0], cache_dir=tmp_path)


def test_the_published_split_says_whether_slides_are_apart(written, tmp_path):
    train = open_dataset(written[0], cache_dir=tmp_path).train
    split = published_split(train.validation, train.slides)
    assert (len(split.train), len(split.validation), split.by_slide) == (200, 50, True)
    assert split.description == "200 training, 50 validation patches (as published, 12 slides, none on both sides)"
    shared = published_split(train.validation, np.full(250, "one"))
    assert not shared.by_slide and "1 on both sides" in shared.description
    unknown = published_split(train.validation, None)
    assert unknown.by_slide and "by its authors' word" in unknown.description
