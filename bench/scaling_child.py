"""One point of ``python -m bench scaling``: opens a data set and runs epochs, and prints what that took as JSON."""

import json
import sys
import time
from pathlib import Path

import numpy as np

from bench.common import make_loader
from bench.scaling import anonymous_bytes
from leaving import leave
from pipeline.dataset import open_dataset
from pipeline.errors import UserError
from pipeline.open import open_source
from pipeline.settings import InputSettings
from training.device import choose_device, prepare_backends


def main() -> int:
    """Entry point; returns the exit status."""
    folder, kind, batch_size, workers, repeats, wanted = sys.argv[1:]
    libraries_bytes = anonymous_bytes()
    try:
        device = choose_device(wanted)
        prepare_backends(device)
        settings = InputSettings(source=kind, workers=int(workers))
        cache_dir = Path(folder) / "cache"
        packing_s = 0.0
        if kind == "packed":  # made beforehand, as for every run but the first
            began = time.perf_counter()
            _open(folder, settings, device, cache_dir)
            packing_s = time.perf_counter() - began
        began = time.perf_counter()
        source, labels = _open(folder, settings, device, cache_dir)
        open_s = time.perf_counter() - began
        loader = make_loader(
            source, np.arange(len(source)), labels, batch_size=int(batch_size), device=device, settings=settings
        )
        next(iter(loader))
        first_batch_s = time.perf_counter() - began
        epoch_s = []
        for epoch in range(int(repeats) + 1):
            loader.set_epoch(epoch)
            began = time.perf_counter()
            count = sum(len(batch.x) for batch in loader)
            epoch_s.append(time.perf_counter() - began)
            if count != len(source):
                raise UserError(f"expected {len(source):,} patches an epoch, found {count:,}")
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    # The first epoch warms up, and is not among the others.
    print(
        json.dumps(
            {"libraries_bytes": libraries_bytes, "packing_s": packing_s, "open_s": open_s,
             "first_batch_s": first_batch_s, "first_epoch_s": epoch_s[0], "epoch_s": epoch_s[1:]}
        )
    )  # fmt: skip
    return 0


def _open(folder: str, settings: InputSettings, device, cache_dir: Path):
    table = open_dataset(folder).require_train()
    source = open_source(table, settings, device=device, cache_dir=cache_dir, progress=False, say=lambda line: None)
    return source, table.labels


if __name__ == "__main__":
    leave(main())
