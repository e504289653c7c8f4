"""Settings of a run, which of several given values wins, and what the machine allows."""

import dataclasses
import re
from pathlib import Path

import pytest
import torch
from training_cases import CPU

from models import MODEL_NAMES
from system.errors import UserError
from training import config as settings
from training import device as devices
from training.config import OptimSettings, TrainConfig


def test_command_line_beats_preset_beats_default():
    given = settings.parse(["--epochs", "7", "--data-dir", "d"], settings.preset_config("smoke"))
    assert given.optim.epochs == 7
    assert given.optim.batch_size == settings.PRESETS["smoke"]["optim"]["batch_size"] != OptimSettings().batch_size
    assert given.optim.lr == OptimSettings().lr


@pytest.mark.parametrize("name", settings.PRESETS)
def test_presets_are_sensible_and_survive_json(name):
    config = settings.preset_config(name)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, data_dir=Path("d"), groups=Path("g")))
    assert settings.check(config) is config and config.run.preset == name
    assert settings.from_dict(settings.to_dict(config), Path("config.json")) == config


def test_help_is_grouped_and_names_every_flag_with_dashes(capsys):
    with pytest.raises(SystemExit) as ended:
        settings.parse(["--help"], TrainConfig())
    text = capsys.readouterr().out
    assert ended.value.code == 0
    places = [text.index(f"{group} options") for group in ("run", "data", "model", "optim")]
    assert places == sorted(places) and text.index("--preset {") < text.index("--seed")
    assert "python train.py --data-dir data" in text[: places[0]]
    assert all(name in text for name in MODEL_NAMES)
    assert not re.search("None", text), "what Python calls nothing is no help to a reader"
    for part in dataclasses.fields(TrainConfig):
        for field in dataclasses.fields(part.default_factory):
            assert settings.flag(field.name) in text
    assert not re.search(r"--\w+[._]\w+", text)


def test_unknown_flag_is_a_usage_error():
    with pytest.raises(SystemExit) as ended:
        settings.parse(["--epoch", "7"], TrainConfig())
    assert ended.value.code == 2


@pytest.mark.parametrize(
    "flags",
    ["--epochs 0", "--batch-size 1", "--lr 0", "--lr nan", "--dropout 1", "--val-fraction 1", "--folds 1",
     "--folds 5 --fold 5", "--ema-decay 1", "--limit -1",
     "--limit 3", "--checkpoint-every -1", "--grad-clip nan", "--seed -1", "--seed 4294967296", "--workers -2"],
)  # fmt: skip
def test_settings_out_of_range_are_refused_by_name(flags):
    config = settings.parse(["--data-dir", "d", *flags.split()], TrainConfig())
    with pytest.raises(UserError, match=f"{flags.split()[-2]} {flags.split()[-1]}"):
        settings.check(config)


def test_fold_without_folds_is_told_what_it_lacks():
    with pytest.raises(UserError, match="--fold 3: expected --folds N with it"):
        settings.check(settings.parse(["--data-dir", "d", "--fold", "3"], TrainConfig()))


@pytest.mark.parametrize(
    ("flags", "said"),
    [("--model resnet101", "^--model: unknown model 'resnet101'; expected one of patchnet, patchnet_large, resnet18, "),
     ("--fine-stem", "^--model: patchnet has no coarse stem to refine: --fine-stem is for torchvision's"),
     ("--pretrained", "^--model: patchnet has no pretrained weights: .* without --pretrained")],
)  # fmt: skip
def test_networks_that_cannot_be_had_are_refused_before_any_data(flags, said):
    with pytest.raises(UserError, match=said):
        settings.check(settings.parse(["--data-dir", "no-such-folder", *flags.split()], TrainConfig()))


def test_data_dir_is_required():
    with pytest.raises(UserError, match="--data-dir is missing"):
        settings.check(TrainConfig())


def test_resume_refuses_what_changes_learning_and_nothing_else():
    run = settings.parse(["--data-dir", "d"], TrainConfig())
    moved = settings.parse(["--data-dir", "e", "--workers", "1", "--source", "strip", "--cache-dir", "c"], run)
    settings.refuse_conflicts(moved, run, Path("r"))
    assert settings.config_hash(moved) == settings.config_hash(run)
    for flags in (
        ["--lr", "0.5"],
        ["--model", "resnet18"],
        ["--preset", "smoke"],
        ["--seed", "4"],
        ["--limit", "40"],
        ["--epochs", "40"],
        ["--fold", "1"],
    ):
        with pytest.raises(UserError, match=f"{flags[0]} {flags[1]}.*the run has"):
            settings.refuse_conflicts(settings.parse(flags, run), run, Path("r"))


def test_longer_run_is_said_to_be_a_new_one():
    run = settings.parse(["--data-dir", "d"], TrainConfig())
    for flags, said in ((["--epochs", "40"], True), (["--lr", "1"], False)):
        with pytest.raises(UserError) as caught:
            settings.refuse_conflicts(settings.parse(flags, run), run, Path("r"))
        assert ("cannot be made longer" in str(caught.value)) is said


@pytest.mark.parametrize(
    "damage", [{"optim": {}}, {"extra": {}}, {"run": 3}, {"optim.epochs": "two"}, {"run.seed": 1.5}]
)
def test_damaged_settings_are_refused(damage):
    content = settings.to_dict(TrainConfig())
    for name, value in damage.items():
        part, _, field = name.partition(".")
        (content if not field else content[part])[field or part] = value
    with pytest.raises(UserError, match=r"^config\.json: damaged"):
        settings.from_dict(content, Path("config.json"))


def test_settings_of_an_older_version_are_read_as_todays():
    content = settings.to_dict(TrainConfig())
    content["data"] |= {"source": "fused", "workers": None}  # None: what tuned.json said, while there was one
    del content["data"]["engine"]
    config = settings.from_dict(content, Path("config.json"))
    assert (config.data.source, config.data.engine, config.data.workers) == ("resident", "auto", 0)
    assert settings.config_hash(config) == settings.config_hash(TrainConfig())


def test_gpu_that_torch_cannot_use_is_reported(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(devices, "gpu_of_machine", lambda: "NVIDIA A100, driver 470.1")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for requested in ("auto", "cuda"):
        with pytest.raises(UserError, match=r"A100, driver 470\.1.*requirements-cu12\.txt.*--device cpu"):
            devices.choose_device(requested)
    assert devices.choose_device("cpu") == CPU
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert devices.choose_device("auto") == CPU
    with pytest.raises(UserError, match="CUDA_VISIBLE_DEVICES hides it"):
        devices.choose_device("cuda")


def test_no_gpu_means_cpu_unless_cuda_was_asked_for(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(devices, "gpu_of_machine", lambda: None)
    assert devices.choose_device("auto") == CPU
    with pytest.raises(UserError, match="--device cuda: no GPU"):
        devices.choose_device("cuda")


def test_gpu_is_found_in_proc_without_nvidia_smi(monkeypatch, tmp_path):
    (tmp_path / "gpus/0000:01:00.0").mkdir(parents=True)
    (tmp_path / "gpus/0000:01:00.0/information").write_text("Model: \t\t Tesla T4\nIRQ: 1\n")
    (tmp_path / "version").write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.82.01  Wed Oct 27\n")
    monkeypatch.setattr(devices, "_DRIVER_DIR", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert devices.gpu_of_machine() == "Tesla T4, driver 470.82.01"


def test_precision_on_a_cpu():
    assert devices.choose_precision("auto", CPU).name == "fp32"
    assert devices.choose_precision("bf16", CPU).dtype == torch.bfloat16
    with pytest.raises(UserError, match="fp16 needs a GPU"):
        devices.choose_precision("fp16", CPU)
