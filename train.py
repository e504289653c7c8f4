"""Train a network: Kaggle's folder or .zip -> runs/<name>/.

python train.py --data-dir DIR_OR_ZIP              trains by the preset "fast"
python train.py --resume --out-dir runs/NAME       continues a run that was stopped or killed
torchrun --nproc-per-node=N train.py ...           trains with N processes on the same batches
"""

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from pipeline.command import run_command
from pipeline.files import write_json
from pipeline.left_out import write_left_out
from pipeline.split import write_split
from report.run_page import write_run_report
from training.build import build_step, build_trainer, describe_run
from training.config import TrainConfig
from training.device import choose_device, choose_precision, describe_device, prepare_backends, slow_bf16
from training.diagnose import BF16, COMPILE, diagnose
from training.distributed import World
from training.inputs import TrainInputs, train_inputs, train_patches
from training.interrupt import Stopped, StopRequest
from training.loop import Trainer
from training.progress import Progress
from training.run_folder import RunFolder, describe_environment, require_size, settled
from training.step import TrainStep, random_batch

# Validation patches that the report asks the network about again: some seconds on two cores.
REPORT_PATCHES = 100


def train(argv: Sequence[str]) -> None:
    """Run the command line ``argv``. Raises UserError for what the user can mend, Stopped after a signal."""
    world = World.from_environment()
    with world.connected(), ExitStack() as held:
        config = world.broadcast(held.enter_context(settled(argv)) if world.is_main else None)
        folder = RunFolder(config.run.out_dir)
        device = choose_device(config.run.device, world.local_rank)
        precision = choose_precision(config.optim.precision, device)
        prepare_backends(device)
        patches = train_patches(config, folder, device, world)
        step = build_step(config, patches, device=device, precision=precision, world=world)
        with train_inputs(config, patches, device, world, meanwhile=compile_ahead(config, step, world)) as inputs:
            stop = StopRequest()
            trainer = build_trainer(config, folder, inputs, step, world=world, stop=stop)
            begin(config, folder, inputs, trainer, world)
            parameters = sum(p.numel() for p in step.model.parameters())
            world.say(
                f"{config.model.name}, {parameters / 1e6:.2f} M parameters, {precision.name} on"
                f" {describe_device(device)}; run folder {folder.path}"
            )
            with stop.listening(second_stops=world.size == 1):
                try:
                    progress = trainer.fit()
                except Stopped:
                    world.say(f"stopped at step {trainer.progress.step}; continue with: {folder.resume_command}")
                    raise
        if world.is_main:
            finish(config, folder, progress, inputs, step)


def compile_ahead(config: TrainConfig, step: TrainStep, world: World) -> Callable[[tuple[int, int]], None] | None:
    """What to do while the files are opened: compiling needs no patches. None where nothing is compiled."""
    if not config.optim.compile:
        return None

    def warm_up(patch_size: tuple[int, int]) -> None:
        began = time.perf_counter()
        step.warm_up(*random_batch(config.optim.batch_size // world.size, patch_size, step.device))
        world.say(f"compiled in {time.perf_counter() - began:.0f} s")

    return warm_up


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
    if not resume:
        write_json(folder.config, describe_run(config, inputs))
        folder.left_out.unlink(missing_ok=True)  # of an earlier run that came to nothing
        write_split(folder.split, inputs.patches.table.ids, inputs.patches.split)
        if config.data.on_bad == "skip":
            write_left_out(folder.left_out, inputs.patches.table.left_out)
    write_json(folder.environment, describe_environment(trainer.step.device, trainer.step.precision, world.size))


def finish(config: TrainConfig, folder: RunFolder, progress: Progress, inputs: TrainInputs, step: TrainStep) -> None:
    """Draw the plots, write the report, and say what came out and where it is."""
    tried = [COMPILE] * config.optim.compile + [BF16] * (step.precision.name != "fp32" or slow_bf16(step.device))
    print(diagnose(progress.history, inputs.train, tried))
    # Before the report: where the disk is full by now, the weights are what matters.
    where = f"in {folder.best}" if folder.best.exists() else f"; its weights are gone: there is no {folder.best}"
    print(
        f"best validation AUC {progress.best_auc:.4f} (epoch {progress.best_epoch}) {where}"
        + (" [SYNTHETIC data]" if inputs.patches.table.synthetic else "")
    )
    report = write_run_report(folder.path, data_dir=inputs.patches.root, patches=REPORT_PATCHES)
    print(f"plots in {folder.path / 'plots'}, report in {report} (more patches: python -m report {folder.path})")


def main() -> int:
    """Entry point; returns the exit status."""
    return run_command(lambda: train(sys.argv[1:]))


if __name__ == "__main__":
    sys.exit(main())
