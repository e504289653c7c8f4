"""`make matrix`: the tests that read and write files, with the oldest and the newest packages that are allowed.

python tests/matrix.py            every row, on each of Python 3.11, 3.12 and 3.13 that is found
python tests/matrix.py --ends     the oldest and the newest alone, on the Python that runs this

Rows on this Python borrow what does not vary (torch, DALI) from the environment that runs this; those on other Pythons
do without, so that tests which need torch are left out there. Environments are made anew in --out, of some 200 MB each.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHONS = ("3.11", "3.12", "3.13")
VARIED = ("numpy", "pandas", "tyro", "pillow", "h5py")
# What the tests below import in_background them, where nothing is borrowed.
NEEDED = ("numba", "scikit-learn", "scipy", "tqdm", "safetensors", "pytest", "hypothesis", "tifffile")
WITHOUT_TORCH = (
    "tests/pipeline/test_dataset.py", "tests/pipeline/test_find_data.py", "tests/pipeline/test_tables.py",
    "tests/pipeline/test_submission.py", "tests/pipeline/test_tiff.py", "tests/pipeline/test_decode_cache.py",
    "tests/pipeline/test_stratify.py",
    "tests/system/test_files.py",
)  # fmt: skip
WITH_TORCH = (*WITHOUT_TORCH, "tests/pipeline/test_pack_verify.py")
SHOWN = ("numpy", "pandas", "pyarrow", "tyro", "pillow", "torch")
PROBE = f"""
import importlib.metadata as m, json
def version(name):
    try: return m.version(name)
    except m.PackageNotFoundError: return "-"
print(json.dumps({{name: version(name) for name in {SHOWN!r}}}))
"""
LIMIT_S = 900


@dataclass(frozen=True)
class Row:
    """One environment."""

    name: str
    python: str
    oldest: bool
    pyarrow: bool

    @property
    def borrows(self) -> bool:
        """Whether it is for the Python that runs this, and can use its packages."""
        return self.python == f"{sys.version_info.major}.{sys.version_info.minor}"


def rows(ends: bool) -> Iterator[Row]:
    """Those to try."""
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    yield Row("oldest", here, True, False)
    yield Row("newest", here, False, True)
    if not ends:
        yield Row("newest, no pyarrow", here, False, False)
        yield Row("oldest, pyarrow", here, True, True)
        for python in PYTHONS:
            if python != here:
                yield Row("oldest", python, True, False)
                yield Row("newest", python, False, True)


def find_python(version: str) -> str | None:
    """An interpreter of that version: on the PATH, or one of pyenv's or uv's."""
    if version == f"{sys.version_info.major}.{sys.version_info.minor}":
        return sys.executable
    candidates = [shutil.which(f"python{version}")]
    candidates += sorted(map(str, Path.home().glob(f".pyenv/versions/{version}.*/bin/python{version}")))
    if uv := shutil.which("uv"):
        found = subprocess.run([uv, "python", "find", version], capture_output=True, text=True, check=False)
        candidates.append(found.stdout.strip() or None)
    code = "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"
    for candidate in filter(None, candidates):
        found = subprocess.run([candidate, "-c", code], capture_output=True, text=True, check=False)
        if found.stdout.strip() == version:
            return candidate
    return None


def requirements(row: Row) -> list[str]:
    """What to install for a row, by pyproject.toml's bounds."""
    said = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    bounds = {re.split(r"[<>=!~ ]", text)[0]: text for text in said}
    wanted = []
    for name in VARIED:
        if name in bounds:
            floor = re.search(r">=([\d.]+)", bounds[name])[1]
            wanted.append(f"{name}=={least_for(row.python, name, floor)}" if row.oldest else bounds[name])
    if not row.borrows:
        wanted += [bounds[name] for name in NEEDED if name in bounds]
    return wanted + ["pyarrow"] * row.pyarrow


def least_for(python: str, name: str, floor: str) -> str:
    """The oldest release that has a build for a Python: newer Pythons came after some of them."""
    first = {
        ("3.13", "numpy"): "2.1", ("3.13", "pandas"): "2.2.3", ("3.13", "h5py"): "3.12",
    }  # fmt: skip
    later = first.get((python, name), floor)
    return max(floor, later, key=lambda text: [int(part) for part in text.split(".")]) + ".*"


def make(row: Row, interpreter: str, place: Path) -> Path:
    """Make the row's environment; its Python."""
    subprocess.run([interpreter, "-m", "venv", "--without-pip", "--clear", place], check=True)
    python = place / "bin" / "python"
    if row.borrows:
        (inner,) = place.glob("lib/python*/site-packages")
        (inner / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python),
        "install",
        "--disable-pip-version-check",
        "-q",
        "--no-compile",
    ]
    # Borrowed packages count as installed: whatever is to vary, and what it needs, is put beside them, in front.
    options = ["--ignore-installed"] if row.borrows else []
    subprocess.run([*pip, *options, "--only-binary", ":all:", *requirements(row)], check=True)
    return python


def try_row(row: Row, interpreter: str, place: Path) -> tuple[bool, str]:
    """Run the row's tests: whether they passed, and a line of the table."""
    began = time.monotonic()
    try:
        python = make(row, interpreter, place)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        environment |= {"OMP_NUM_THREADS": "1", "NUMBA_CACHE_DIR": str(place / "numba")}
        probe = subprocess.run([python, "-c", PROBE], capture_output=True, text=True, check=True, env=environment)
        versions = json.loads(probe.stdout)
        command = [python, "-m", "pytest", "-p", "no:cacheprovider", *(WITH_TORCH if row.borrows else WITHOUT_TORCH)]
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=LIMIT_S
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired, OSError) as error:
        return False, line_of(row, {}, f"not run: {error}", time.monotonic() - began)
    said = done.stdout.strip().splitlines()
    if done.returncode:
        print(done.stdout[-6000:], done.stderr[-2000:], file=sys.stderr)
    return not done.returncode, line_of(
        row, versions, said[-1] if said else done.stderr[-200:], time.monotonic() - began
    )


def line_of(row: Row, versions: dict[str, str], outcome: str, seconds: float) -> str:
    """One line of the table."""
    cells = [row.name, row.python, *(versions.get(name, "") for name in SHOWN), outcome.strip("= "), f"{seconds:.0f} s"]
    return "| " + " | ".join(cells) + " |"


def main() -> int:
    """Entry point; the exit status is 1 if a row failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ends", action="store_true", help="the oldest and the newest alone, on this Python")
    parser.add_argument("--out", type=Path, default=ROOT / "data" / "matrix", help="folder for the environments")
    options = parser.parse_args()
    table, failed = (
        [line_of(Row("packages", "Python", False, False), dict(zip(SHOWN, SHOWN, strict=True)), "tests", 0)],
        0,
    )
    for number, row in enumerate(rows(options.ends)):
        interpreter = find_python(row.python)
        if interpreter is None:
            table.append(line_of(row, {}, f"skipped: no Python {row.python} with venv here", 0))
            continue
        place = options.out / f"env{number}"
        passed, line = try_row(row, interpreter, place)
        failed += not passed
        table.append(line)
        print(line, flush=True)
        shutil.rmtree(place, ignore_errors=True)
    print("\n" + "\n".join(table))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
