"""make gpu-check without a GPU: its command lines are understood, it survives its parts, and says what it measured."""

from pathlib import Path

import pytest
import tyro

from bench import gpu_check
from bench.commands import COMMANDS
from bench.dali_ways import WAYS, DaliWays, decoded_by
from bench.floors import describe
from bench.gpu_check import GpuCheck, Part, chosen, plan, run_part
from bench.gpu_targets import TARGETS, summarise
from bench.job import FullSize, Job, name_of
from bench.results import read_result
from pipeline.dataset import open_dataset
from system.errors import UserError
from training.config import check as check_config
from training.config import parse, preset_config


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_every_part_is_a_command_that_its_program_understands(device: str, tmp_path: Path) -> None:
    check = GpuCheck(out=tmp_path, device=device, real=tmp_path / "real")
    parts = plan(check, tmp_path / "full", tmp_path / "cache")
    assert all(target.parts[0] in {part.name for part in parts} for target in TARGETS)
    assert all((gpu_check.PROJECT / path).exists() for path in gpu_check.GPU_TESTS)
    for part in parts:
        if part.command[:2] == ("-m", "bench"):
            words = [word.replace("{out}", "x.json") for word in part.command[3:]]
            settings = tyro.cli(COMMANDS[part.command[2]].load(), args=words)
            if isinstance(settings, Job):
                train = ["--data-dir", "d", *settings.options.split()]
                check_config(parse(train, preset_config(settings.preset)))


def test_parts_are_chosen_by_name() -> None:
    parts = [Part("a", (), 1), Part("b", (), 1)]
    assert chosen(parts, ()) == parts and chosen(parts, ("b",)) == parts[1:]
    with pytest.raises(UserError, match="expected some of a, b, found c"):
        chosen(parts, ("c",))


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("print('hello')", "done"),
        ("print('hello'); raise SystemExit(3)", "failed with exit status 3"),
        ("print('hello', flush=True); import time; time.sleep(60)", "ended after 1 s"),
    ],
)
def test_a_part_that_fails_or_hangs_costs_itself_alone(code: str, status: str, tmp_path: Path) -> None:
    result, log = tmp_path / "result.json", tmp_path / "log.txt"
    result.write_text('{"rows": []}')
    found = run_part(Part("it", ("-c", code), 1), result, log, 1.0 if "sleep" in code else 30.0, {})
    assert found["status"] == status and found["tail"][-1] == "hello" and found["result"] == {"rows": []}
    assert "hello" in log.read_text() and found["seconds"] < 30


def test_what_a_part_started_ends_with_it(tmp_path: Path) -> None:
    marker = tmp_path / "late"
    child = f"import time; time.sleep(3); open({str(marker)!r}, 'w')"
    code = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(60)"
    run_part(Part("it", ("-c", code), 1), tmp_path / "none.json", tmp_path / "log.txt", 1.0, {})
    run_part(Part("wait", ("-c", "import time; time.sleep(3)"), 1), tmp_path / "x", tmp_path / "log.txt", 20.0, {})
    assert not marker.exists()


def content(device: str, resident: float) -> dict:
    rows = [{"name": "resident, light", "median": resident}, {"name": "tiff, light", "median": 10.0},
            {"name": "strip, light", "median": 700_000.0}, {"name": "packed", "skipped": "no"}]  # fmt: skip
    return {
        "environment": {"gpu": "some GPU", "cpu": "some CPU"},
        "settings": {"device": device, "patches": 220_025, "batch_size": 1024},
        "parts": [
            {"name": "kernel", "status": "done", "seconds": 1.0, "result": {"rows": rows}, "tail": []},
            {"name": "train", "status": "done", "seconds": 1.0, "tail": [],
             "result": {"rows": [{"name": "n", "ratio_to_min": {"median": 0.99}, "data_wait": {"median": 0.2}}]}},
            {"name": "job", "status": "ended after 9 s", "seconds": 9.0, "result": None, "tail": ["the reason"]},
        ],
    }  # fmt: skip


def test_summary_says_what_is_met_what_is_not_and_what_was_not_measured() -> None:
    text = summarise(content("cuda", 2_900_000.0), 100)
    lines = {line.split("  ")[0]: line for line in text.splitlines()}
    assert " NO " in lines["resident, light"] and "2,900,000 images/s" in lines["resident, light"]
    assert " yes " in lines["strip, light"]
    assert " yes " in lines["end to end / min(loader, model)"] and " NO " in lines["data wait"]
    for name in ("packed, light", "command -> submission.csv, TTA, cold"):
        assert "not measured" in lines[name]
    assert "the reason" in text and "100 s in all" in text


def test_summary_of_a_cpu_claims_nothing() -> None:
    text = summarise(content("cpu", 4_000_000.0), 100)
    assert "ON A CPU" in text and " yes " not in text and " NO " not in text


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert gpu_check.lacking() == []
    monkeypatch.setattr(gpu_check, "NEEDED", {"no_such_module": "no-such-package"})
    with pytest.raises(UserError, match="missing: no-such-package"):
        gpu_check.check_gpu(GpuCheck(out=tmp_path))


def test_full_size_data_are_kaggles_files_under_names_of_their_own(tmp_path: Path) -> None:
    FullSize(out_dir=tmp_path / "full", train=45, test=11, distinct=20, workers=1).run()
    dataset = open_dataset(tmp_path / "full")
    train, test = dataset.require_train(), dataset.require_test()
    assert len(train) == 45 and len(test) == 11 and train.synthetic
    rows = {identifier: row for row, identifier in enumerate(train.ids.tolist())}
    first, again = (rows[name_of("train", n)] for n in (3, 23))
    assert train.store.read(first) == train.store.read(again) and len(train.store.read(first)) == 27_935
    assert train.labels[first] == train.labels[again]
    with pytest.raises(UserError, match="does not exist yet"):
        FullSize(out_dir=tmp_path / "full", train=45, test=11, distinct=20, workers=1).run()


def test_floors_count_resnets_known_operations() -> None:
    # 0.333 GMAC forward as published, three times that with backward, less the first layer's gradient of its input.
    row = describe("resnet18", 96)
    assert 1.90e9 < row["flop"] < 3 * 2 * 0.334e9
    assert row["bytes_fused"] < row["bytes_eager"]
    assert row["images_per_s_layers"] < min(row["images_per_s_flop"], row["images_per_s_bytes_fused"])


def test_decoders_are_told_by_the_kernels_that_ran() -> None:
    assert decoded_by({"nvtiff_lzw_decode": 3, "convert": 1}) == "the GPU"
    assert decoded_by({"convert": 1}).startswith("the host, or")
    assert decoded_by({}) == "the host: no kernel ran"


def test_ways_to_build_dalis_graph_give_the_exact_pixels(kaggle_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "ways.json"
    DaliWays(
        data_dir=kaggle_folder, device="cpu", cache_dir=tmp_path, out=out, batch_size=64, patches=64, repeats=1,
        seconds=0.01, workers=1,
    ).run()  # fmt: skip
    rows = read_result(out, "dali-ways").rows
    assert [row["name"] for row in rows] == list(WAYS) and all(row["pixels_right"] for row in rows)
