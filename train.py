"""Train a network: Kaggle's folder or .zip -> runs/<name>/.

python train.py --data-dir DIR_OR_ZIP              trains by the preset "fast"
python train.py --resume --out-dir runs/NAME       continues a run that was stopped or killed
torchrun --nproc-per-node=N train.py ...           trains with N processes on the same batches
"""

import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from system.advice import command
from system.command import Stopped, leave, run_command
from system.errors import UserError
from system.shown import waiting
from training.config import TrainConfig
from training.distributed import World
from training.run_folder import RunFolder, settled

if TYPE_CHECKING:
    from training.session import Learned

# Validation patches that the report asks the network about again: some seconds on two cores.
REPORT_PATCHES = 100


def train(argv: Sequence[str]) -> None:
    """Run the command line ``argv``. Raises UserError for what the user can mend, Stopped after a signal."""
    world = World.from_environment()
    with world.connected(), ExitStack() as held:
        # What is heavy is imported once it is needed: a mistake is told before, at once.
        config = world.broadcast(held.enter_context(settled(argv)) if world.is_main else None)
        folder = RunFolder(config.run.out_dir)
        from training.patches import train_patches  # NumPy

        patches = train_patches(config, folder, world)
        with waiting("loading PyTorch", shown=world.is_main):
            from training.session import learned  # torch and DALI, which take seconds

        with learned(config, patches, folder, world) as run:
            if world.is_main:
                finish(config, folder, run)


def finish(config: TrainConfig, folder: RunFolder, run: "Learned") -> None:
    """Say what came out and where it is; predict the test patches if asked to; then draw the plots and the report."""
    from training.diagnose import diagnose

    doctor = command("bench doctor", "--data-dir", config.data.data_dir)
    print(diagnose(run.progress.history, run.inputs.train, run.contention, doctor))
    # Before the report: where the disk is full by now, the weights are what matters.
    where = f"in {folder.best}" if folder.best.exists() else f"; its weights are gone: there is no {folder.best}"
    print(
        f"best validation AUC {run.progress.best_auc:.4f} (epoch {run.progress.best_epoch}) {where}"
        + (" [SYNTHETIC data]" if run.inputs.patches.table.synthetic else "")
    )
    if run.test is not None:
        submit(config, folder, run)
    again = command("report", folder.path)
    try:
        print("drawing the plots and the report …", flush=True)
        with waiting("drawing"):
            from report.run_page import write_run_report  # matplotlib

            report = write_run_report(folder.path, data_dir=run.inputs.patches.root, patches=REPORT_PATCHES)
    except (KeyboardInterrupt, Stopped) as stopped:
        print(f"\ninterrupted: the report is not finished, all else is; make it: {again}", file=sys.stderr)
        raise (stopped if isinstance(stopped, Stopped) else Stopped(signal.SIGINT)) from stopped
    except UserError as error:
        raise UserError(f"{error}; the report is not finished, all else is; make it: {again}") from error
    print(f"plots in {folder.path / 'plots'}, report in {report} (more patches: {again})", flush=True)


def submit(config: TrainConfig, folder: RunFolder, run: "Learned") -> None:
    """Write the submission that --submission asks for; with --calibrated the temperature is fitted first."""
    from training.submitting import write_submission_of

    if config.submit.calibrated:
        from report.run_page import calibrate_run

        calibrate_run(folder.path)
    write_submission_of(config, folder, run.inputs.patches, run.test, run.step.precision)


def main() -> int:
    """Entry point; returns the exit status."""
    return run_command(lambda: train(sys.argv[1:]), joins=True)


if __name__ == "__main__":
    leave(main())
