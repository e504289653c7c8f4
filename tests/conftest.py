"""What several tests share: small data sets in Kaggle's layout, and the real one where HCD_DATA names it."""

import os
from pathlib import Path

import numpy as np
import pytest
from tests_support import write_kaggle_folder

from pipeline.dataset import Dataset, open_dataset

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
