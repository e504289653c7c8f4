"""The DALI graph: decode -> augment -> normalise. One builder for every source, on the CPU and on a GPU.

The graph draws nothing at random: it is a pure function of the pixels and of the parameters that
``pipeline.batches.plan`` has drawn, which arrive with each batch. It ends in NHWC, which torch sees as channels-last.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from nvidia.dali import fn, pipeline_def, types
from nvidia.dali import math as dali_math
from nvidia.dali.pipeline import Pipeline

from pipeline.batches.plan import EpochPlan, view_matrices
from pipeline.settings import AugmentSettings, Normalisation
from pipeline.tiff.decode import decoded, keep_buffers
from system.compiler import require_memory_for_numba
from system.errors import reason, warn_once

# One uint8 step of optical density: log((255 + 1) / (v + 1)) stays finite at black.
_DENSITY = np.log(256 / (np.arange(256) + 1)).astype(np.float32)


@dataclass(frozen=True)
class GraphSettings:
    """What the graph does and where."""

    augment: AugmentSettings
    """Which augmentations are built in; their parameters come with each batch."""
    normalisation: Normalisation | None
    """None ends in the augmented uint8 pixels."""
    encoded: bool
    """Input is the bytes of image files rather than pixels."""
    on_device: bool
    """Input already lies in GPU memory: patches, never the parameters."""
    height: int
    width: int
    device_id: int | None
    """CUDA device, or None for the CPU."""
    threads: int
    """DALI's worker threads."""
    queue_depth: int
    """Batches in flight."""
    batch_size: int
    """Largest batch, patches."""
    warp_views: bool = False
    """Views come as ``view_matrices``, for one ``warp_affine`` to the nearest pixel. For GPUs: there flips and a
    conditional transpose gave wrong pixels in large batches (DALI 2.4 on an H200)."""
    half: bool = False
    """End in float16 rather than float32: for GPUs, where it halves the traffic (on a CPU it is slower)."""


def plan_inputs(augment: AugmentSettings, normalisation: Normalisation | None) -> list[str]:
    """Names of the EpochPlan fields that the graph built from these settings takes, in order."""
    fields = []
    if augment.dihedral:
        fields.append("view")
    if augment.affine:
        fields.append("affine")
    if augment.stain:
        fields.append("stain")
    if augment.colour and normalisation:
        fields.append("colour")
    return fields


def plan_rows(
    plan: EpochPlan, fields: Sequence[str], samples: np.ndarray, warp_side: int | None = None
) -> list[np.ndarray]:
    """The plan's parameters for these samples, one array [len(samples), ...] for each field.

    ``warp_side``: of square patches whose views are wanted as matrices.
    """
    rows = {field: getattr(plan, field)[samples] for field in fields}
    if warp_side is not None and "view" in rows:
        rows["view"] = view_matrices(rows["view"], warp_side)
    return list(rows.values())


def build_graph(settings: GraphSettings, next_batch: Callable[[], tuple[Any, ...]], stream: Any = None) -> Pipeline:
    """Build the DALI pipeline.

    Args:
        settings: what to build.
        next_batch: called on the thread that runs the pipeline; returns (patches, [labels, *parameters]):
            patches [B, H, W, 3] uint8, or a list of B uint8 byte arrays if ``settings.encoded``; labels [B, 1]
            float32; one array per name of ``plan_inputs``. Raises StopIteration at the end of an epoch. On a CPU
            DALI reads patches where they lie: they must be left alone until their batch has come out. All else it
            has copied once it calls again.
        stream: the CUDA stream on which patches in GPU memory are ready, and may be overwritten; DALI copies them
            there. None where they are not in GPU memory.

    Returns:
        A pipeline whose run() gives (x [B, H, W, 3], y [B, 1] float32): x uint8, float32 or float16.
    """
    keep_buffers()
    fields = plan_inputs(settings.augment, settings.normalisation)
    feed = _Feed(next_batch, stream)
    pipeline = _graph(
        settings,
        feed,
        fields,
        _cpu_operator(settings),
        batch_size=settings.batch_size,
        num_threads=settings.threads,
        device_id=settings.device_id,
        prefetch_queue_depth=settings.queue_depth,
    )
    pipeline.build()
    return pipeline


def _cpu_operator(settings: GraphSettings) -> Any | None:
    """The operator that does view, colour and normalisation in one pass on a CPU; None where it does not apply."""
    augment = settings.augment
    in_between = augment.affine or augment.stain
    if settings.device_id is not None or settings.half or settings.normalisation is None or in_between:
        return None
    if augment.dihedral and settings.height != settings.width:
        return None
    try:
        require_memory_for_numba()
        from pipeline.batches.cpu_kernel import one_pass

        return one_pass(coloured=augment.colour)
    except Exception as error:  # numba is not there, cannot be loaded or cannot compile: DALI does it too
        hint = ": pip install numba" if isinstance(error, ModuleNotFoundError) else ""
        why = f"{reason(error)}{hint}"
        warn_once(f"augmentation on the CPU takes DALI's own operators, at a quarter of the speed ({why})")
        return None


class _Feed:
    """Serves one batch to DALI's two external sources: the patches may lie on a GPU, the parameters never do.

    DALI asks each source once an iteration, in an order of its own, and also asks the second one after the first
    has raised StopIteration.
    """

    def __init__(self, next_batch: Callable[[], tuple[Any, list[np.ndarray]]], stream: Any) -> None:
        self.stream = stream
        self._next_batch = next_batch
        self._waiting: dict[int, Any] = {}

    def patches(self) -> Any:
        return self._take(mine=0, other=1)

    def parameters(self) -> list[np.ndarray]:
        return self._take(mine=1, other=0)

    def _take(self, mine: int, other: int) -> Any:
        if mine not in self._waiting:
            try:
                batch = self._next_batch()
            except StopIteration:
                self._waiting[other] = None
                raise
            self._waiting[other] = batch[other]
            return batch[mine]
        part = self._waiting.pop(mine)
        if part is None:
            raise StopIteration
        return part


# exec_dynamic: outputs are freed when the last torch view of them goes, so a batch that is kept stays valid.
@pipeline_def(enable_conditionals=True, exec_dynamic=True)
def _graph(settings: GraphSettings, feed: _Feed, fields: list[str], cpu_operator: Any | None):
    patches = fn.external_source(
        source=feed.patches,
        dtype=types.UINT8,
        ndim=1 if settings.encoded else 3,
        layout="" if settings.encoded else "HWC",
        device="gpu" if settings.on_device else "cpu",
        cuda_stream=feed.stream,
        # A copy would be made by the thread that trains, of 5 us a patch: more than reading them from memory takes.
        no_copy=settings.device_id is None,
    )
    bits = [field == "view" and not settings.warp_views for field in fields]
    label, *parameters = fn.external_source(
        source=feed.parameters,
        num_outputs=1 + len(fields),
        dtype=[types.FLOAT] + [types.INT32 if whole else types.FLOAT for whole in bits],
        ndim=[1] + [1 if whole else 2 for whole in bits],
    )
    drawn = dict(zip(fields, parameters))  # noqa: B905  (DALI rewrites this function; its zip has no strict)
    on_gpu = settings.device_id is not None
    if settings.encoded:
        patches = decoded(patches, on_gpu=on_gpu)
    elif on_gpu and not settings.on_device:
        patches = patches.gpu()
    if cpu_operator is not None:
        view = drawn["view"] if settings.augment.dihedral else fn.constant(idata=[0, 0, 0], shape=[3])
        parameters = drawn["colour"] if settings.augment.colour else _mean_and_gain(settings.normalisation)
        patches = cpu_operator(patches, view, parameters)
    else:
        patches = _augment(patches, drawn, settings)
    return patches, label.gpu() if on_gpu else label


def _augment(patches, drawn, settings: GraphSettings):
    if "view" in drawn:
        patches = _dihedral(patches, drawn["view"], settings)
    if "affine" in drawn:
        patches = fn.warp_affine(patches, matrix=drawn["affine"])
    if "stain" in drawn:
        patches = _stain(patches, drawn["stain"])
    if settings.normalisation is not None:
        patches = _normalise(patches, drawn.get("colour"), settings)
    return patches


def _mean_and_gain(normalisation: Normalisation):
    """[2, 3] float32 for pixels in [0, 255], rounded as ``crop_mirror_normalize`` rounds them."""
    mean, std = (255 * np.array(values) for values in (normalisation.mean, normalisation.std))
    gain = np.float32(1) / std.astype(np.float32)
    return fn.constant(fdata=[*mean.tolist(), *gain.tolist()], shape=[2, 3], dtype=types.FLOAT)


def _dihedral(patches, view, settings: GraphSettings):
    """One of the eight flips and quarter turns, exactly: flips, then a transpose for half of the patches."""
    if settings.warp_views:
        return fn.warp_affine(patches, matrix=view, interp_type=types.INTERP_NN)
    patches = fn.flip(patches, horizontal=view[0], vertical=view[1])
    if view[2]:  # noqa: SIM108  (a conditional of the graph, not of Python)
        patches = fn.transpose(patches, perm=[1, 0, 2], transpose_layout=False)
    else:
        patches = patches  # noqa: PLW0127  (DALI's conditionals want both branches to assign)
    return patches


def _stain(patches, matrix):
    """Stain jitter: linear in optical density, hence a table, a matrix and an exponential."""
    density = fn.lookup_table(patches, keys=list(range(256)), values=_DENSITY.tolist(), dtype=types.FLOAT)
    density = fn.coord_transform(density, MT=matrix)
    return fn.cast_like(dali_math.clamp(256 * dali_math.exp(-density) - 0.5, 0, 255), patches)


def _normalise(patches, colour, settings: GraphSettings):
    if colour is not None:
        coloured = fn.coord_transform(patches, MT=colour, dtype=types.FLOAT)  # which has no FLOAT16
        return fn.cast(coloured, dtype=types.FLOAT16) if settings.half else coloured
    normalised = fn.crop_mirror_normalize(
        patches,
        mean=[255 * value for value in settings.normalisation.mean],
        std=[255 * value for value in settings.normalisation.std],
        output_layout="HWC",
        dtype=types.FLOAT,
    )
    # Its FLOAT16 on a GPU was 0.002 from the exact value, seven units in the last place near 0.26.
    return fn.cast(normalised, dtype=types.FLOAT16) if settings.half else normalised
