"""Pages from run folders, whole and broken: what can be shown is shown, what cannot is said."""

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from report_cases import assert_numbers, predictions, write_metrics, write_run, write_validation

from pipeline.data.submission import Made, read_made, write_made
from report import discussion, style
from report.__main__ import ReportSettings, main, report
from report.network import load_network, view_logits
from report.plots import write_run_plots
from report.run_files import read_run
from report.run_network import Patches
from report.run_page import _trained
from report.schedule import learning_rates, one_cycle
from report.scores import Threshold
from report.submission_page import read_submission
from system.errors import UserError
from system.files import write_json
from training import step as training_step


@pytest.fixture(scope="module")
def run(kaggle_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "full", kaggle_folder)


@pytest.fixture(scope="module")
def full_page(run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict, Path]:
    out = tmp_path_factory.mktemp("out")
    path = report(ReportSettings((run,), out=out, patches=60))
    return path.read_text(), json.loads((out / "report.json").read_text()), out


def _page(run: Path, **settings: object) -> str:
    return report(ReportSettings((run,), patches=20, **settings)).read_text()


def test_full_run_shows_every_section(full_page: tuple[str, dict, Path], run: Path) -> None:
    html, facts, out = full_page
    for title in (
        "What was trained",
        "Course of training",
        "Performance",
        "Decisions",
        "Calibration",
        "Most confident mistakes",
        "What the network looks at",
        "Test-time augmentation",
        "Throughput",
        "Discussion",
        "Limits of use",
    ):
        assert f"<h2>{title}</h2>" in html
    assert html.count("Not a medical device") == 1 and "SYNTHETIC" not in html
    assert "<h2>Slides</h2>" not in html and "No file of slides was given" in html
    assert facts["scores"]["auc"]["low"] < facts["scores"]["auc"]["value"] < facts["scores"]["auc"]["high"]
    assert set(facts["tta"]) == {"1", "2", "4", "8"}
    assert set(facts["masking_auc"]) == {"whole patch", "centre hidden", "rim hidden, centre alone"}
    assert 0 <= facts["grad_cam"]["energy_in_centre"] <= 1
    kept = json.loads((run / "calibration.json").read_text())
    assert kept["temperature"] in (1, kept["fitted_temperature"]) and kept["fitted_on"] + kept["shown_on"] == 200
    for name in ("loss", "accuracy", "auc", "learning_rate", "roc", "precision_recall", "confusion", "reliability"):
        assert "<svg" in (out / "plots" / f"{name}.svg").read_text()
    for name in ("loss", "accuracy", "roc", "confusion", "grad_cam"):
        assert (out / "plots" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert_numbers(out, {"what", "value", "setting", "score", "threshold", "operating point", "shown to the network"})


def test_the_page_opens_with_what_is_asked(full_page: tuple[str, dict, Path], run: Path) -> None:
    html, facts, _ = full_page
    head = html[html.index("<h1>") : html.index("<nav>")]
    chosen = facts["chosen"]
    auc = facts["scores"]["auc"]
    for said in (
        f"<dd>{auc['value']:.4f}</dd>", f"95 % interval {auc['low']:.4f} to {auc['high']:.4f}, by patch",
        "<dd>by patch</dd>",
        f"<dd>{chosen['sensitivity']:.1%}</dd>", f"<dd>{chosen['specificity']:.1%}</dd>", "<dd>800 images/s</dd>",
        f"at p ≥ {chosen['threshold']:.3f}",
    ):  # fmt: skip
        assert said in head
    low, high = chosen["sensitivity_interval"]
    assert low < chosen["sensitivity"] < high and chosen["name"] == "Youden's"
    links = re.findall(r'<a href="#([a-z-]+)">', head)
    assert len(links) == 3 and all(f'<section id="{link}">' in html for link in links)
    assert html.index("<nav>") < html.index("<h2>What was trained</h2>")


def test_what_asks_for_action_is_found_first() -> None:
    row = {"epoch": 5.0, "val_loss": 0.2, "train_accuracy": 0.95}
    auc = {"auc": {"value": 0.9, "low": 0.8, "high": 0.95}}
    facts = {
        "epochs": 9, "best_epoch": 5, "best": row, "last": {**row, "epoch": 9.0}, "data_wait": 0.4, "scores": auc,
        "interval_unit": "patch", "grouped": False,
    }  # fmt: skip
    assert [finding.section for finding in discussion.most_urgent(facts)] == [
        "Performance", "Throughput", "Course of training",
    ]  # fmt: skip
    assert discussion.most_urgent({**facts, "grouped": True})[0].section == "Throughput"


def test_decisions_say_what_a_call_is_worth() -> None:
    decision = Threshold("0.5", 0.5, np.array([[50, 10], [5, 35]]))
    assert (decision.ppv, decision.npv) == (35 / 45, 50 / 55)
    assert decision.f1 == pytest.approx(2 * decision.ppv * decision.sensitivity / (decision.ppv + decision.sensitivity))
    none = Threshold("0.5", 0.5, np.array([[60, 0], [40, 0]]))
    assert np.isnan(none.ppv) and none.npv == 0.6 and none.f1 == 0


def test_curves_and_tables_name_what_they_show(full_page: tuple[str, dict, Path]) -> None:
    html, facts, out = full_page
    ap = facts["scores"]["average_precision"]["value"]
    assert f"(AP {ap:.4f})" in (out / "plots" / "precision_recall.svg").read_text()
    assert ">PPV</th>" in html and ">NPV</th>" in html and ">F1</th>" in html
    reliability = (out / "plots" / "reliability.svg").read_text()
    assert "before temperature scaling" in reliability and "after temperature scaling" in reliability


def test_charts_follow_dark_mode_in_colours_that_can_be_seen() -> None:
    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))

    def contrast(one: str, other: str) -> float:
        high, low = sorted((luminance(one), luminance(other)), reverse=True)
        return (high + 0.05) / (low + 0.05)

    dark_paper = style.DARK[style.PAPER]
    lines = {*style.RUN_COLOURS, *style.CLASS_COLOURS, style.TRAINING, style.VALIDATION, style.TEST, style.ACCENT}
    for colour in lines:  # WCAG 2.1 asks for 3 of graphics and for 4.5 of text
        assert contrast(colour, style.PAPER) >= 3 and contrast(style.DARK[colour], dark_paper) >= 3
    for ink in (style.INK, style.FAINT_INK):
        assert contrast(ink, style.PAPER) >= 4.5 and contrast(style.DARK[ink], dark_paper) >= 4.5
    figure, (ax,) = style.new_figure()
    ax.plot([0, 1], [0, 1], color=style.NEGATIVE)
    svg = style.to_svg(figure)
    assert "prefers-color-scheme: dark" in svg and f"stroke: {style.NEGATIVE.lower()}" in svg
    assert f'[style*="stroke: {style.NEGATIVE.lower()}"]{{stroke:{style.DARK[style.NEGATIVE]}!important}}' in svg


@pytest.mark.parametrize(
    ("warmup", "steps"), [(0.25, 40), (0.0, 12), (1.0, 10), (0.5, 2), (0.25, 4), (0.1, 10), (0.3, 7), (0.25, 1)]
)
def test_the_drawn_learning_rates_are_those_of_training(warmup: float, steps: int) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.003)
    schedule = training_step.one_cycle(optimizer, warmup, steps)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    np.testing.assert_allclose(one_cycle(0.003, warmup, steps), rates, rtol=1e-5)


def test_learning_rate_by_step_unless_the_run_had_another(tmp_path: Path, kaggle_folder: Path) -> None:
    folder = write_run(tmp_path / "r", kaggle_folder, weights=False)
    config = json.loads((folder / "config.json").read_text())
    config["settings"]["optim"] |= {"epochs": 4, "batch_size": 80, "warmup": 0.25, "lr": 0.001}
    (folder / "config.json").write_text(json.dumps(config))
    assert learning_rates(read_run(folder)) is None, "metrics.csv has other rates: its own are drawn"
    text = (folder / "metrics.csv").read_text()
    for rate in one_cycle(0.001, 0.25, 40)[[9, 19, 29, 39]]:
        text = text.replace(",0.001,", f",{rate!r},", 1)
    (folder / "metrics.csv").write_text(text.replace("np.float64(", "").replace(")", ""))
    epochs, rates = learning_rates(read_run(folder))
    assert len(epochs) == 40 and epochs[-1] == 4 and rates.argmax() == 9


def test_mistakes_have_a_page_of_their_own(tmp_path: Path, run: Path) -> None:
    path = report(ReportSettings((run,), out=tmp_path, patches=10, mistakes=9))
    html, page = path.read_text(), (tmp_path / "mistakes.html").read_text()
    assert '<a href="mistakes.html">' in html and '<a href="report.html">' in page
    v = read_run(run).validation
    for label, name in ((0, "all_false_positives"), (1, "all_false_negatives")):
        with open(tmp_path / "tables" / f"{name}.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        wrong = np.flatnonzero((v.labels == label) & ((v.probabilities > 0.5) != label))
        worst = wrong[np.argsort(-np.abs(v.probabilities[wrong] - 0.5), kind="stable")][:9]
        assert [row["id"] for row in rows] == v.ids[worst].tolist() and len(rows) == 9
        assert [float(row["probability"]) for row in rows] == v.probabilities[worst].tolist()
        assert all(f"p = {p:.4f}, label {label}" in page for p in v.probabilities[worst])
    assert page.count('alt="Grad-CAM of ') == 18
    with pytest.raises(UserError, match="--mistakes"):
        report(ReportSettings((run, run), mistakes=3))


def test_mistakes_are_the_worst(full_page: tuple[str, dict, Path], run: Path) -> None:
    _, _, out = full_page
    v = read_run(run).validation
    with open(out / "tables" / "false_positives.csv", newline="") as file:
        shown = [row["id"] for row in csv.DictReader(file)]
    negative = v.labels == 0
    expected = v.ids[negative][np.argsort(-v.probabilities[negative])][: len(shown)]
    assert shown == expected.tolist() and len(shown) == 6


def test_pages_need_nothing_from_outside(full_page: tuple[str, dict, Path]) -> None:
    html, _, _ = full_page
    assert "<script" not in html and "default-src 'none'" in html
    targets = re.findall(r'(?:src|href|action|data)="([^"]*)"|url\(', html)
    assert targets and all(target.startswith(("data:", "#")) for target in targets)


def test_plots_of_the_loop(run: Path) -> None:
    assert [path.name for path in write_run_plots(run)] == ["loss.png", "accuracy.png", "roc.png", "confusion.png"]


def test_a_run_without_an_epoch_is_no_report(
    tmp_path: Path, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "begun"
    folder.mkdir()
    for what in ([folder], [run, folder]):  # empty, then with its settings alone
        monkeypatch.setattr("sys.argv", ["report", *map(str, what), "--out", str(tmp_path / "out")])
        assert main() == 1
        said = capsys.readouterr().err.strip()
        assert said.startswith("error: ") and "\n" not in said and "nothing to report" in said and str(folder) in said
        shutil.copy(run / "config.json", folder)
    assert not (tmp_path / "out").exists() and write_run_plots(folder) == []


def test_a_folder_of_other_things_is_no_run(run: Path, kaggle_folder: Path, tmp_path: Path) -> None:
    for what in ((kaggle_folder,), (run, kaggle_folder)):
        with pytest.raises(UserError, match=r"expected the folder of a run, .* found .*sample_submission\.csv"):
            report(ReportSettings(what, out=tmp_path / "out"))
    assert not (tmp_path / "out").exists() and not (kaggle_folder / "report.html").exists()


def test_tables_of_a_part_of_validation_say_so_and_give_intervals(full_page: tuple[str, dict, Path]) -> None:
    html, facts, out = full_page
    assert html.count("60 of the 200 validation patches, drawn at random") == 2
    with open(out / "tables" / "masking.csv", newline="") as file:
        assert all(float(row["from"]) <= float(row["to"]) for row in list(csv.DictReader(file))[1:])
    gap = facts["centre_over_rim"]
    assert gap["patches"] == 60 and gap["low"] <= gap["value"] <= gap["high"]
    with open(out / "tables" / "grad_cam.csv", newline="") as file:
        assert {row["label"] for row in csv.DictReader(file)} == {"0", "1"}


def test_run_cut_short(tmp_path: Path, kaggle_folder: Path) -> None:
    folder = write_run(tmp_path / "r", kaggle_folder, epochs=1, weights=False)
    html = _page(folder)
    assert (
        "One epoch only" in html
        and "cut short: 1 of 4 epochs" in html
        and "expected a run folder whose first epoch has ended" in html
    )


def test_single_class_in_validation(tmp_path: Path, kaggle_folder: Path) -> None:
    folder = write_run(tmp_path / "r", kaggle_folder)
    v = read_run(folder).validation
    only = v.labels == 1
    write_validation(folder, v.ids[only], v.labels[only], v.probabilities[only])
    html = _page(folder)
    assert "patches labelled 1 alone" in html and "one class" in html and "one label only" in html
    assert not (folder / "plots" / "roc.png").exists()


@pytest.mark.parametrize(
    "name", ["config.json", "environment.json", "metrics.csv", "validation.csv", "split.csv", "best.safetensors"]
)
@pytest.mark.parametrize(
    "content", [b"", b"\xff\x00,;", b"[1, 2]", b"id,label,probability\nx,3,nan\n", b"epoch\none\n"]
)
def test_damaged_files_are_named(tmp_path: Path, kaggle_folder: Path, name: str, content: bytes) -> None:
    write_metrics(tmp_path, 3)
    write_validation(tmp_path, np.array(["a", "b", "c", "d"]), np.array([0, 1, 0, 1]), np.array([0.1, 0.9, 0.4, 0.3]))
    (tmp_path / "config.json").write_text(json.dumps({"settings": {"data": {"data_dir": str(kaggle_folder)}}}))
    (tmp_path / name).write_bytes(content)
    html = _page(tmp_path)
    assert name == "best.safetensors" or f"{name} cannot be used" in html


def test_values_that_make_no_sense_are_left_out_or_named(tmp_path: Path, kaggle_folder: Path) -> None:
    folder = write_run(tmp_path / "r", kaggle_folder, weights=False)

    def told() -> dict[str, str]:
        return dict(_trained(read_run(folder), {})[0].rows)

    config = json.loads((folder / "config.json").read_text())
    config |= {"train_patches": "many", "patch_size": 96, "train_positive_share": "x"}
    (folder / "config.json").write_text(json.dumps(config))
    metrics = (folder / "metrics.csv").read_text()
    (folder / "metrics.csv").write_text(metrics.replace(",800,0.1,10\n", ",inf,inf,inf\n", 1))
    assert not {"training patches", "patch size, pixels"} & told().keys() and told()["training time"].text == "30 s"
    write_json(folder / "config.json", config | {"train_patches": 12_345, "train_positive_share": 0.4})
    assert told()["training patches"] == 12_345 and told()["of these positive"].text == "40.0%"
    (folder / "config.json").write_text((folder / "config.json").read_text().replace("12345", "54321"))
    assert "training patches" not in told()
    lines = (folder / "validation.csv").read_text().splitlines()
    (folder / "validation.csv").write_text("\n".join([*lines, lines[3]]) + "\n")
    said = "; ".join(read_run(folder).missing)
    assert "config.json cannot be used: damaged, or changed by hand" in said
    assert "validation.csv cannot be used: expected every id once" in said and f"line {len(lines) + 1}: found" in said


def test_plots_go_where_the_page_goes(tmp_path: Path, run: Path) -> None:
    report(ReportSettings((run,), out=tmp_path / "page"))
    assert (tmp_path / "page" / "plots" / "loss.png").is_file()


def test_data_that_moved_or_is_another(tmp_path: Path, kaggle_folder: Path, run: Path) -> None:
    folder = tmp_path / "r"
    shutil.copytree(run, folder)
    config = json.loads((folder / "config.json").read_text())
    config["settings"]["data"]["data_dir"] = "/nowhere"
    (folder / "config.json").write_text(json.dumps(config))
    assert "The patches cannot be shown: /nowhere" in _page(folder)
    assert "Most confident mistakes" in _page(folder, data_dir=kaggle_folder)
    write_validation(folder, np.array(["foreign"] * 1), np.array([1]), np.array([0.2]))
    assert "1 of 1 missing, such as foreign" in _page(folder, data_dir=kaggle_folder)


def test_slides_make_the_intervals_theirs(tmp_path: Path, run: Path, kaggle_folder: Path) -> None:
    ids = read_run(run).validation.ids
    groups = tmp_path / "groups.csv"
    groups.write_text("id,wsi\n" + "".join(f"{i},s{n % 7}\n" for n, i in enumerate(ids[:150])))
    html = _page(run, groups=groups, out=tmp_path / "out")
    assert "draws by slide" in html and "names no slide for 50 of 200 patches" in html and "Weakest slides" in html
    with open(tmp_path / "out" / "tables" / "slides.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["slide"] for row in rows] != [] and len(rows) == 7
    losses = [float(row["log loss"]) for row in rows]
    assert losses == sorted(losses, reverse=True)


def test_synthetic_is_stamped_on_everything(tmp_path: Path, kaggle_folder: Path) -> None:
    folder = write_run(tmp_path / "r", kaggle_folder, synthetic=True, weights=False)
    html = _page(folder)
    assert html.count("SYNTHETIC") >= 3 and "SYNTHETIC" in json.loads((folder / "report.json").read_text())["note"]
    plain, stamped = tmp_path / "plain", (folder / "plots" / "loss.png").read_bytes()
    shutil.copytree(folder, plain)
    config = json.loads((plain / "config.json").read_text())
    (plain / "config.json").write_text(json.dumps({**config, "synthetic": False}))
    assert write_run_plots(plain)[0].read_bytes() != stamped


def test_names_from_files_are_escaped(tmp_path: Path) -> None:
    evil = '<img src=x onerror="alert(1)">'
    labels, probabilities = predictions(50)
    folder = tmp_path / "<b>run & co"
    folder.mkdir()
    write_validation(folder, np.array([f"{evil.replace(chr(34), '')}{n}" for n in range(50)]), labels, probabilities)
    settings = {"model": {"name": evil}, "data": {"data_dir": "/nowhere"}}
    (folder / "config.json").write_text(json.dumps({"settings": settings, "split": evil}))
    html = _page(folder)
    assert "<img src=x" not in html and "<b>run" not in html and "&lt;img src=x" in html


def test_comparison(tmp_path: Path, run: Path, kaggle_folder: Path) -> None:
    other = write_run(tmp_path / "other", kaggle_folder, lr=0.01, seed=1, weights=False)
    path = report(ReportSettings((run, other), out=tmp_path / "cmp"))
    html, facts = path.read_text(), json.loads((tmp_path / "cmp" / "comparison.json").read_text())
    assert ">lr</td>" in html and ">dropout</td>" not in html
    assert "like with like" in html and "same 200 validation patches" in html
    difference = facts["auc_difference"]["other"]
    scores = {name: found["auc"]["value"] for name, found in facts["scores"].items()}
    assert difference["value"] == pytest.approx(scores["other"] - scores["full"]) and difference["patches"] == 200
    assert difference["low"] < difference["value"] < difference["high"]


def test_comparison_warns_of_trained_patches_and_takes_broken_runs(tmp_path: Path, run: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(run, other)
    ids = read_run(run).validation.ids
    (other / "split.csv").write_text("id,part\n" + "".join(f"{i},train\n" for i in ids))
    (tmp_path / "empty").mkdir()
    html = report(ReportSettings((run, other, tmp_path / "empty"), out=tmp_path / "cmp")).read_text()
    assert "was trained on 200 of these patches" in html and "empty: no epoch has ended" in html
    labels = (other / "validation.csv").read_text()
    (other / "validation.csv").write_text(re.sub(r",([01]),", lambda found: f",{1 - int(found[1])},", labels, count=3))
    html = report(ReportSettings((run, other), out=tmp_path / "cmp")).read_text()
    assert "with different labels of 3 of 200 patches" in html and "AUC minus" not in html
    with pytest.raises(UserError, match="twice"):
        report(ReportSettings((run, run), out=tmp_path / "cmp"))


def test_comparison_names_the_synthetic_run_and_keeps_curves_of_other_patches_apart(
    tmp_path: Path, run: Path, kaggle_folder: Path
) -> None:
    other = write_run(tmp_path / "made", kaggle_folder, synthetic=True, weights=False)
    v = read_run(other).validation
    write_validation(other, np.char.add("x", v.ids), v.labels, v.probabilities)
    html = report(ReportSettings((run, other), out=tmp_path / "cmp")).read_text()
    assert "of these runs, made learned generated data" in html and '<td class="words">made (SYNTHETIC)</td>' in html
    assert "full (SYNTHETIC)" not in html
    assert "like with like" not in html and "not to be compared with each other" in html


def _submission(path: Path, kaggle_folder: Path) -> list[str]:
    ids = [line.split(",")[0] for line in (kaggle_folder / "sample_submission.csv").read_text().splitlines()[1:]]
    path.write_text("id,label\n" + "".join(f"{i},{n / 29:.4f}\n" for n, i in enumerate(ids)))
    return ids


def test_submission(tmp_path: Path, kaggle_folder: Path, run: Path) -> None:
    ids = _submission(tmp_path / "s.csv", kaggle_folder)
    settings = ReportSettings((tmp_path / "s.csv",), data_dir=kaggle_folder, run=(run,), cache_dir=tmp_path / "cache")
    html = report(settings).read_text()
    assert (
        "validation of full" in html
        and f"Valid for {kaggle_folder}: 30 predictions" in html
        and 'class="bad"' not in html
    )
    with open(tmp_path / "s-report" / "tables" / "certain_positive.csv", newline="") as file:
        assert [row["id"] for row in csv.DictReader(file)] == ids[:-7:-1]
    with open(tmp_path / "s-report" / "tables" / "uncertain.csv", newline="") as file:
        assert {row["id"] for row in csv.DictReader(file)} == set(ids[12:18])


def test_submission_of_a_run_on_other_data_is_said(
    tmp_path: Path, kaggle_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _submission(tmp_path / "s.csv", kaggle_folder)
    made = write_run(tmp_path / "made", kaggle_folder, synthetic=True, weights=False)
    report(ReportSettings((tmp_path / "s.csv",), data_dir=kaggle_folder, run=(made,), cache_dir=tmp_path / "cache"))
    assert "warning: made learned from SYNTHETIC patches; these are real." in capsys.readouterr().err


def test_submission_with_labels_gaps_or_no_data(
    tmp_path: Path, kaggle_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "s.csv"
    ids = _submission(path, kaggle_folder)
    path.write_text("id,label\n" + "".join(f"{i},{n % 2}\n" for n, i in enumerate(ids[:20])) + "foreign,1\n")
    with pytest.raises(UserError, match=r"Not valid for .* 1 unknown ids: 'foreign'; see .*submission\.html"):
        report(ReportSettings((path,), data_dir=kaggle_folder, cache_dir=tmp_path / "cache"))
    html = (tmp_path / "s-report" / "submission.html").read_text()
    assert html.index('class="bad"') < html.index("<h2>Predictions") and "Not valid for" in html
    assert "1 of 21 ids are not among" in html and "10 test patches without a prediction" in html and "0 or 1" in html
    assert "No --data-dir was given" in report(ReportSettings((path,))).read_text()


def test_an_invalid_submission_ends_with_an_error(
    tmp_path: Path, kaggle_folder: Path, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.csv"
    ids = _submission(path, kaggle_folder)
    whole = path.read_text()
    for text, options, said in (
        (whole.replace(f"{ids[3]},", "", 1), ["--data-dir", str(kaggle_folder)], "line 5: expected 2 fields, found 1"),
        ("\n".join(whole.splitlines()[:-1]), ["--data-dir", str(kaggle_folder)], f"1 ids missing: '{ids[-1]}'"),
        ("\n".join(whole.splitlines()[:-1]), ["--run", str(run)], f"1 ids missing: '{ids[-1]}'"),
        (whole + f"{ids[0]},0.5\n", [], f"1 ids more than once: '{ids[0]}'"),
        ("\n".join(whole.splitlines()[:-1]), [], f"1 ids missing: '{ids[-1]}'"),
    ):
        if not options:  # nothing is said of the data: that of the runs in runs/ is what is meant
            (tmp_path / "runs").mkdir(exist_ok=True)
            if not (tmp_path / "runs" / "full").exists():
                (tmp_path / "runs" / "full").symlink_to(run)
            monkeypatch.chdir(tmp_path)
        path.write_text(text)
        monkeypatch.setattr("sys.argv", ["report", str(path), "--cache-dir", str(tmp_path / "cache"), *options])
        assert main() == 1
        err = capsys.readouterr().err.strip()
        assert err.startswith("error: ") and "\n" not in err and said in err


def test_a_submission_is_held_against_validation_in_as_many_views(
    tmp_path: Path, kaggle_folder: Path, run: Path
) -> None:
    path = tmp_path / "s.csv"
    _submission(path, kaggle_folder)
    settings = ReportSettings((path,), data_dir=kaggle_folder, run=(run,), cache_dir=tmp_path / "cache", patches=40)

    def kept() -> tuple[str, dict[str, float]]:
        html = report(settings).read_text()
        with open(tmp_path / "s-report" / "tables" / "predictions.csv", newline="") as file:
            return html, list(csv.DictReader(file))[1]

    html, row = kept()
    v = read_run(run).validation
    assert "how many views the submission averages is not known" in html and "not made in the same way" in html
    assert float(row["mean"]) == pytest.approx(v.probabilities.mean())
    write_made(path, Made((str(run),), views=1, calibrated=False, threshold=None))
    html, row = kept()
    assert "one view: as the submission was made" in html and float(row["mean"]) == pytest.approx(
        v.probabilities.mean()
    )
    write_made(path, Made((str(run),), views=8, calibrated=False, threshold=None))
    html, row = kept()
    assert "40 patches of 200, 8 views: as the submission was made" in html and row["patches"] == "40"
    network, made = load_network(run / "best.safetensors", torch.device("cpu")), read_made(path)
    places = np.sort(np.random.default_rng(0).permutation(200)[:40])
    logits = view_logits(network, Patches(read_run(run), v, None).pixels(places))
    assert float(row["mean"]) == pytest.approx((1 / (1 + np.exp(-logits.mean(axis=0)))).mean(), abs=1e-6)
    path.write_text(path.read_text().replace(",0.0000", ",0.0001"))
    assert made[1] and read_made(path) == (made[0], False), "the file has been changed since"
    assert "is not known" in kept()[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "header"),
        ("id,label\n", "found no rows"),
        ("id,p\na,1\n", "header"),
        ("id,label\na,2\n", "line 2"),
        ("id,label\na,0.5\nb,x\n", "line 3"),
    ],
)
def test_bad_submissions_are_refused(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "s.csv").write_text(text)
    with pytest.raises(UserError, match=expected):
        read_submission(tmp_path / "s.csv")


def test_command_line_says_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["report", str(tmp_path / "nothing")])
    assert main() == 1
    assert "error: " in capsys.readouterr().err


def test_discussion_follows_the_facts() -> None:
    def says(**facts: object) -> str:
        return " ".join(discussion.points(facts))

    row = {"epoch": 5.0, "val_loss": 0.2, "train_accuracy": 0.95}
    assert "Over-fitting" in says(epochs=9, best_epoch=5, best=row, last={**row, "epoch": 9.0, "val_loss": 0.3})
    assert "Under-fitting" in says(epochs=5, best_epoch=5, best=row, last={**row, "train_accuracy": 0.7})
    assert "run its course" in says(epochs=9, best_epoch=5, best=row, last={**row, "epoch": 9.0})
    assert "cut short" in says(epochs=5, epochs_planned=9, best_epoch=5, best=row, last=row)
    calibration = {
        "temperature": 2.0,
        "fitted_temperature": 2.0,
        "ece_before": 0.1,
        "ece_after": 0.02,
        "log_loss_before": 0.5,
        "log_loss_after": 0.4,
    }
    assert "overconfident" in says(calibration=calibration)
    assert "underconfident" in says(calibration={**calibration, "temperature": 0.6, "fitted_temperature": 0.6})
    assert "leave the probabilities" in says(calibration={**calibration, "temperature": 1.0})
    assert "--tta 8" in says(tta_gain={"value": 0.01, "low": 0.005, "high": 0.02})
    assert "may be chance" in says(tta_gain={"value": 0.01, "low": -0.005, "high": 0.02})
    gap = {"value": 0.2, "low": 0.1, "high": 0.3, "patches": 100}
    assert "centre matters most" in says(centre_over_rim=gap)
    assert "surroundings" in says(centre_over_rim={**gap, "value": -0.2, "low": -0.3, "high": -0.1})
    assert "do not tell" in says(centre_over_rim={**gap, "value": 0.0, "low": -0.1})
    assert "waiting for data" in says(data_wait=0.4)
