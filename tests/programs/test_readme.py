"""The README and docs/: their commands are understood, their links lead somewhere, their Python runs."""

import re
import shlex
from pathlib import Path

import pytest
import torch
import tyro
from tests_support import weights_info
from training_cases import ROOT

import explore
import predict
from bench import gpu_check
from bench.commands import COMMANDS
from models import __main__ as networks
from models.create import create_model
from models.saved import weights_file
from pipeline import __main__ as jobs
from report import __main__ as pages
from training.config import check, parse, preset_config

TEXTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)


def commands() -> list[str]:
    """Every command line of the project's programs that stands in code: ``train.py …`` or ``-m package …``."""
    found = set()
    for text in TEXTS:
        content = text.read_text().replace("\\\n", " ")
        inline = re.findall(r"`([^`]+)`", BLOCK.sub("", content))
        for line in [line for _, block in BLOCK.findall(content) for line in block.splitlines()] + inline:
            plain = " ".join(line.split("#")[0].split())
            if match := re.match(
                r"(?:!cd \S+ && )?(?:python|torchrun --nproc-per-node=2) (\S.*)|((?:train|predict)\.py --.+)", plain
            ):
                found.add(re.sub(r"\bN\b", "1", match[1] or match[2]))
    return sorted(found)


def test_there_are_commands() -> None:
    assert len(commands()) > 25
    assert {line.split()[0] for line in commands()} == {"train.py", "predict.py", "explore.py", "-m"}


@pytest.mark.parametrize("line", commands())
def test_commands_are_understood(line: str) -> None:
    first, *args = shlex.split(line.replace("-m ", "", 1) if line.startswith("-m ") else line)
    if first == "train.py" and args != ["--help"]:
        preset = args[args.index("--preset") + 1] if "--preset" in args else "fast"
        config = parse(args, preset_config(preset, pretrained="--pretrained" in args))
        if config.data.data_dir is not None:
            check(config)
    elif first == "predict.py":  # some are named in part
        missing = [
            word for flag, value in (("--run", "r"), ("--data-dir", "d")) if flag not in args for word in (flag, value)
        ]
        tyro.cli(predict.PredictSettings, args=[*args, *missing])
    elif first == "explore.py":
        tyro.cli(explore.ExploreSettings, args=args)
    elif first == "report":
        tyro.cli(pages.ReportSettings, args=args)
    elif first == "pipeline":
        tyro.cli(tyro.conf.OmitSubcommandPrefixes[jobs.Command], args=args)
    elif first == "models":
        assert tyro.cli(networks.Export, args=args[1:]).run and args[0] == "export"
    elif first == "bench.gpu_check":
        tyro.cli(gpu_check.GpuCheck, args=args)
    elif first == "bench":
        assert args[0] in COMMANDS  # most are named only; their options are those of bench/README.md
    else:
        assert args == ["--help"], line


@pytest.mark.parametrize("text", TEXTS, ids=lambda path: path.name)
def test_links_and_tests_lead_somewhere(text: Path) -> None:
    content = BLOCK.sub("", text.read_text())
    for target in re.findall(r"\]\(([^)]+)\)", content):
        if target.startswith("https://"):
            continue
        path, _, heading = target.partition("#")
        there = text.parent / path if path else text
        assert there.exists(), target
        headings = (
            [
                re.sub(r"[^\w\- ]", "", line.lstrip("# ").lower()).replace(" ", "-")
                for line in there.read_text().splitlines()
                if line[:1] == "#"
            ]
            if heading
            else []
        )
        assert not heading or heading in headings, target
    for path in re.findall(r"\btests/[\w/]+\.py", content):
        assert (ROOT / path).exists(), path
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"`make ([a-z-]+)", content)) <= targets


def test_the_readme_is_one_page() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 160


def test_the_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    (code,) = [block for language, block in BLOCK.findall((ROOT / "README.md").read_text()) if language == "python"]
    assert len([line for line in code.splitlines() if line]) <= 6
    run = tmp_path / "runs" / "first"
    run.mkdir(parents=True)
    torch.manual_seed(0)
    network = create_model("patchnet", dropout=0.1)
    (run / "best.safetensors").write_bytes(weights_file(network, weights_info("patchnet", 0.1, 96)))
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    printed = [float(word) for word in capsys.readouterr().out.strip("[] \n").split()]
    assert len(printed) == 5 and all(0 < p < 1 for p in printed)
