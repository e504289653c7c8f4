"""--data-dir -> the tables of patches that it holds: Kaggle's folder or .zip, or PatchCamelyon's folder."""

import os
from collections.abc import Collection
from pathlib import Path

from pipeline.data.find import dataset_root, is_pcam
from pipeline.data.kaggle import open_kaggle
from pipeline.data.patches import Dataset


def open_dataset(
    data_dir: str | Path,
    *,
    skip_missing: bool = False,
    cache_dir: str | Path = "cache",
    splits: Collection[str] = ("train", "test"),
) -> Dataset:
    """Open the data set that ``dataset_root`` finds, and hold its tables against its files.

    Args:
        data_dir: Kaggle's folder or .zip (``open_kaggle``), or a folder of PatchCamelyon's HDF5 files, which are
            packed first if they are not yet (``open_pcam``); or a folder above one of them. It is only read.
        skip_missing: leave ids without a file out of the tables, as ``left_out`` says, instead of raising.
        cache_dir: where PatchCamelyon's packed files are found and made.
        splits: which of train and test are wanted; of PatchCamelyon's files no others are packed.

    Raises:
        DatasetError: a file, a header, a label or an id is not as it should be.
    """
    root = dataset_root(data_dir)
    if root.is_dir() and is_pcam(os.listdir(root)):
        from pipeline.pcam.folder import open_pcam  # h5py

        return open_pcam(root, splits=splits, cache_dir=Path(cache_dir))
    return open_kaggle(root, splits=splits, skip_missing=skip_missing)
