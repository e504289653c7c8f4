"""Two processes under torchrun: the same global batches, the same learning as one."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from training_cases import BATCHES, ONE_THREAD, ROOT, smoke_args

from models.saved import read_weights
from pipeline.sources.left_out import read_left_out
from training.checkpoint import load_checkpoint
from training.metrics import read_metrics
from training.run_folder import RunFolder


def torchrun(*command: object) -> subprocess.CompletedProcess:
    """Two processes on this machine; a free port, so that test runs side by side do not meet."""
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    env = {**os.environ, **ONE_THREAD}
    return subprocess.run(
        [*start, *map(str, command)], capture_output=True, text=True, timeout=300, env=env, cwd=ROOT, check=False
    )


def test_two_processes_learn_what_one_learns(data, tmp_path):
    ended = torchrun(ROOT / "tests/support/ddp_worker.py", data, tmp_path)
    assert ended.returncode == 0, ended.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["batches"] == 2 * (240 // 16)
    assert result["same_rows"] and result["same_pixels"] and result["processes_agree"]
    # Sums of floats in another order; the weights themselves are of order 0.1.
    assert result["largest_difference"] < 1e-5
    np.testing.assert_allclose(result["metrics_two"], result["metrics_one"], atol=1e-5)


def test_train_py_under_torchrun_leaves_the_same_bad_files_out_in_every_process(data, tmp_path):
    data, out = Path(shutil.copytree(data, tmp_path / "data")), RunFolder(tmp_path / "run")
    bad = sorted((data / "train").iterdir())[:2]
    bad[0].write_bytes(b"")
    bad[1].unlink()
    more = ("--epochs", "1", "--checkpoint-every", "5", "--on-bad", "skip")
    ended = torchrun("train.py", *smoke_args(data, out.path, *more))
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("epoch 1/1") == 1, "process 0 alone prints"
    state = load_checkpoint(out.last, belongs_to={})
    assert state["progress"]["step"] == BATCHES - 1  # 190 of 192 patches
    assert set(read_left_out(out.left_out)) == {path.stem for path in bad} and len(state["processes"]) == 2
    assert [row.epoch for row in read_metrics(out.metrics)] == [1]
    assert read_weights(out.best)[1].epoch == 1
    assert len(out.validation.read_text().splitlines()) == 1 + 48
    assert json.loads(out.environment.read_text())["processes"] == 2
    # One line of explanation, from process 0, and a failing status: the folder holds a run.
    again = torchrun("train.py", *smoke_args(data, out.path))
    assert again.returncode != 0
    assert again.stderr.count("error: ") == 1 and "already holds a run" in again.stderr
