"""What --help and a refusal may import: a mistake is told in the time that importing NumPy takes, not torch's."""

import subprocess
import sys
from pathlib import Path

import pytest

from bench.commands import COMMANDS

PROJECT = Path(__file__).resolve().parents[2]
# Each takes 0.1 to 3 s.
HEAVY = {
    "torch", "torchvision", "sklearn", "scipy", "matplotlib", "jinja2", "nvidia", "numba", "PIL", "safetensors", "tqdm",
    "pandas",
}  # fmt: skip
# What a table is read with, once the command line is right.
READS_TABLES = {"numpy"}


def imported(*words: str) -> tuple[int, set[str], str]:
    """Run python with ``words``: its exit status, the top-level packages it imported, and what it said."""
    run = subprocess.run(
        [sys.executable, "-X", "importtime", *words],
        check=False,
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    lines = run.stderr.splitlines()
    found = {line.rpartition("|")[2].strip().partition(".")[0] for line in lines if line.startswith("import time:")}
    said = "\n".join(line for line in lines if not line.startswith("import time:"))
    return run.returncode, found, run.stdout + said


@pytest.mark.parametrize(
    "program",
    [
        ["train.py"], ["predict.py"], ["explore.py"], ["-m", "report"], ["-m", "pipeline"], ["-m", "pipeline", "pack"],
        ["-m", "pipeline", "synth"], ["-m", "pipeline", "check-submission"], ["-m", "bench"],
        ["-m", "models", "export"], *(["-m", "bench", name] for name in COMMANDS), ["-m", "bench.gpu_check"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_help_imports_nothing_heavy(program: list[str]) -> None:
    status, found, said = imported(*program, "--help")
    assert (status, found & (HEAVY | READS_TABLES)) == (0, set())
    assert "usage" in said.lower()


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("train.py", "--data-dir is missing"),
        ("train.py --data-dir D --epoch 3", "--epoch"),
        ("train.py --data-dir D --epochs three", "three"),
        ("train.py --data-dir D --epochs 0", "--epochs 0: expected at least 1"),
        ("train.py --data-dir D --model resnet81", "resnet81"),
        ("train.py --data-dir D --out-dir tests", "not empty"),
        ("train.py --data-dir D --device cpu --precision fp16", "fp16 needs a GPU"),
        ("train.py --resume --out-dir nowhere/run", "no run in nowhere/run"),
        ("predict.py --data-dir D", "--run"),
        ("predict.py --run nowhere --data-dir D", "--run nowhere: expected the folder of a run"),
        ("predict.py --run tests --data-dir D --tta 3", "tta"),
        ("predict.py --run tests --data-dir D --threshold 7", "--threshold 7"),
        ("explore.py", "data-dir"),
        ("explore.py --data-dir D --out README.md", "README.md"),
        ("explore.py --data-dir D --groups nowhere.csv", "nowhere.csv"),
        ("-m report", "expected the folder of a run, several"),
        ("-m report runs/nowhere", "runs/nowhere: expected the folder of a run"),
        ("-m report tests --patches 0", "--patches 0"),
        ("-m pipeline", "pack"),
        ("-m pipeline pack --data-dir D --workers many", "many"),
        ("-m bench doktor", "doktor"),
        ("-m bench doctor --data-dir nowhere", "--data-dir nowhere: expected Kaggle's folder or .zip"),
        ("-m bench loader --data-dir tests --repeats 0", "--repeats 0"),
        ("-m bench doctor --data-dir tests --seconds soon", "soon"),
        ("-m bench model --batch-sizes 0", "--batch-sizes 0: expected at least 1"),
        ("-m bench plot nowhere", "nowhere: expected a result file"),
        ("-m bench job --data-dir nowhere", "--data-dir nowhere"),
        ("-m models export runs/nowhere --out n.onnx", "runs/nowhere: expected the folder of a run, found nothing"),
        ("-m models export tests --out n.onnx --temperature 0", "--temperature 0"),
        ("-m models export tests --out tests", "expected a file to write or to replace, found a folder"),
        ("-m models export tests --out README.md/n.onnx", "expected a folder at"),
        ("-m models export tests --out n.onnx --tta 3", "tta"),
    ],
)
def test_a_mistake_in_a_command_line_is_told_without_heavy_imports(command: str, expected: str) -> None:
    status, found, said = imported(*command.split())
    assert status in (1, 2) and expected in said and "Traceback" not in said
    assert not found & HEAVY


@pytest.mark.parametrize(
    "command",
    [
        "train.py --device cpu --out-dir {tmp}/run", "predict.py --run {tmp} --out {tmp}/s.csv",
        "explore.py --out {tmp}/e", "-m pipeline pack --out {tmp}/c", "-m pipeline verify --cache-dir {tmp}/c",
        "-m pipeline check-submission {tmp}/s.csv",
    ],
)  # fmt: skip
@pytest.mark.parametrize("folder", ["nowhere", "empty"])
def test_a_data_folder_that_is_none_is_told_without_heavy_imports(command: str, folder: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    status, found, said = imported(*command.format(tmp=tmp_path).split(), "--data-dir", str(tmp_path / folder))
    assert status == 1 and str(tmp_path / folder) in said and "expected" in said and "Traceback" not in said
    assert not found & HEAVY
    assert not (tmp_path / "run").exists()


def test_a_gpu_that_cannot_be_is_told_without_heavy_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    status, found, said = imported("train.py", "--data-dir", "D", "--device", "cuda", "--out-dir", str(tmp_path / "r"))
    assert status == 1 and "CUDA_VISIBLE_DEVICES hides it" in said
    assert not found & HEAVY
