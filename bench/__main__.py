"""python -m bench COMMAND: what the input path delivers, and what bounds it."""

import sys
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from bench.commands import COMMANDS, require_outputs
from system import streams
from system.command import leave


def describe() -> str:
    """The text of --help. It imports nothing, so that it is there at once."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name.ljust(width)}  {command.what}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            __doc__,
            "",
            "usage: python -m bench COMMAND [--data-dir DIR_OR_ZIP] [--out FILE.json]",
            "",
            "Begin with doctor: it says what bounds training on this machine, and which setting to change.",
            "",
            *lines,
            "",
            "python -m bench COMMAND --help lists a command's options.",
        ]
    )


def check(told: Any) -> None:
    """Raise UserError for options that cannot be measured by, before anything heavy is imported."""
    from system.errors import UserError

    if (require := getattr(told, "require_measurable", None)) is not None:
        require()
    data_dir = getattr(told, "data_dir", None)
    if data_dir is not None and not data_dir.exists():
        raise UserError(f"--data-dir {data_dir}: expected Kaggle's folder or .zip, found nothing there")
    results = getattr(told, "results", ())
    if results and not any(path.exists() for path in results):
        raise UserError(f"{results[0]}: expected a result file or a folder of them, found nothing there")
    from training.device import require_possible

    require_possible(getattr(told, "device", "auto"), getattr(told, "precision", "auto"))


def main(argv: Sequence[str]) -> int:
    """Entry point; returns the exit status."""
    streams.steady()
    if not argv or argv[0] in ("-h", "--help"):
        print(describe())
        return 1 if streams.incomplete() else 0
    name, *options = argv
    if name not in COMMANDS:
        print(f"error: command {name!r} is unknown; expected one of {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    import tyro  # here, as torch and DALI below: --help answers without them

    from system.command import run_command

    command = COMMANDS[name]

    def run() -> None:
        told = tyro.cli(command.options(), prog=f"python -m bench {name}", description=command.what, args=options)
        check(told)
        require_outputs(told)
        command.load()(**{field.name: getattr(told, field.name) for field in fields(told)}).run()

    return run_command(run)


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
