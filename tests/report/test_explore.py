"""Statistics over all patches, held against scikit-image and plain NumPy; duplicates; the page and its files."""

import csv
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex
from report_cases import assert_numbers
from skimage.color import rgb2hed, rgb2hsv
from tests_support import kaggle_tiff, random_patches, write_kaggle_folder

from explore import ExploreSettings, describe_layouts, explore
from report import charts, style
from report.duplicates import contradictions, exact_groups, near_duplicates
from report.explore_sections import examples, ks_distance, local_difference, odd_patches
from report.patch_stats import PatchStats, measure_chunk, measure_patches, sha1_hex
from system.errors import UserError


class _Memory:
    """A source of patches in memory."""

    kind, encoded, patches_u8 = "memory", False, None

    def __init__(self, patches: np.ndarray) -> None:
        self.patches = patches
        _, self.height, self.width, _ = patches.shape

    def __len__(self) -> int:
        return len(self.patches)

    def read_into(self, rows: np.ndarray, out_u8: np.ndarray) -> None:
        out_u8[:] = self.patches[rows]


def _measure(patches: np.ndarray, labels: np.ndarray | None = None) -> PatchStats:
    return measure_patches(_Memory(patches), labels, threads=2, name="test", progress=False)


@pytest.mark.parametrize("size", [96, 50])
def test_statistics_equal_the_plain_ones(size: int, rng: np.random.Generator) -> None:
    patches = rng.integers(0, 256, (150, size, size, 3), np.uint8)
    patches[3], patches[4] = 0, 255
    labels = np.arange(150) % 2
    stats = _measure(patches, labels)
    unit = patches / 255
    np.testing.assert_allclose(stats.colour, unit.mean(axis=(1, 2)), atol=1e-6)
    np.testing.assert_allclose(stats.brightness, unit.mean(axis=(1, 2, 3)), atol=1e-6)
    np.testing.assert_allclose(stats.deviation, np.sqrt(unit.var(axis=(1, 2)).mean(axis=1)), atol=1e-5)
    np.testing.assert_allclose(stats.saturation, rgb2hsv(patches)[..., 1].mean(axis=(1, 2)), atol=1e-5)
    stains = rgb2hed(patches)
    np.testing.assert_allclose(stats.haematoxylin, stains[..., 0].mean(axis=(1, 2)), atol=1e-6)
    np.testing.assert_allclose(stats.eosin, stains[..., 1].mean(axis=(1, 2)), atol=1e-6)
    assert (stats.darkest == patches.min(axis=(1, 2, 3))).all() and (
        stats.brightest == patches.max(axis=(1, 2, 3))
    ).all()
    assert [sha1_hex(d) for d in stats.sha1.tolist()] == [hashlib.sha1(p).hexdigest() for p in patches]
    for label in (0, 1):
        np.testing.assert_allclose(stats.mean_images[label], patches[labels == label].mean(axis=0))
        for channel in range(3):
            expected = np.bincount(patches[labels == label][..., channel].ravel(), minlength=256)
            assert (stats.histogram[label, channel] == expected).all()


def test_a_hash_that_ends_in_zero_bytes_stays_whole() -> None:
    stored = np.array([b"\x01" * 18 + b"\0\0"], "S20")
    assert sha1_hex(stored.tolist()[0]) == "01" * 18 + "0000"


def _textured(count: int, rng: np.random.Generator) -> np.ndarray:
    coarse = rng.integers(60, 200, (count, 12, 12, 3))
    return np.repeat(np.repeat(coarse, 8, axis=1), 8, axis=2).astype(np.uint8)


def test_duplicates_exact_and_near_are_found_and_no_others(rng: np.random.Generator) -> None:
    patches = _textured(400, rng)
    patches[100] = patches[7]
    patches[200] = patches[7]
    patches[300] = np.clip(patches[50].astype(int) + rng.integers(-3, 4, patches[50].shape), 0, 255)  # as JPEG would
    patches[301] = np.clip(patches[51].astype(int) + 4, 0, 255)  # a little brighter
    patches[302:310] = rng.integers(250, 252, (8, 96, 96, 3))  # blank: alike, but no duplicates
    stats = _measure(patches)
    groups = exact_groups(stats.sha1)
    assert [group.tolist() for group in groups] == [[7, 100, 200]]
    labels = np.zeros(400, int)
    assert contradictions(groups, labels) == []
    labels[100] = 1
    assert len(contradictions(groups, labels)) == 1
    labels[100] = -1  # no label is no contradiction
    assert contradictions(groups, labels) == []
    near = near_duplicates(stats.sha1, stats.phash, stats.thumbnail, stats.deviation)
    assert near.pairs.tolist() == [[50, 300], [51, 301]] and near.complete and (near.distance <= 3).all()


def test_near_duplicates_find_every_pair_within_three_bits(rng: np.random.Generator) -> None:
    hashes = rng.integers(0, 2**63, 300, np.uint64)
    for row in range(0, 100, 2):  # three bits, anywhere
        flips = rng.choice(64, 3, replace=False)
        hashes[row + 1] = hashes[row] ^ np.bitwise_or.reduce(np.uint64(1) << flips.astype(np.uint64))
    thumbnail = np.zeros((300, 8, 8, 3), np.uint8)
    sha1 = np.array([f"{i:020}" for i in range(300)], "S20")
    near = near_duplicates(sha1, hashes, thumbnail, np.ones(300))
    assert near.pairs.tolist() == [[row, row + 1] for row in range(0, 100, 2)]


def test_blank_patches_are_told_apart() -> None:
    patches = random_patches(6, 32, 0)
    patches[0], patches[1], patches[2] = 0, 255, 128
    patches[3] = 245
    patches[3, 0, 0] = 200
    found = {kind: rows.tolist() for kind, rows in odd_patches(_measure(patches)).items()}
    assert found == {"black": [0], "white": [1, 3], "blank, of another colour": [2], "near-constant": []}


def test_a_blank_patch_labelled_positive_is_among_the_examples() -> None:
    labels = np.zeros(50, int)
    labels[[40, 45]] = 1
    found = np.arange(10, 50)
    assert examples(found, labels).tolist() == [40, 45, 10, 11, 12, 13]
    assert examples(found[-5:], np.ones(50, int)).tolist() == [45, 46, 47, 48, 49]
    assert examples(found, None).tolist() == [10, 11, 12, 13, 14, 15]


def test_difference_of_mean_images_shows_a_spot_and_not_the_overall_difference(rng: np.random.Generator) -> None:
    negative = rng.normal(150, 1, (96, 96, 3))
    positive = negative - 8 + rng.normal(0, 1, (96, 96, 3))
    positive[32:64, 32:64] += 3
    overall, local = local_difference(negative, positive)
    assert overall == pytest.approx(-8 + 3 / 9, abs=0.1) and local.mean() == pytest.approx(0, abs=0.1)
    assert local[40:56, 40:56].min() > 2 and np.abs(local[:16, :16] + 1 / 3).max() < 0.5


def test_difference_panel_wears_the_colours_of_the_classes() -> None:
    difference = np.zeros((96, 96))
    difference[:48], difference[48:] = 4, -4  # positive patches are brighter above
    figure, (ax,) = style.new_figure()
    charts.draw_difference(figure, ax, difference)
    image = ax.images[0]
    above, below = (to_hex(image.cmap(image.norm(value))).upper() for value in (4, -4))
    assert (above, below) == (style.POSITIVE, style.NEGATIVE)


def test_layouts_are_told_in_plain_words() -> None:
    assert describe_layouts({"uncompressed strip": 5}, 5, 5) == "all uncompressed TIFF"
    told = describe_layouts({"uncompressed strip": 5, "LZW compression": 15}, 20, 900)
    assert told == "LZW compression: 15, uncompressed TIFF: 5 (20 files looked at, drawn at random)"


def test_distance_of_distributions() -> None:
    a = np.linspace(0, 1, 1000)
    assert ks_distance(a, a) == 0 and ks_distance(a, a + 2) == 1
    assert ks_distance(a, a + 0.25) == pytest.approx(0.25, abs=0.01)


def test_chunks_of_one_and_small_patches(rng: np.random.Generator) -> None:
    _, values = measure_chunk(rng.integers(0, 256, (1, 7, 9, 3), np.uint8), np.zeros(1, int), 1)
    assert values["thumbnail"].shape == (1, 8, 8, 3) and values["phash"].dtype == np.uint64


def _explore(folder: Path, tmp_path: Path, **settings: object) -> tuple[str, dict, Path]:
    out = tmp_path / "out"
    path = explore(ExploreSettings(folder, out, cache_dir=tmp_path / "cache", **settings))
    return path.read_text(), json.loads((out / "explore.json").read_text()), out


def test_page_and_files(kaggle_folder: Path, tmp_path: Path) -> None:
    html, facts, out = _explore(kaggle_folder, tmp_path)
    assert facts["train"]["patches"] == 200 and facts["train"]["positive"] == 100 and facts["test"]["patches"] == 30
    assert facts["train"]["ids_are_sha1"] == 200 and not facts["synthetic"]
    assert facts["drift_ks"].keys() == {"brightness", "saturation", "haematoxylin", "eosin"}
    assert "<svg" in (out / "plots" / "intensities_red.svg").read_text()
    assert (out / "plots" / "intensities_red.png").read_bytes().startswith(b"\x89PNG")
    mean, std = (", ".join(f"{v:.4f}" for v in facts["train"][key]) for key in ("channel_mean", "channel_std"))
    assert f"transforms.Normalize(mean=[{mean}], std=[{std}])" in html
    assert "SYNTHETIC" not in html and "every id is the SHA-1" in html
    assert "None found: no two patches are equal" in html and "pairs of near-duplicates" not in html


def test_slides_contradictions_border_and_stamp(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    pixels = write_kaggle_folder(folder, train=40, test=10, size=32)
    ids = [line.split(",")[0] for line in (folder / "train_labels.csv").read_text().splitlines()[1:]]
    test_id = (folder / "sample_submission.csv").read_text().splitlines()[1].split(",")[0]
    (folder / "train" / f"{ids[1]}.tif").write_bytes(kaggle_tiff(pixels[ids[0]]))  # labels 0 and 1 alternate
    (folder / "test" / f"{test_id}.tif").write_bytes(kaggle_tiff(pixels[ids[2]]))
    (folder / "SYNTHETIC.txt").write_text("made")
    groups = tmp_path / "groups.csv"
    groups.write_text("id,wsi\n" + "".join(f"{i},<b>slide{n % 3}</b>\n" for n, i in enumerate(ids[:30])))
    html, facts, out = _explore(folder, tmp_path, groups=groups)
    assert facts["duplicates"]["groups_with_contradicting_labels"] == 1
    assert facts["duplicates"]["exact_groups_across_train_and_test"] == 1
    assert facts["synthetic"] and "SYNTHETIC" in html and "SYNTHETIC" in facts["note"]
    assert "names no slide for 10 of 40 patches" in html and "may be damaged" in html
    assert "<b>slide" not in html and "&lt;b&gt;slide0" in html
    with open(out / "tables" / "slides_train.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert len(rows) == 4 and sum(int(row[1]) for row in rows[1:]) == 30
    assert html.count(">Each dot is a slide") == 2 and "in its own mean colour" in html
    assert_numbers(
        out, {"class", "split", "kind", "files", "slide", "feature", "what", "looks like", "its split", "group"}
    )


def test_without_labels_and_with_foreign_slides(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    write_kaggle_folder(folder, train=0, test=12, size=32)
    html, facts, _ = _explore(folder, tmp_path)
    assert "No labels" in html and "Only test is there" in html and "train" not in facts
    ids = [path.stem for path in (folder / "test").iterdir()]
    groups = tmp_path / "groups.csv"
    groups.write_text("id,wsi\n" + "".join(f"{i},s{n % 4}\n" for n, i in enumerate(ids)))
    html, _, _ = _explore(folder, tmp_path, groups=groups)
    assert html.count(">Each dot is a slide") == 1, "without labels the other chart has bars"
    groups.write_text("id,wsi\nother,s\n")
    with pytest.raises(UserError, match=r"groups\.csv"):
        _explore(folder, tmp_path, groups=groups)


def test_real_patches_prove_their_ids(real_data: Path, tmp_path: Path) -> None:
    _, facts, _ = _explore(real_data, tmp_path)
    for split in ("train", "test"):
        assert facts[split]["ids_are_sha1"] == facts[split]["patches"]
