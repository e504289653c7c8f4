"""python -m bench peers: the input path beside others, measured in one run."""

import sys

import tyro

from bench.peers import Peers
from training.command import run_command


def main() -> int:
    """Entry point; returns the exit status."""
    command = tyro.extras.subcommand_cli_from_dict({"peers": Peers}, prog="python -m bench", description=__doc__)
    return run_command(command.run)


if __name__ == "__main__":
    sys.exit(main())
