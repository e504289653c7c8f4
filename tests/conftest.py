"""What several tests share: small data sets in Kaggle's layout, and the real one where HCD_DATA names it."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests_support import write_kaggle_folder

from pipeline.data.patches import Dataset
from pipeline.dataset import open_dataset

if TYPE_CHECKING:
    from forker import Forker

    from training.run_folder import RunFolder

try:
    import torch
except ImportError:  # `make matrix` tries what needs none on other Pythons
    torch = None
if torch is not None:
    torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)
if torch is not None and not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # kernels of GPUs run on the CPU then, in NumPy
# Tests marked gpu run their code on the CPU instead where this says "cpu": to see that they run, not what they prove.
STAND_IN = "GPU_TESTS_ON"


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available() and os.environ.get(STAND_IN) != "cpu":
        pytest.skip("needs a CUDA device; torch finds none here")


@pytest.fixture(scope="session")
def gpu() -> "torch.device":
    """The GPU, for tests marked so."""
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


@pytest.fixture(scope="session")
def kaggle_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 labelled and 30 unlabelled patches of 32 x 32 random pixels, in Kaggle's own TIFF layout."""
    folder = tmp_path_factory.mktemp("kaggle")
    write_kaggle_folder(folder, train=200, test=30, size=32)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data set to train on; files that write to it have one of their own."""
    from training_cases import write_small_dataset

    return write_small_dataset(tmp_path_factory.mktemp("data") / "small")


@pytest.fixture(scope="module")
def forker() -> "Iterator[Forker]":
    """Starts the real programs, with their imports done."""
    from forker import Forker

    forker = Forker()
    yield forker
    forker.close()


@pytest.fixture(scope="module")
def trained(data: Path, forker: "Forker", tmp_path_factory: pytest.TempPathFactory) -> "RunFolder":
    """A finished run of two epochs on ``data``."""
    from training_cases import smoke_args

    from training.run_folder import RunFolder

    folder = RunFolder(tmp_path_factory.mktemp("trained") / "run")
    assert forker.run("train", smoke_args(data, folder.path)).status == 0
    return folder


@pytest.fixture(scope="session")
def dataset(kaggle_folder: Path) -> Dataset:
    return open_dataset(kaggle_folder)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Kaggle's folder or .zip, from the environment variable HCD_DATA."""
    if not os.environ.get("HCD_DATA"):
        pytest.skip("set HCD_DATA to Kaggle's folder or .zip to test on real patches")
    return Path(os.environ["HCD_DATA"])


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
