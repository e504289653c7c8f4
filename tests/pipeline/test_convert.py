"""python -m pipeline convert: what training refuses becomes what it takes; the command that is printed works."""

import io
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_refused_files import opened, table_of, write_dataset
from tests_support import zipped
from tiff_cases import gray_16
from tiff_maker import PATCH, SHORT, make_tiff, pillow_tiff, pillows_rgb, tagged

from pipeline.convert import convert, rgb_pixels
from pipeline.dataset import open_dataset
from pipeline.sources.verify import iterate_pixels
from system.errors import UserError

RGBA = np.dstack([PATCH, np.where(PATCH[..., :1] < 128, 0, 255)]).astype(np.uint8)
ODD = {
    "cmyk": pillow_tiff("CMYK", PATCH),
    "lab": pillow_tiff("LAB", PATCH),
    "gray16": gray_16(PATCH[..., :2]),
    "transparent": make_tiff(RGBA, tags={338: (SHORT, [2])}),
    "png": pillow_tiff("RGB", PATCH, format="PNG"),
    "jpeg": pillow_tiff("RGB", PATCH, format="JPEG"),
    "pages": pillow_tiff("RGB", PATCH, save_all=True, append_images=[Image.fromarray(PATCH)]),
    "fill": tagged({266: (SHORT, [2])}),
    "old": pillow_tiff("L", PATCH, compression="tiff_lzw"),
    "plain": make_tiff(PATCH),
}


def written(files: dict[str, bytes], folder: Path) -> Path:
    return write_dataset(folder, {name: lambda path, data=data: path.write_bytes(data) for name, data in files.items()})


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_the_printed_command_makes_a_data_set_that_opens(kind, tmp_path):
    place = written(ODD, tmp_path / "da ta")
    if kind == "zip":
        place = zipped(place, tmp_path / "da ta.zip")
    with pytest.raises(UserError, match="8 of 10 image files cannot be used") as refused:
        opened(table_of(place), "auto", tmp_path / "cache")
    (command,) = re.findall(r"^convert them: (.*)$", str(refused.value), re.MULTILINE)
    done = subprocess.run(command, shell=True, executable="/bin/bash", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    table = open_dataset(tmp_path / "da ta-converted").train
    source = opened(table, "strip", tmp_path / "cache")
    found = np.concatenate([pixels for _, pixels in iterate_pixels(source, np.arange(len(ODD)), threads=1)])
    for name, pixels in zip(table.ids, found, strict=True):
        if name in ("cmyk", "png", "jpeg", "pages", "fill", "old", "plain"):
            assert np.array_equal(pixels, pillows_rgb_of_any(ODD[name])), name
    by_name = dict(zip(table.ids.tolist(), found, strict=True))
    assert (by_name["transparent"][RGBA[..., 3] == 0] == 255).all()
    assert np.array_equal(by_name["transparent"][RGBA[..., 3] == 255], PATCH[RGBA[..., 3] == 255])
    expected = np.rint(PATCH[..., :2].copy().view("<u2")[..., 0] / 257).astype(np.uint8)
    assert (by_name["gray16"] == expected[..., None]).all()
    assert (tmp_path / "da ta-converted" / "train" / "plain.tif").read_bytes() == ODD["plain"]


def pillows_rgb_of_any(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.array(image.convert("RGB"))


def test_images_of_other_suffixes_and_folders_are_found_and_named_tif(tmp_path):
    folder = tmp_path / "data" / "train" / "0"
    folder.mkdir(parents=True)
    (folder / "a.png").write_bytes(ODD["png"])
    (folder / "b.JPG").write_bytes(ODD["jpeg"])
    (folder / "note.txt").write_text("kept")
    counts = convert(tmp_path / "data", tmp_path / "out", white=None, skip=False, threads=1, progress=False)
    assert sorted(path.name for path in (tmp_path / "out" / "train" / "0").iterdir()) == ["a.tif", "b.tif", "note.txt"]
    assert sum(counts.values()) == 3
    assert np.array_equal(pillows_rgb((tmp_path / "out" / "train" / "0" / "a.tif").read_bytes()), PATCH)


def test_what_cannot_be_converted_is_named_and_nothing_is_left_or_it_is_left_out(tmp_path):
    folder = written({"good": ODD["cmyk"], "cut": ODD["plain"][:-9], "bright": ODD["gray16"]}, tmp_path / "data")
    with pytest.raises(UserError, match="2 of 4 files cannot be converted") as refused:
        convert(folder, tmp_path / "out", white=4095, skip=False, threads=1, progress=False)
    assert "cut.tif" in str(refused.value) and "bright.tif" in str(refused.value) and "--white" in str(refused.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]
    counts = convert(folder, tmp_path / "out", white=4095, skip=True, threads=1, progress=False)
    assert sum(counts.values()) == 2
    assert [path.name for path in (tmp_path / "out" / "train").iterdir()] == ["good.tif"]
    with pytest.raises(UserError, match="is there already"):
        convert(folder, tmp_path / "out", white=None, skip=True, threads=1, progress=False)


@pytest.mark.parametrize("white, value", [(None, 128), (2.0, 64)])
def test_white_of_floating_point(white, value):
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 4), 0.5, np.float32)).save(buffer, "TIFF")
    pixels, _ = rgb_pixels(buffer.getvalue(), white)
    assert (pixels == value).all()


def test_members_of_a_zip_stay_inside(tmp_path):
    import zipfile

    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        archive.writestr("train/a.tif", ODD["plain"])
        archive.writestr("../outside.tif", ODD["plain"])
        archive.writestr("train\\b.tif", ODD["plain"])
    convert(tmp_path / "data.zip", tmp_path / "deep" / "out", white=None, skip=False, threads=1, progress=False)
    assert sorted(path.name for path in (tmp_path / "deep" / "out" / "train").iterdir()) == ["a.tif", "b.tif"]
    assert not list(tmp_path.rglob("outside.tif"))


@pytest.mark.parametrize("tables", [True, False])
def test_a_data_set_of_png_files_is_told_the_command_that_makes_it_one_of_tiffs(tables, tmp_path):
    folder = written({"a": ODD["plain"], "b": ODD["plain"]}, tmp_path / "data")
    for split in ("train", "test"):
        (folder / split).mkdir(exist_ok=True)
        (folder / split / "a.png").write_bytes(ODD["png"])
        (folder / split / "b.png").write_bytes(ODD["png"])
    (folder / "train" / "a.tif").unlink()
    (folder / "train" / "b.tif").unlink()
    if not tables:
        (folder / "train_labels.csv").unlink()
    with pytest.raises(UserError) as refused:
        open_dataset(folder)
    command = str(refused.value).partition("convert them: ")[2].partition("; the README")[0].partition("\n")[0]
    done = subprocess.run(command, shell=True, executable="/bin/bash", capture_output=True, text=True, check=False)
    assert done.returncode == 0, (str(refused.value), done.stderr)
    dataset = open_dataset(tmp_path / "data-converted")
    assert dataset.test.ids.tolist() == ["a", "b"] and (dataset.train is not None) == tables
