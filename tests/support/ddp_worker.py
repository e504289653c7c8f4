"""One of two processes that torchrun starts for test_ddp.py: compares them with one process, writes result.json.

python -m torch.distributed.run --nproc-per-node=2 tests/support/ddp_worker.py DATA OUT
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from training_cases import BATCH, CPU, TinyNet, tiny_trainer, weights_of

from pipeline.batches.loader import Loader
from pipeline.dataset import open_dataset
from pipeline.open import open_source
from pipeline.settings import AUGMENTATIONS, KAGGLE_NORMALISATION, InputSettings
from training.distributed import ALONE, World


def batches(data: Path, world: World) -> list[tuple[list[int], torch.Tensor]]:
    """Rows and pixels of this process's share of two epochs."""
    settings = InputSettings(workers=1)
    table = open_dataset(data).require_train()
    source = open_source(table, settings, device=CPU, cache_dir=data / "cache", progress=False, say=lambda text: None)
    loader = Loader(
        source, np.arange(len(table)), table.labels, batch_size=BATCH, device=CPU, augment=AUGMENTATIONS["standard"],
        normalisation=KAGGLE_NORMALISATION, settings=settings, seed=5, rank=world.rank, world_size=world.size,
    )  # fmt: skip
    found = []
    for epoch in range(2):
        loader.set_epoch(epoch)
        found += [(rows.tolist(), x.clone()) for x, _, rows in loader]
    loader.close()
    return found


def weights(out: Path, world: World) -> tuple[dict, list]:
    """Weights and metrics after training a network without BatchNorm and dropout in this world."""
    trainer = tiny_trainer(out, world=world, model=TinyNet(batch_norm=False, dropout=0))
    history = trainer.fit().history
    return weights_of(trainer), [
        [m.train_loss, m.train_accuracy, m.val_loss, m.val_accuracy, m.val_auc] for m in history
    ]


def main(data: Path, out: Path) -> None:
    torch.set_num_threads(1)
    world = World.from_environment()
    with world.connected():
        shares = world.gather(batches(data, world))
        torch.manual_seed(0)
        shared, shared_metrics = weights(out / "two", world)
        everywhere = world.gather({name: value.tolist() for name, value in shared.items()})
    if not world.is_main:
        return
    whole = batches(data, ALONE)
    torch.manual_seed(0)
    alone, alone_metrics = weights(out / "one", ALONE)
    result = {
        "batches": len(whole),
        "same_rows": [a + b for (a, _), (b, _) in zip(*shares, strict=True)] == [rows for rows, _ in whole],
        "same_pixels": all(
            torch.equal(torch.cat([a, b]), x) for (_, a), (_, b), (_, x) in zip(*shares, whole, strict=True)
        ),
        "processes_agree": everywhere[0] == everywhere[1],
        "largest_difference": max(float((shared[name] - value).abs().max()) for name, value in alone.items()),
        "metrics_two": shared_metrics,
        "metrics_one": alone_metrics,
    }
    (out / "result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
