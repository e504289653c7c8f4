"""The DALI graph in float16, as GPUs get it, here on the CPU: operators without such an output are found."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.batches.graph import GraphSettings, build_graph, plan_inputs, plan_rows
from pipeline.batches.plan import draw_plan
from pipeline.settings import AUGMENTATIONS, KAGGLE_NORMALISATION, AugmentSettings

ONE_BY_ONE = {
    "colour alone": AugmentSettings(brightness=0.1, contrast=0.1, saturation=0.1, hue_deg=5.0),
    "geometry alone": AugmentSettings(scale=0.1, shift_px=2.0, rotate_deg=15.0),
    "stain alone": AugmentSettings(stain=0.15),
}
COUNT, SIZE = 24, 20


def run_graph(settings: GraphSettings, patches: np.ndarray) -> torch.Tensor:
    plan = draw_plan(COUNT, seed=1, epoch=0, augment=settings.augment, norm=settings.normalisation, size=(SIZE, SIZE),
                     shuffle=False)  # fmt: skip
    side = SIZE if settings.warp_views else None
    rows = plan_rows(plan, plan_inputs(settings.augment, settings.normalisation), np.arange(COUNT), side)
    graph = build_graph(settings, lambda: (patches, [np.zeros((COUNT, 1), np.float32), *rows]))
    return torch.from_dlpack(graph.run()[0].as_tensor()).clone()


@pytest.mark.parametrize("augment", [*AUGMENTATIONS.values(), *ONE_BY_ONE.values()],
                         ids=[*AUGMENTATIONS, *ONE_BY_ONE])  # fmt: skip
def test_float16_is_a_neighbour_of_the_float32_result(augment: AugmentSettings, rng: np.random.Generator) -> None:
    patches = rng.integers(0, 256, (COUNT, SIZE, SIZE, 3), dtype=np.uint8)
    settings = GraphSettings(
        augment=augment, normalisation=KAGGLE_NORMALISATION, encoded=False, on_device=False, height=SIZE, width=SIZE,
        device_id=None, threads=2, queue_depth=1, batch_size=COUNT,
    )  # fmt: skip
    half, single = run_graph(replace(settings, half=True), patches), run_graph(settings, patches)
    assert half.dtype == torch.float16 and single.dtype == torch.float32
    # On a CPU DALI rounds towards zero.
    assert ((half.float() - single).abs() <= 2**-10 * single.abs().clamp(min=2**-14)).all()


@pytest.mark.parametrize("normalisation", [None, KAGGLE_NORMALISATION], ids=["uint8", "normalised"])
def test_views_by_warping_are_flips_and_transposes_bit_for_bit(normalisation, rng: np.random.Generator) -> None:
    """As GPUs get them: there the conditional transpose was seen to give wrong pixels."""
    patches = rng.integers(0, 256, (COUNT, SIZE, SIZE, 3), dtype=np.uint8)
    settings = GraphSettings(
        augment=AUGMENTATIONS["light"], normalisation=normalisation, encoded=False, on_device=False, height=SIZE,
        width=SIZE, device_id=None, threads=2, queue_depth=1, batch_size=COUNT, half=normalisation is not None,
    )  # fmt: skip
    assert torch.equal(run_graph(replace(settings, warp_views=True), patches), run_graph(settings, patches))
