"""The loader's bench: every row ends in the same tensor, a row that would not is refused, and shares add up."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tests_support import zipped

from bench.ceilings import gather, open_read_close
from bench.epochs import Epoch, prepare, stack_nhwc, timed
from bench.loader import BASELINE, PASS_THROUGH, LoaderBench, what_bounds
from bench.results import read_result
from bench.stages import STAGES, stages_of
from system.errors import UserError

CPU = torch.device("cpu")


def batches_of(value: float, count: int = 3) -> list[tuple[torch.Tensor]]:
    return [(torch.full((4, 3, 32, 32), value),) for _ in range(count)]


def test_a_way_that_delivers_other_pixels_is_refused() -> None:
    proven: dict[str, Epoch] = {}
    rows = np.arange(12)
    prepare(lambda part: batches_of(1.0), rows, None, proven, "none", 9.0, 4, CPU)
    with pytest.raises(UserError, match="where the first source delivered"):
        prepare(lambda part: batches_of(1.5), rows, None, proven, "none", 9.0, 4, CPU)


def test_a_way_that_delivers_another_layout_is_refused() -> None:
    proven: dict[str, Epoch] = {}
    rows = np.arange(12)
    prepare(lambda part: batches_of(1.0), rows, None, proven, "none", 9.0, 4, CPU)
    last = [(batch[0].to(memory_format=torch.channels_last),) for batch in batches_of(1.0)]
    with pytest.raises(UserError, match="strides"):
        prepare(lambda part: last, rows, None, proven, "none", 9.0, 4, CPU)


def test_sums_of_floats_may_differ_in_the_last_place_and_sums_of_uint8_may_not() -> None:
    for dtype, off, same in (("float32", 0.001, True), ("float32", 0.1, False), ("uint8", 0.001, False)):
        one = Epoch(f"torch.{dtype} on cpu", 1.0, 1000.0, 4)
        assert one.matches(one._replace(checksum=1.0 + off)) == same
        assert not one.matches(one._replace(layout="another"))


def test_an_epoch_that_changes_between_rounds_is_refused() -> None:
    batches = batches_of(1.0)
    measure = timed(batches, CPU)
    assert measure() > 0
    batches[0][0][0] = 2.0
    with pytest.raises(UserError, match="came out differently"):
        measure()


def test_a_slow_way_gets_fewer_patches_a_round() -> None:
    asked: list[int] = []

    def make(part: np.ndarray) -> list[tuple[torch.Tensor]]:
        asked.append(len(part))
        return batches_of(1.0)

    prepare(make, np.arange(1000), None, {}, "none", 0.0, 4, CPU)
    assert asked == [1000, 8]


def test_pillow_batches_are_channels_last() -> None:
    pixels = torch.arange(2 * 5 * 4 * 3, dtype=torch.uint8).reshape(2, 5, 4, 3)
    x, y = stack_nhwc([(pixels[0].permute(2, 0, 1), 1), (pixels[1].permute(2, 0, 1), 0)])
    assert x.is_contiguous(memory_format=torch.channels_last) and x.shape == (2, 3, 5, 4)
    assert torch.equal(x.permute(0, 2, 3, 1), pixels) and y.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("packed, none", "memory 50%"),
        ("tiff, none", "decoding 65%"),
        ("packed, standard", "augmentation 90%"),
        ("strip, none", "file opens 50%"),
    ],
)
def test_what_bounds_a_row_is_its_largest_part(name: str, expected: str) -> None:
    microseconds = {
        gather(2): 5, open_read_close(2): 10, PASS_THROUGH: 4, "packed, none": 10, "packed, standard": 100,
        "strip, none": 20, "tiff, none": 40,
    }  # fmt: skip
    assert what_bounds(name, {key: 1e6 / us for key, us in microseconds.items()}, threads=2) == expected


def test_stages_are_increments_that_add_up_to_the_whole() -> None:
    us = {"read": 10.0, "none": 40.0, "augment": 60.0, "normalise": 65.0, "colour": 100.0}
    figures = {f"tiff: {step}": [1e6 / value] for step, value in us.items()}
    stages = stages_of("tiff", figures, hand_over_us=5.0)["us_a_patch"]
    assert [round(stages[stage], 6) for stage in STAGES] == [10, 25, 5, 20, 5, 35]
    assert sum(stages.values()) == pytest.approx(us["colour"])


def test_every_source_that_applies_gets_its_row_and_the_others_a_line(kaggle_folder: Path, tmp_path: Path):
    out = tmp_path / "loader.json"
    LoaderBench(
        data_dir=kaggle_folder, out=out, cache_dir=tmp_path, device="cpu", workers=1, batch_size=64, repeats=2,
        augment=("none", "light"),
    ).run()  # fmt: skip
    result = read_result(out, "loader")
    for setting in ("none", "light"):
        rows = [result.row(f"{kind}, {setting}") for kind in ("tiff", "strip", "packed", "resident")]
        assert len({row["checksum"] for row in rows}) == len({row["layout"] for row in rows}) == 1
        for row in rows:
            assert row["first_epoch_s"] > 0 and row["share"] > 0 and row["bound"]
            assert row["gb_per_s"] == pytest.approx(row["median"] * row["bytes_a_patch"] / 1e9)
            assert row["per_core"] == row["median"]
    assert result.row("packed, none")["checksum"] == result.row(BASELINE)["checksum"]
    assert "float32" in result.row("packed, light")["layout"] and "uint8" in result.row("packed, none")["layout"]
    assert result.row("packed, none")["share_of"] == gather(1)
    assert result.row("strip, none")["share_of"] == open_read_close(1)


def test_stages_are_measured_for_every_source(kaggle_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "stages.json"
    LoaderBench(
        data_dir=kaggle_folder, out=out, cache_dir=tmp_path, device="cpu", workers=1, batch_size=64, repeats=2,
        stages=True,
    ).run()  # fmt: skip
    result = read_result(out, "stages")
    assert [row["name"] for row in result.rows] == ["tiff", "strip", "packed", "resident"]
    for row in result.rows[:4]:
        assert set(row["us_a_patch"]) == set(STAGES) and all(len(r) == 2 for r in row["images_per_s"].values())


def test_unknown_names_and_no_source_at_all_are_refused(kaggle_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--sources: expected some of tiff, strip, packed, resident, found mmap"):
        LoaderBench(data_dir=kaggle_folder, sources=("mmap",), device="cpu").run()
    archive = zipped(kaggle_folder, tmp_path / "data.zip")
    with pytest.raises(UserError, match="no source applies: source strip"):
        LoaderBench(data_dir=archive, sources=("strip",), device="cpu", cache_dir=tmp_path).run()
