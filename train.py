"""Train a network: Kaggle's folder or .zip -> runs/<name>/.

python train.py --data-dir DIR_OR_ZIP              trains by the preset "fast"
python train.py --resume --out-dir runs/NAME       continues a run that was stopped or killed
torchrun --nproc-per-node=N train.py ...           trains with N processes on the same batches
"""

import sys
from collections.abc import Sequence

from pipeline.split import split_table
from report.plots import write_run_plots
from training.build import build_model, describe_run, train_inputs
from training.checkpoint import WeightsInfo
from training.command import run_command
from training.config import config_hash
from training.device import choose_device, choose_precision, describe_device, prepare_backends
from training.diagnose import diagnose
from training.distributed import World
from pipeline.files import write_csv, write_json
from training.interrupt import Stopped, StopRequest
from training.loop import Patches, Progress, Trainer
from training.run_folder import RunFolder, describe_environment, settle
from training.step import TrainStep


def train(argv: Sequence[str]) -> None:
    """Run the command line ``argv``. Raises UserError for what the user can mend, Stopped after a signal."""
    world = World.from_environment()
    with world.connected():
        config = world.broadcast(settle(argv) if world.is_main else None)
        folder = RunFolder(config.run.out_dir)
        device = choose_device(config.run.device, world.local_rank)
        precision = choose_precision(config.optim.precision, device)
        prepare_backends(device)
        with train_inputs(config, folder, device, world) as inputs:
            model = build_model(config.model, config.run.seed, world)
            step = TrainStep(
                model, config.optim, total_steps=config.optim.epochs * len(inputs.train), device=device,
                precision=precision, world=world,
            )  # fmt: skip
            stop = StopRequest()
            trainer = Trainer(
                step, inputs.train, inputs.validation, Patches(inputs.table.ids, inputs.table.labels), folder,
                info=lambda epoch, auc: WeightsInfo(
                    config.model.name, config.model.dropout, inputs.normalisation, inputs.patch_size, epoch, auc,
                    inputs.table.synthetic,
                ),
                belongs_to={"config_hash": config_hash(config), "data_fingerprint": inputs.fingerprint},
                seed=config.run.seed, epochs=config.optim.epochs, checkpoint_every=config.run.checkpoint_every,
                world=world, stop=stop,
            )  # fmt: skip
            resume = config.run.resume and folder.last.exists()
            if resume:
                trainer.load()
                world.say(f"{folder.path}: {resuming_at(trainer.progress, len(inputs.train))}")
            elif config.run.resume:
                world.say(f"{folder.path}: nothing to resume; starting from the beginning")
            if world.is_main and not resume:
                folder.create()
                write_json(folder.config, describe_run(config, inputs))
                table = split_table(inputs.table.ids, inputs.split)
                write_csv(folder.split, table.columns, table.itertuples(index=False))
            if world.is_main:
                write_json(folder.environment, describe_environment(device, precision.name, world.size))
            world.say(
                f"{config.model.name}, {sum(p.numel() for p in step.model.parameters()) / 1e6:.2f} M parameters,"
                f" {precision.name} on {describe_device(device)}; run folder {folder.path}"
            )
            with stop.listening(second_stops=world.size == 1):
                try:
                    progress = trainer.fit()
                except Stopped:
                    world.say(f"stopped at step {trainer.progress.step}; continue with: {folder.resume_command}")
                    raise
        if world.is_main:
            finish(folder, progress, synthetic=inputs.table.synthetic)


def resuming_at(progress: Progress, batches: int) -> str:
    """Where a resumed run goes on."""
    return f"resuming in epoch {progress.epoch + 1} at batch {progress.next_batch + 1} of {batches}"


def finish(folder: RunFolder, progress: Progress, *, synthetic: bool) -> None:
    """Draw the plots and say what came out and where it is."""
    plots = write_run_plots(folder.path)
    print(diagnose(progress.history))
    print(f"plots: {', '.join(str(path) for path in plots)}")
    print(
        f"best validation AUC {progress.best_auc:.4f} (epoch {progress.best_epoch}) in {folder.best}"
        + (" [SYNTHETIC data]" if synthetic else "")
    )


def main() -> int:
    """Entry point; returns the exit status."""
    return run_command(lambda: train(sys.argv[1:]))


if __name__ == "__main__":
    sys.exit(main())
