"""Run folders written by tests: what training leaves, without the training."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import torch
from tests_support import weights_info

from models.create import create_model
from pipeline.dataset import open_dataset
from training.checkpoint import save_weights

HEADER = "epoch,train_loss,train_accuracy,val_loss,val_accuracy,val_auc,lr,images_per_s,data_wait,seconds\n"


_NUMBER = re.compile(r"-?\d+(\.\d+)?(e-?\d+)?")


def assert_numbers(out: Path, words: set[str]) -> None:
    """Every cell of the tables in ``out`` is a number or empty, but those of the columns ``words``, id and yes/no."""
    tables = sorted((out / "tables").glob("*.csv"))
    assert tables
    for table in tables:
        with open(table, newline="") as file:
            for row in csv.DictReader(file):
                for name, value in row.items():
                    assert name, f"{table.name}: a column without a name"
                    numeric = not value or _NUMBER.fullmatch(value) or value in {"yes", "no"}
                    assert numeric or name in words | {"id", "wsi"}, f"{table.name}: {name}: {value!r}"


def write_metrics(folder: Path, epochs: int) -> None:
    """metrics.csv of a run that learns."""
    rows = [
        f"{e},{0.7 / e},{1 - 0.3 / e},{0.5 / e + 0.1},{1 - 0.2 / e},{1 - 0.1 / e},0.001,800,0.1,10"
        for e in range(1, epochs + 1)
    ]
    (folder / "metrics.csv").write_text(HEADER + "\n".join(rows) + "\n")


def write_validation(folder: Path, ids: np.ndarray, labels: np.ndarray, probabilities: np.ndarray) -> None:
    """validation.csv."""
    rows = [f'"{i}",{y},{p:.8f}' for i, y, p in zip(ids, labels, probabilities, strict=True)]
    (folder / "validation.csv").write_text("id,label,probability\n" + "\n".join(rows) + "\n")


def predictions(count: int, seed: int = 0, sharpness: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Labels [count] and probabilities [count] of a network of fair skill."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count)
    return labels, 1 / (1 + np.exp(-(rng.normal(size=count) + sharpness * (labels - 0.5))))


def write_weights(path: Path, size: int) -> None:
    """best.safetensors of a network that has learned nothing."""
    torch.manual_seed(0)
    info = weights_info("patchnet", 0.1, size)
    save_weights(path, create_model("patchnet", dropout=0.1), info)


def write_run(
    folder: Path,
    data_dir: Path,
    *,
    epochs: int = 4,
    synthetic: bool = False,
    weights: bool = True,
    groups: Path | None = None,
    lr: float = 0.001,
    seed: int = 0,
) -> Path:
    """A whole run folder on the training patches of ``data_dir``, all of which validate."""
    table = open_dataset(data_dir).require_train()
    folder.mkdir(parents=True)
    write_metrics(folder, epochs)
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=len(table))
    write_validation(folder, table.ids, table.labels, 1 / (1 + np.exp(-(noise + 2 * (table.labels - 0.5)))))
    settings = {
        "model": {"name": "patchnet", "dropout": 0.1},
        "optim": {"epochs": 4, "lr": lr},
        "data": {
            "data_dir": str(data_dir),
            "groups": None if groups is None else str(groups),
            "cache_dir": str(folder.parent / "cache"),
        },
        "run": {"seed": seed, "out_dir": str(folder)},
    }
    config = {
        "schema": 1,
        "synthetic": synthetic,
        "patch_size": [32, 32],
        "train_patches": 800,
        "train_positive_share": 0.4,
        "split": "800 training, 200 validation patches",
        "settings": settings,
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "environment.json").write_text(
        json.dumps({"device": "a CPU", "precision": "fp32", "command": "train.py"})
    )
    (folder / "split.csv").write_text("id,part\n" + "".join(f"{i},validation\n" for i in table.ids))
    if weights:
        write_weights(folder / "best.safetensors", 32)
    return folder
