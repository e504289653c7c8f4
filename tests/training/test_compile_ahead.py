"""Compiling while the files are opened: it changes nothing that is learned, and what is beside it ends with it."""

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from tests_support import kaggle_tiff
from training_cases import (
    BATCH,
    CPU,
    FP32,
    SIZE,
    TinyNet,
    assert_same_run,
    assert_same_state,
    one_thread,  # noqa: F401  (a fixture for this whole file)
    smoke_args,
    write_small_dataset,
)

import train
from system.command import check_interrupt
from system.errors import UserError
from training import session
from training import step as training_step
from training.background import in_background
from training.compiling import keep_compiled
from training.config import OptimSettings
from training.run_folder import RunFolder
from training.step import TrainStep, random_batch


@pytest.fixture
def traced(monkeypatch) -> list[torch.fx.GraphModule]:
    """The graphs that torch.compile makes, each run as it is: tracing is what must not happen again in training."""
    graphs: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, _: object):
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    monkeypatch.setattr(training_step, "compiled", lambda forward, *_, **__: torch.compile(forward, backend=keep))
    return graphs


def test_warming_up_leaves_everything_as_it_was(traced) -> None:
    torch.manual_seed(0)
    optim = OptimSettings(batch_size=6, compile=True)
    step = TrainStep(TinyNet(dropout=0.5), optim, total_steps=20, device=CPU, precision=FP32)
    x, y = random_batch(6, (8, 8), CPU)
    step(x, y)  # so that the optimisers have a state that could change
    before = {name: _copy(value) for name, value in step.state_dict().items()}
    drawn = torch.get_rng_state()
    step.warm_up(-x, 1 - y)
    assert_same_state(step.state_dict(), before)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(parameter.grad is None for parameter in step.model.parameters())
    assert len(traced) == 1


def test_without_compiling_nothing_is_warmed_up() -> None:
    step = TrainStep(TinyNet(), OptimSettings(batch_size=6), total_steps=20, device=CPU, precision=FP32)
    step.warm_up(None, None)


def test_a_run_compiles_once_before_its_first_batch_and_learns_the_same(tmp_path: Path, traced, monkeypatch, capsys):
    data = write_small_dataset(tmp_path / "data")
    graphs_at_first_batch: list[int] = []
    step = TrainStep.__call__

    def watched(self, x, y):
        graphs_at_first_batch.append(len(traced))
        return step(self, x, y)

    monkeypatch.setattr(TrainStep, "__call__", watched)
    train.train([*smoke_args(data, tmp_path / "ahead"), "--compile"])
    assert "compiled in " in capsys.readouterr().out
    # One graph, of the random batch; the loader's batches have its form.
    assert graphs_at_first_batch[0] == 1 and len(traced) == 1
    monkeypatch.setattr(session, "warm_up", lambda *_: None)
    train.train([*smoke_args(data, tmp_path / "plain"), "--compile"])
    assert_same_run(RunFolder(tmp_path / "ahead"), RunFolder(tmp_path / "plain"))


def test_bad_files_are_still_listed(tmp_path: Path, traced) -> None:
    data = write_small_dataset(tmp_path / "data")
    bad = sorted((data / "train").iterdir())[5]
    bad.write_bytes(bad.read_bytes()[:-9])
    with pytest.raises(UserError, match=bad.name):
        train.train([*smoke_args(data, tmp_path / "run"), "--compile"])
    assert not (tmp_path / "run" / "last.pt").exists()


@pytest.mark.parametrize(("size", "complaint"), [(1, "1 of 240 image files cannot be used"), (600, "1 of 240 image")])
def test_a_first_file_that_is_the_odd_one_is_named_and_not_compiled_for(
    tmp_path: Path, traced, size, complaint
) -> None:
    data = write_small_dataset(tmp_path / "data")
    first = (data / "train_labels.csv").read_text().splitlines()[1].split(",")[0]
    (data / "train" / f"{first}.tif").write_bytes(kaggle_tiff(np.zeros((size, size, 3), np.uint8)))
    with pytest.raises(UserError, match=complaint) as caught:
        train.train([*smoke_args(data, tmp_path / "run"), "--compile"])
    assert first in str(caught.value) and not traced


def test_a_random_batch_has_the_loaders_form() -> None:
    x, y = random_batch(BATCH, (SIZE, SIZE), CPU)
    assert x.shape == (BATCH, 3, SIZE, SIZE) and x.is_contiguous(memory_format=torch.channels_last)
    assert x.dtype == y.dtype == torch.float32 and set(y.tolist()) == {0, 1}


def test_beside_gives_the_result_or_raises_what_the_work_raised() -> None:
    with in_background(lambda: threading.current_thread().name) as work:
        assert work.result() == "beside"
    with pytest.raises(ZeroDivisionError), in_background(lambda: 1 // 0) as work:
        work.result()
    with in_background(lambda: 1 // 0):
        pass  # nobody asked


def test_an_interrupt_ends_the_work_beside_at_once() -> None:
    done: list[int] = []

    def work() -> None:
        with ThreadPoolExecutor(1) as pool:
            try:
                for number in pool.map(lambda n: time.sleep(0.02) or n, range(1000)):
                    check_interrupt()
                    done.append(number)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt), in_background(work):
        while not done:
            time.sleep(0.01)
        raise KeyboardInterrupt
    assert len(done) < 500 and time.monotonic() - began < 10
    assert not [thread for thread in threading.enumerate() if thread.name == "beside"]


def _copy(value: object) -> object:
    if isinstance(value, torch.Tensor):
        return value.clone()
    if isinstance(value, dict):
        return type(value)((key, _copy(item)) for key, item in value.items())
    if isinstance(value, list):
        return [_copy(item) for item in value]
    return value


def test_compiled_code_is_kept_in_the_cache_folder_unless_the_user_says_otherwise(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    try:
        assert keep_compiled(tmp_path / "cache") == tmp_path / "cache" / "compiled"
        assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "cache" / "compiled")
        assert keep_compiled(tmp_path / "other") is None and not (tmp_path / "other").exists()
    finally:
        del os.environ["TORCHINDUCTOR_CACHE_DIR"]
    (tmp_path / "file").write_text("")
    assert keep_compiled(tmp_path / "file") is None, "no reason to stop: torch has a place of its own"
    assert "TORCHINDUCTOR_CACHE_DIR" not in os.environ
