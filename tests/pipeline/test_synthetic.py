"""The synthetic data set: Kaggle's bytes, its own rules, and a task neither trivial nor impossible."""

import hashlib
import io
import math
import struct
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from models.create import create_model
from pipeline.dataset import open_dataset
from pipeline.synthetic import kaggle as synthetic
from pipeline.synthetic import tissue
from pipeline.synthetic.kaggle import SynthSettings, draw_part, label_patches, plan_parts, tiff_header, write_dataset
from pipeline.tiff.layout import StripLayout, read_layout
from system.errors import UserError

# (tag, type, count, value) of every Kaggle file, in order; types 2 ASCII, 3 SHORT, 4 LONG.
KAGGLE_TAGS = [
    (254, 4, 1, 0), (256, 4, 1, 96), (257, 4, 1, 96), (258, 3, 3, 194), (259, 3, 1, 1), (262, 3, 1, 2),
    (270, 2, 23, 200), (273, 4, 1, 287), (277, 3, 1, 3), (278, 4, 1, 96), (279, 4, 1, 27648), (284, 3, 1, 1),
    (305, 2, 12, 255), (306, 2, 20, 267), (339, 3, 1, 1),
]  # fmt: skip
# SHA-1 of the first 267 bytes of a Kaggle file: all but the DateTime, which is the only thing that differs.
KAGGLE_HEAD_SHA1 = "2f711987ef784bfd82d1d8999501518b50b1e895"


def files_of(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("synthetic") / "demo"
    write_dataset(out, train=300, test=60, seed=7, progress=False, workers=1)
    return out


def test_header_is_kaggles_tag_for_tag():
    head = tiff_header(96)
    assert len(head) == 287
    assert head[:10] == b"II*\0\x08\0\0\0\x0f\0"
    assert [struct.unpack_from("<HHII", head, 10 + 12 * i) for i in range(15)] == KAGGLE_TAGS
    assert head[190:200] == bytes(4) + b"\x08\0\x08\0\x08\0"
    assert head[200:255] == b'{"shape": [96, 96, 3]}'.ljust(55, b"\0")
    assert head[255:267] == b"tifffile.py\0"
    assert hashlib.sha1(head[:267]).hexdigest() == KAGGLE_HEAD_SHA1


def test_files_hold_their_pixels_and_are_named_by_them(written):
    paths = sorted(written.glob("*/*.tif"))
    assert len(paths) == 360
    for path in paths:
        data = path.read_bytes()
        assert len(data) == 27_935
        assert hashlib.sha1(data[287:]).hexdigest() == path.stem
        assert read_layout(data) == StripLayout(287, 96, 96)
    with Image.open(io.BytesIO(data)) as image:
        assert image.mode == "RGB"
        assert image.tobytes() == data[287:]


def test_opens_as_a_synthetic_kaggle_folder(written):
    dataset = open_dataset(written)
    train, test = dataset.require_train(), dataset.require_test()
    assert dataset.synthetic
    assert (len(train), len(test), train.unlisted, test.unlisted) == (300, 60, 0, 0)
    assert round(train.positive_share * 300) == round(0.405 * 300)
    assert dataset.sample_ids == test.ids.tolist()


def test_slides_of_test_are_not_in_train(written):
    groups = pd.read_csv(written / "groups.csv").set_index("id")["wsi"]
    dataset = open_dataset(written)
    train, test = (set(groups[table.ids]) for table in (dataset.train, dataset.test))
    assert groups.index.is_unique
    assert len(groups) == 360
    assert not train & test
    assert min(len(train), len(test)) >= 2


def test_labels_follow_the_tumour_masks_and_a_quarter_of_negatives_is_a_near_miss(written):
    settings = SynthSettings(300, 60, seed=7)
    expected = {}
    near_misses = 0
    for part in plan_parts(settings, "train"):
        for patches_u8, tumour in draw_part(settings, part):
            central = tumour[:, 32:64, 32:64].any(axis=(1, 2))
            near_misses += (tumour.any(axis=(1, 2)) & ~central).sum()
            names = [hashlib.sha1(patch.tobytes()).hexdigest() for patch in patches_u8]
            expected |= dict(zip(names, central.astype(int).tolist(), strict=True))
    assert pd.read_csv(written / "train_labels.csv").set_index("id")["label"].to_dict() == expected
    negatives = 300 - sum(expected.values())
    assert abs(near_misses - negatives / 4) <= 1


@pytest.mark.parametrize("size", [48, 50, 97])
def test_other_sizes(size, tmp_path):
    settings = SynthSettings(60, 4, size, seed=1)
    for part in plan_parts(settings, "train"):
        masks = np.concatenate([tumour for _, tumour in draw_part(settings, part)])
        scenes = np.array(part.scenes)
        assert (label_patches(masks) == (scenes == tissue.Scene.POSITIVE)).all()
        assert (masks.any(axis=(1, 2)) == (scenes != tissue.Scene.NEGATIVE)).all()
    write_dataset(tmp_path / "demo", train=60, test=4, size=size, seed=1, progress=False, workers=1)
    table = open_dataset(tmp_path / "demo").require_train()
    data = table.store.read(0)
    assert read_layout(data) == StripLayout(287, size, size)
    with Image.open(io.BytesIO(data)) as image:
        assert image.tobytes() == data[287:]
        assert hashlib.sha1(image.tobytes()).hexdigest() == table.ids[0]


def test_same_seed_same_bytes_on_two_processes_and_another_seed_others(written, tmp_path):
    write_dataset(tmp_path / "again", train=300, test=60, seed=7, progress=False, workers=2)
    assert files_of(tmp_path / "again") == files_of(written)
    write_dataset(tmp_path / "other", train=8, test=0, seed=8, progress=False, workers=1)
    assert not {p.name for p in tmp_path.glob("other/*/*.tif")} & {p.name for p in written.glob("*/*.tif")}
    assert open_dataset(tmp_path / "other").test is None


def test_refuses_a_folder_with_other_files_and_leaves_it_alone(written, tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "real.tif").write_bytes(b"precious")
    with pytest.raises(UserError, match=r"expected an empty or new folder, found .*perhaps real data"):
        write_dataset(tmp_path, train=4, test=0, progress=False, workers=1)
    assert files_of(tmp_path) == {"train/real.tif": b"precious"}
    before = files_of(written)
    with pytest.raises(UserError, match=r'found \{"version": .* "seed": 7\}'):
        write_dataset(written, train=300, test=60, seed=8, progress=False, workers=1)
    assert files_of(written) == before


def test_does_not_draw_again_what_is_there(written, monkeypatch, capsys):
    monkeypatch.setattr(synthetic, "draw_patches", None)
    write_dataset(written, train=300, test=60, seed=7, progress=False, workers=1)
    assert "already holds" in capsys.readouterr().out


def test_interrupted_run_does_not_look_complete_and_the_next_one_mends_it(written, tmp_path, monkeypatch):
    drawn = synthetic.draw_patches
    calls = iter(range(5))

    def interrupted(*args):
        if next(calls) == 4:
            raise KeyboardInterrupt
        return drawn(*args)

    out = tmp_path / "demo"
    out.mkdir()
    monkeypatch.setattr(synthetic, "draw_patches", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_dataset(out, train=300, test=60, seed=7, progress=False, workers=1)
    assert list(out.iterdir()) == []
    left = files_of(tmp_path / "demo.partial")
    assert sum(name.endswith(".tif") for name in left) == 50  # four batches are the first slide
    assert not any(name.endswith(".csv") for name in left)
    monkeypatch.setattr(synthetic, "draw_patches", drawn)
    write_dataset(out, train=300, test=60, seed=7, progress=False, workers=1)
    assert files_of(out) == files_of(written)
    assert not (tmp_path / "demo.partial").exists()


@pytest.mark.parametrize("bad", [{"train": 0}, {"test": -1}, {"size": 47}, {"size": 1025}, {"seed": -1}])
def test_refuses_arguments_out_of_range(bad, tmp_path):
    with pytest.raises(UserError, match=f"--{next(iter(bad))}: expected .* found"):
        write_dataset(tmp_path / "demo", **({"train": 8, "test": 2} | bad))
    assert list(tmp_path.iterdir()) == []


# ---- how hard it is ----


@pytest.fixture(scope="module")
def task() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Patches and labels of 48 slides to learn from, and of 12 unseen ones."""
    settings = SynthSettings(2400, 600, seed=11)

    def draw(split: str) -> tuple[np.ndarray, np.ndarray]:
        drawn = [batch for part in plan_parts(settings, split) for batch in draw_part(settings, part)]
        patches_u8 = np.concatenate([patches for patches, _ in drawn])
        return patches_u8, np.concatenate([label_patches(tumour) for _, tumour in drawn])

    return draw("train"), draw("test")


def colour_moments(patches_u8: np.ndarray) -> np.ndarray:
    """Mean, standard deviation and skewness of each channel: float64 [N, 9]."""
    pixels = patches_u8.reshape(len(patches_u8), -1, 3) / 255
    mean, std = pixels.mean(axis=1), pixels.std(axis=1)
    skewness = ((pixels - mean[:, None]) ** 3).mean(axis=1) / std**3
    return np.concatenate([mean, std, skewness], axis=1)


def test_colour_moments_do_not_give_the_label_away(task):
    (train_u8, train_labels), (test_u8, test_labels) = task
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    model.fit(colour_moments(train_u8), train_labels)
    auc = roc_auc_score(test_labels, model.predict_proba(colour_moments(test_u8))[:, 1])
    assert auc <= 0.70


def test_a_small_network_learns_it_from_a_short_training(task):
    (train_u8, train_labels), (test_u8, test_labels) = task
    scores = train_and_score(train_u8, train_labels, test_u8)
    assert roc_auc_score(test_labels, scores) >= 0.90


def train_and_score(
    train_u8: np.ndarray, train_labels: np.ndarray, test_u8: np.ndarray, epochs: int = 5, batch_size: int = 48
) -> np.ndarray:
    """Logits of ``test_u8`` from a network trained with the eight dihedral views, and nothing else."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    model = create_model("patchnet", dropout=0.0).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.05)
    steps = len(train_u8) // batch_size
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=epochs * steps)

    def normalised(patches_u8: np.ndarray) -> torch.Tensor:
        return (torch.from_numpy(patches_u8.copy()).permute(0, 3, 1, 2).float() / 255 - 0.6) / 0.2

    for _ in range(epochs):
        for rows in rng.permutation(len(train_u8))[: steps * batch_size].reshape(steps, batch_size):
            turned = np.rot90(train_u8[rows], rng.integers(4), axes=(1, 2))
            x = normalised(turned[:, :, :: rng.choice([-1, 1])])
            targets = torch.from_numpy(train_labels[rows]).float()
            loss = torch.nn.functional.binary_cross_entropy_with_logits(model(x), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()
    with torch.inference_mode():
        batches = np.array_split(test_u8, math.ceil(len(test_u8) / 128))
        return torch.cat([model(normalised(batch)) for batch in batches]).numpy()
