"""The next epoch's plan, drawn while the current one runs: the same plan, drawn once."""

import threading

import numpy as np
import pytest

from pipeline.batches.loader import Loader
from pipeline.batches.plan import PlanAhead
from pipeline.settings import AUGMENTATIONS, InputSettings


def test_the_next_plan_is_drawn_once_on_another_thread_and_any_other_on_demand() -> None:
    drawn: list[tuple[int, bool]] = []

    def draw(epoch: int) -> int:
        drawn.append((epoch, threading.current_thread() is threading.main_thread()))
        return epoch * 10

    plans = PlanAhead(draw, ahead=True)
    assert [plans.take(epoch) for epoch in (0, 1, 5)] == [0, 10, 50]
    plans.close()
    assert sorted(drawn) == [(0, True), (1, False), (2, False), (5, True), (6, False)]
    still = PlanAhead(draw, ahead=False)
    assert still.take(0) == 0 and len(drawn) == 6


@pytest.mark.parametrize(
    ("patches", "batch", "processes", "drop_last"),
    [(10, 4, 1, False), (10, 4, 1, True), (9, 4, 3, False), (8, 4, 4, True), (7, 3, 3, True), (4, 4, 2, False)],
)
def test_length_is_the_number_of_batches(patches: int, batch: int, processes: int, drop_last: bool) -> None:

    class Blank:
        kind, height, width, encoded, patches_u8 = "strip", 32, 32, False, None

        def __len__(self) -> int:
            return patches

        def name(self, row: int) -> str:
            return str(row)

        def read_into(self, rows: np.ndarray, out_u8: np.ndarray) -> None:
            out_u8[:] = 0

    for rank in range(processes):
        loader = Loader(
            Blank(), np.arange(patches), None, batch_size=batch, device="cpu", augment=AUGMENTATIONS["none"],
            normalisation=None, settings=InputSettings(workers=1), drop_last=drop_last, rank=rank,
            world_size=processes,
        )  # fmt: skip
        shares = [share for share in loader._batches(np.arange(patches)) if len(share)]
        assert len(loader) == len(shares)
        loader.close()
