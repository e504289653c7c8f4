"""Files from elsewhere: what they name stays within the data set, what they say is shown as text, and none is run."""

import ast
import csv
import socket
import zipfile
from pathlib import Path

import pytest
from report_cases import write_run
from tests_support import kaggle_tiff, random_patches
from training_cases import ROOT, one_thread, smoke_args  # noqa: F401 (a fixture)

import predict as predicting
import train
from explore import ExploreSettings, explore
from pipeline.__main__ import Pack
from pipeline.data.image_files import DatasetError
from pipeline.dataset import open_dataset
from report.__main__ import ReportSettings, report
from system.errors import UserError

EVIL = "<img src=x onerror=alert(1)>\"'&{{7*7}}"
PROGRAM = [path for path in ROOT.rglob("*.py") if not {".venv", "tests", "data", "runs"} & set(path.parts)]


def write_evil_dataset(folder: Path) -> Path:
    """A Kaggle folder whose ids are markup: legal file names."""
    for split, count in (("train", 40), ("test", 12)):
        (folder / split).mkdir(parents=True)
        names = [f"{EVIL}{split}{n}" for n in range(count)]
        for name, patch in zip(names, random_patches(count, 32, seed=len(split)), strict=True):
            (folder / split / f"{name}.tif").write_bytes(kaggle_tiff(patch))
        table = "train_labels.csv" if split == "train" else "sample_submission.csv"
        with open(folder / table, "w", newline="") as file:
            csv.writer(file).writerows([["id", "label"], *([name, n % 2] for n, name in enumerate(names))])
    return folder


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        pytest.fail(f"something was asked of the network: {args[-1]}")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    for name in ("getaddrinfo", "create_connection", "gethostbyname"):
        monkeypatch.setattr(socket, name, refuse)


def test_ids_that_are_markup_are_shown_as_text_and_nothing_is_fetched(tmp_path, no_network):
    data = write_evil_dataset(tmp_path / "data")
    out, cache = tmp_path / "run", tmp_path / "cache"
    train.train(smoke_args(data, out, "--epochs", "1", "--batch-size", "8"))
    predicting.predict(
        predicting.PredictSettings((out,), data, tmp_path / "s.csv", device="cpu", cache_dir=cache, on_bad="skip")
    )
    with open(tmp_path / "s.csv", newline="") as file:
        assert [row["id"] for row in csv.DictReader(file)] == [f"{EVIL}test{n}" for n in range(12)]
    other = write_run(tmp_path / EVIL.replace("/", ""), data, weights=False)
    pages = [
        out / "report.html",
        explore(ExploreSettings(data, tmp_path / "explore", cache_dir=cache)),
        report(ReportSettings((out, other), out=tmp_path / "comparison")),
        report(ReportSettings((tmp_path / "s.csv",), data_dir=data, run=(out,), cache_dir=cache)),
    ]
    shown = 0
    for page in pages:
        html = page.read_text()
        assert "<img src=x" not in html and "49train" not in html and "default-src 'none'" in html, page
        assert "http://" not in html.replace("http://www.w3.org", "") and "https://" not in html, page
        shown += "&lt;img src=x onerror" in html
    assert shown == len(pages)


MEMBERS = ["../outside", "/absolute", "train/../../up", "train\\..\\outside", "train/sub/../inner", "C:evil"]


@pytest.mark.parametrize("member", MEMBERS)
def test_zip_members_reach_nothing_outside(tmp_path, member):
    """Nothing is ever extracted, and an id that names such a member is refused."""
    place = tmp_path / "deep" / "data.zip"
    place.parent.mkdir()
    patches = random_patches(4, 32, seed=0)
    with zipfile.ZipFile(place, "w") as archive:
        archive.writestr("train_labels.csv", "id,label\n" + "".join(f"p{n},{n % 2}\n" for n in range(4)))
        for n, patch in enumerate(patches):
            archive.writestr(f"train/p{n}.tif", kaggle_tiff(patch))
        archive.writestr(f"{member}.tif", kaggle_tiff(patches[0]))
    before = {path for path in tmp_path.rglob("*")}
    Pack(place, tmp_path / "cache").run()
    made = {path for path in tmp_path.rglob("*")} - before
    assert made and all(tmp_path / "cache" in [path, *path.parents] for path in made)
    with zipfile.ZipFile(place, "a") as archive:
        archive.writestr("sample_submission.csv", f"id,label\n{member},0\n")
        archive.writestr("test/p9.tif", kaggle_tiff(patches[0]))
    with pytest.raises(DatasetError, match=r"no separators|found none for 1 of 1"):
        open_dataset(place)


@pytest.mark.parametrize("name", [b"a\xff", b"a\nb", b" a", b"a\\b", b"a" * 210])
def test_file_names_that_no_table_could_hold_are_refused(tmp_path, name):
    (tmp_path / "data" / "test").mkdir(parents=True)
    path = bytes(tmp_path / "data" / "test") + b"/" + name + b".tif"
    with open(path, "wb") as file:
        file.write(b"")
    with pytest.raises(UserError, match="expected plain file names"):
        open_dataset(tmp_path / "data")


def calls(tree: ast.AST) -> list[tuple[str, ast.Call]]:
    """Every call as (dotted name, node)."""
    return [(ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


def test_no_file_is_loaded_in_a_way_that_could_run_code():
    """torch.load never without weights_only=True; no pickle, eval, exec, shell or extraction anywhere."""
    assert len(PROGRAM) > 40
    forbidden = {
        "pickle.load",
        "pickle.loads",
        "eval",
        "exec",
        "os.system",
        "yaml.load",
        "joblib.load",
        "marshal.loads",
    }
    loads = 0
    for path in PROGRAM:
        for name, call in calls(ast.parse(path.read_text())):
            keywords = {word.arg: ast.unparse(word.value) for word in call.keywords}
            assert name not in forbidden and name.rsplit(".")[-1] not in ("extract", "extractall"), f"{path}: {name}"
            assert keywords.get("shell") != "True" and keywords.get("allow_pickle") != "True", f"{path}: {name}"
            if name == "torch.load":
                loads += 1
                assert keywords.get("weights_only") == "True", path
    assert loads >= 1


def test_what_may_fetch_is_pretrained_weights_alone():
    """No module imports a client of the network; torchvision fetches, and only for --pretrained."""
    clients = {"requests", "urllib", "urllib3", "http", "httpx", "aiohttp", "ftplib", "socket"}
    found = {}
    for path in PROGRAM:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if used := {name.split(".")[0] for name in names} & clients:
                found[str(path.relative_to(ROOT))] = used
    assert found == {"models/zoo.py": {"http"}}  # the name of an exception
