"""Say before anything is installed what this machine lacks. Runs on any Python 3, with nothing installed."""

import argparse
import importlib.util
import platform
import shutil
import sys

NEEDED_PYTHON = (3, 11)


def complaints(needed_gb):
    """What is missing, one line each, with what to do."""
    found = []
    if sys.version_info < NEEDED_PYTHON:
        found.append(
            "Python %d.%d or later is needed, found %s; install it and run: make PYTHON=python3.11 ..."
            % (*NEEDED_PYTHON, platform.python_version())
        )
    if importlib.util.find_spec("ensurepip") is None or importlib.util.find_spec("venv") is None:
        found.append(
            "Python's venv module is missing; on Debian and Ubuntu: sudo apt install python%d.%d-venv"
            % sys.version_info[:2]
        )
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"):
        found.append("NVIDIA DALI runs on Linux (x86-64 or Arm), found %s %s" % (sys.platform, platform.machine()))
    free_gb = shutil.disk_usage(".").free / 1e9
    if free_gb < needed_gb:
        found.append("%s GB of free disk space are needed here, found %.1f GB" % (needed_gb, free_gb))
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("needed_gb", type=float, help="free disk space that is needed here, GB")
    missing = complaints(parser.parse_args().needed_gb)
    for line in missing:
        print("error: " + line, file=sys.stderr)
    sys.exit(1 if missing else 0)
