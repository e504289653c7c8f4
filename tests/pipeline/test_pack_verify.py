"""verify --packs: images changed in place, with their sizes and times kept, are found; nothing else sees them."""

import os
from pathlib import Path

import numpy as np
import pytest
from tests_support import write_kaggle_folder
from tiff_maker import LZW, make_tiff, pillow_tiff

from pipeline.__main__ import Pack, Verify
from system.errors import UserError

COUNT = 12


def mixed(patch: np.ndarray) -> bytes:
    """Uncompressed, LZW, or gray, by the patch."""
    return (make_tiff(patch), make_tiff(patch, compression=LZW), pillow_tiff("L", patch))[int(patch.sum()) % 3]


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    write_kaggle_folder(tmp_path / "data", train=COUNT, test=2, size=32, encode=mixed)
    Pack(data_dir=tmp_path / "data", out=tmp_path / "cache", workers=1).run()
    return tmp_path


def verify(place: Path) -> None:
    Verify(data_dir=place / "data", cache_dir=place / "cache", workers=1, packs=True).run()


def test_images_changed_in_place_are_named(packed, capsys):
    verify(packed)
    assert f"all {COUNT} patches are those of the images" in capsys.readouterr().out
    changed = []
    for path in sorted((packed / "data" / "train").iterdir())[::3]:
        before, data = path.stat(), bytearray(path.read_bytes())
        data[-1000:] = bytes(1000)
        path.write_bytes(data)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        changed.append(path)
    with pytest.raises(UserError, match=f"{len(changed)} of {COUNT} images are not those that were packed") as refused:
        verify(packed)
    assert all(str(path) in str(refused.value) for path in changed)


def test_without_a_pack_of_these_images_the_command_that_makes_one_is_told(packed):
    (path,) = (packed / "cache").glob("train-*.packed")
    path.unlink()
    next((packed / "cache").glob("test-*.packed")).unlink()
    with pytest.raises(UserError, match="python -m pipeline pack"):
        verify(packed)
