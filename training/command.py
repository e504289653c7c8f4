"""How the command lines that train and predict end: those of ``pipeline.command``, and a GPU's own."""

from collections.abc import Callable

import torch

from pipeline import command
from pipeline.errors import UserError
from training.interrupt import Stopped


def run_command(work: Callable[[], object]) -> int:
    """Run ``work`` and return the exit status: as ``pipeline.command.run_command``; 130 and 143 after SIGINT and
    SIGTERM; a GPU whose memory is full is said with what to lower.
    """
    try:
        return command.run_command(lambda: _name_full_memory(work))
    except Stopped as stopped:
        return stopped.exit_status


def _name_full_memory(work: Callable[[], object]) -> None:
    try:
        work()
    except torch.OutOfMemoryError as error:
        reason = str(error).split(". ")[0]
        raise UserError(
            f"the GPU's memory is full: {reason}. Lower --batch-size, choose a smaller --model, keep the patches out"
            " of it (--source packed), or end what else uses the GPU"
        ) from error
