"""python -m bench COMMAND: what the input path delivers, what bounds it, and how it is tuned."""

import sys
from collections.abc import Sequence

import streams
from bench.commands import COMMANDS


def describe() -> str:
    """The text of --help. It imports nothing, so that it is there at once."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name.ljust(width)}  {command.what}" for name, command in COMMANDS.items()]
    return "\n".join(
        [__doc__, "", "usage: python -m bench COMMAND [--data-dir DIR_OR_ZIP] [--out FILE.json]", "",
         "Begin with doctor: it says what bounds training on this machine, and which setting to change.", "",
         *lines, "",
         "python -m bench COMMAND --help lists a command's options."]
    )  # fmt: skip


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

    from pipeline.command import run_command

    command = COMMANDS[name]

    def run() -> None:
        settings = tyro.cli(command.load(), prog=f"python -m bench {name}", description=command.what, args=options)
        if (check := getattr(settings, "require_measurable", None)) is not None:
            check()
        settings.run()

    return run_command(run)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
