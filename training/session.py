"""A training run from its settings to its last epoch."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

from models.views import TTA_VIEWS
from pipeline.data.split import write_split
from pipeline.settings import InputSettings
from pipeline.sources.left_out import write_left_out
from system import streams
from system.files import write_csv, write_json
from system.shown import waiting
from training.build import build_step, build_trainer, describe_run, require_fit
from training.compiling import keep_compiled
from training.config import TrainConfig
from training.contention import Contention, CoreWatch
from training.device import choose_device, choose_precision, describe_device, prepare_backends
from training.distributed import World
from training.environment import describe_environment
from training.inputs import TrainInputs, check_size, first_size, opening, train_inputs
from training.interrupt import Stopped, StopRequest
from training.loop import Trainer
from training.patches import TrainPatches
from training.progress import Progress
from training.run_folder import RunFolder, next_number, require_size
from training.step import TrainStep, random_batch
from training.submitting import SubmissionPatches
from training.tensorboard_log import TensorBoardLog


@dataclass(frozen=True)
class Learned:
    """What a run has come to."""

    progress: Progress
    step: TrainStep
    inputs: TrainInputs
    test: SubmissionPatches | None
    """What is to be predicted; None without --submission."""
    contention: Contention | None = None
    """Who kept the cores busy while it trained; None where that is not known, or nothing was left to train."""


@contextmanager
def learned(config: TrainConfig, patches: TrainPatches, folder: RunFolder, world: World) -> Iterator[Learned]:
    """Train to the last epoch; the loaders are open until the block ends.

    Raises:
        UserError: the device, the files or the last checkpoint cannot be used, or training diverged.
        Stopped: a signal came; the run can be continued.
    """
    # Before torch.compile's modules are imported, as they settle then for a place of their own.
    if config.optim.compile and (kept := keep_compiled(config.data.cache_dir)) is not None:
        world.say(f"what is compiled is kept in {kept}")
    device = choose_device(config.run.device, world.local_rank)
    precision = choose_precision(config.optim.precision, device)
    prepare_backends(device)
    data = config.data
    settings = InputSettings(source=data.source, workers=data.workers, engine=data.engine)
    test = None
    if patches.test is not None:
        test = SubmissionPatches(patches.test, settings, device, data.cache_dir)
    with opening(config, patches, settings, device, world) as wait_for_source:
        # The first optimiser imports torch._dynamo, which takes one to two seconds: beside the files.
        with waiting("building the network", shown=world.is_main):
            step = build_step(config, patches, device=device, precision=precision, world=world)
        compiled_for = compile_ahead(config, patches, step, world)
        source = wait_for_source()
    check_size(source.height, source.width, data.augment)
    if test is not None:
        test.require_good((source.height, source.width))
    if compiled_for != (source.height, source.width):
        warm_up(config, step, (source.height, source.width), world)
    with (
        train_inputs(config, patches, source, settings, device, world) as inputs,
        test.ended() if test is not None else nullcontext(),
    ):
        stop = StopRequest()
        trainer = build_trainer(config, folder, inputs, step, world=world, stop=stop)
        if test is not None:
            trainer.before_last_epoch = test.begin
        if config.run.log == "tensorboard":
            trainer.after_epoch = TensorBoardLog(folder.path).write
        begin(config, folder, inputs, trainer, world)
        parameters = sum(p.numel() for p in step.model.parameters())
        world.say(
            f"{config.model.name}, {parameters / 1e6:.2f} M parameters, {precision.name} on"
            f" {describe_device(device)}; run folder {folder.path}"
        )
        with stop.listening(second_stops=world.size == 1):
            cores = CoreWatch()
            try:
                progress = trainer.fit()
            except Stopped:
                if world.is_main:
                    said = f"stopped at step {trainer.progress.step}; continue with: {folder.resume_command}"
                    streams.tell(said, terminal=True)
                raise
        contention = cores.found() if world.size == 1 else None
        yield Learned(progress, step, inputs, test, contention)


def compile_ahead(config: TrainConfig, patches: TrainPatches, step: TrainStep, world: World) -> tuple[int, int] | None:
    """Compile for patches of the first file's (height, width), pixels, while the others are opened; says for which.

    None where nothing is compiled yet: the first file does not tell, or several processes wait for one another.
    """
    if not config.optim.compile or world.size > 1:
        return None
    size = first_size(patches.table, config.data.augment)
    if size is not None:
        warm_up(config, step, size, world)
    return size


def warm_up(config: TrainConfig, step: TrainStep, patch_size: tuple[int, int], world: World) -> None:
    """Compile for patches of this (height, width), pixels, where compiling is asked for.

    Raises:
        UserError: the network does not take such patches.
    """
    require_fit(config, step, patch_size)
    if not config.optim.compile:
        return
    began = time.perf_counter()
    count, channels = config.optim.batch_size // world.size, config.optim.pad_channels
    with waiting("compiling", shown=world.is_main):
        step.warm_up(*random_batch(count, patch_size, step.device, channels=channels))
    world.say(f"compiled in {time.perf_counter() - began:.0f} s")


def begin(config: TrainConfig, folder: RunFolder, inputs: TrainInputs, trainer: Trainer, world: World) -> None:
    """Load the last checkpoint, or make the run folder with all that is known before the first step."""
    resume = config.run.resume and folder.last.exists()
    if resume:
        require_size(folder, inputs.patch_size)
        trainer.load()
        world.say(f"{folder.path}: {trainer.progress.describe(config.optim.epochs, len(inputs.train))}")
    elif config.run.resume:
        world.say(f"{folder.path}: nothing to resume; starting from the beginning")
    if not world.is_main:
        return
    folder.create()
    if trainer.progress.epoch < config.optim.epochs:
        for views in TTA_VIEWS:  # scores of weights that may change now
            folder.test_scores(views).unlink(missing_ok=True)
    if not resume:
        write_json(folder.config, {**describe_run(config, inputs), "number": next_number(folder.path)})
        folder.left_out.unlink(missing_ok=True)  # of an earlier run that came to nothing
        write_split(folder.split, inputs.patches.table.ids, inputs.patches.split)
        if (slides := inputs.patches.table.slides) is not None:
            rows = inputs.patches.split.validation
            of_ids = zip(inputs.patches.table.ids[rows].tolist(), slides[rows].tolist(), strict=True)
            write_csv(folder.slides, ("id", "wsi"), of_ids)
        if config.data.leaves_out:
            write_left_out(folder.left_out, inputs.patches.table.left_out)
    write_json(folder.environment, describe_environment(trainer.step.device, trainer.step.precision, world.size))
