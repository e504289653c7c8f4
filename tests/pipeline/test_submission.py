"""Submissions: every rule by a file that breaks it, ours and those made elsewhere."""

import codecs
from pathlib import Path

import numpy as np
import pytest
from tests_support import write_kaggle_folder

from pipeline.__main__ import main
from pipeline.data.submission import check_submission, write_submission
from system.errors import UserError

IDS = ["c", "a", "b", "d"]
GOOD = "id,label\nc,0.5\na,0\nb,1\nd,0.25\n"


def check(text: str) -> list[str]:
    return check_submission(text, IDS, where="s.csv")


@pytest.mark.parametrize(
    "text",
    [
        GOOD, GOOD.rstrip("\n"), GOOD.replace("\n", "\r\n"), GOOD.replace("c,0.5", '"c","0.5"'),
        GOOD.replace("0.5", "5e-1"), GOOD.replace("0.5", ".5"), GOOD.replace("0.5", "+0.5"), GOOD.replace("1", "1.0"),
        GOOD + "\n", GOOD.replace("\na", "\n\na"),
    ],
)  # fmt: skip
def test_what_kaggle_takes_passes(text):
    assert check(text) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "line 1: expected the header id,label, found ''"),
        (GOOD.replace("id,label\n", ""), "line 1: expected the header id,label, found 'c,0.5'"),
        (GOOD.replace("id,label", "Id,Label"), "found 'Id,Label'"),
        (GOOD.replace("id,label", "id,label,note"), "found 'id,label,note'"),
        (GOOD.replace("id,label", "label,id"), "found 'label,id'"),
        (GOOD.replace("id,label", "id;label"), "found 'id;label'"),
        (GOOD.replace("a,0", "a,0,more"), "line 3: expected two fields, found 3"),
        (GOOD.replace("a,0", "a"), "line 3: expected two fields, found 1"),
        (GOOD.replace("a,0", ","), "1 unknown ids: ''"),
        ("id,label\n", "4 ids missing: 'c', 'a', 'b', 'd'"),
        (GOOD.replace("d,0.25\n", ""), "1 ids missing: 'd'"),
        (GOOD + "e,0.5\n", "1 unknown ids: 'e'"),
        (GOOD + "a,0.5\n", "1 ids more than once: 'a'"),
        (GOOD.replace("c,0.5", "c.tif,0.5"), "1 unknown ids: 'c.tif'"),
        (GOOD.replace("0.5", "nan"), "line 2: 'nan'"),
        (GOOD.replace("0.5", "inf"), "line 2: 'inf'"),
        (GOOD.replace("0.5", "-0.1"), "line 2: '-0.1'"),
        (GOOD.replace("0.5", "1.0000001"), "line 2: '1.0000001'"),
        (GOOD.replace("0.5", ""), "line 2: ''"),
        (GOOD.replace("0.5", "yes"), "line 2: 'yes'"),
        (GOOD.replace("0.5", "0_1"), "line 2: '0_1'"),
        (GOOD.replace("0.5", "٠"), "line 2: '٠'"),  # an Arabic nought, which Python's float takes
        (GOOD.replace("0.5", "0,5"), "line 2: expected two fields, found 3"),
        (GOOD.replace("0.5", '"0,5"'), "line 2: '0,5'"),
        (GOOD.replace("0.5", '"0.5'), "expected a CSV file"),
    ],
)  # fmt: skip
def test_what_breaks_a_rule_is_said_with_its_line(text, said):
    with pytest.raises(UserError) as refused:
        check(text)
    assert said in str(refused.value) and str(refused.value).startswith("s.csv: ")


def test_many_of_a_kind_are_counted_and_the_first_five_shown():
    ids = [f"id{n}" for n in range(30)]
    text = "id,label\n" + "".join(f"{i},7\n" for i in ids)
    with pytest.raises(UserError, match=r"found 30 others: line 2: '7'(, line \d: '7'){4}$"):
        check_submission(text, ids, where="s.csv")
    with pytest.raises(UserError, match=r"29 ids missing: ('id\d', ){4}'id5' …"):
        check_submission("id,label\nid0,0\n", ids, where="s.csv")


def test_another_order_is_a_warning_as_kaggle_goes_by_the_ids():
    (warning,) = check(GOOD.replace("c,0.5\na,0", "a,0\nc,0.5"))
    assert warning == "s.csv: its rows are in another order than in sample_submission.csv; Kaggle goes by the ids"


def test_a_constant_is_a_warning_but_not_of_one_patch_alone():
    (warning,) = check("id,label\n" + "".join(f"{i},0.5\n" for i in IDS))
    assert "all 4 values are 0.5" in warning
    assert check_submission("id,label\na,0.5\n", ["a"], where="s.csv") == []


@pytest.mark.parametrize("values", [[0.1, np.nan, 0.2, 0.3], [0.1, 1.5, 0.2, 0.3], [0.1, -np.inf, 0.2, 0.3]])
def test_ours_is_checked_before_it_takes_the_place_of_an_older_one(tmp_path, values):
    path = tmp_path / "new" / "s.csv"
    assert write_submission(path, IDS, np.array([0.1, 0.2, 0.3, 0.4]), IDS) == []
    before = path.read_bytes()
    with pytest.raises(UserError, match="line 3"):
        write_submission(path, IDS, np.array(values), IDS)
    with pytest.raises(UserError, match="ids missing"):
        write_submission(path, IDS[:3], np.array([0.1, 0.2, 0.3]), IDS)
    assert path.read_bytes() == before and check(path.read_text()) == []


@pytest.fixture
def data(tmp_path: Path) -> tuple[Path, str]:
    """A data set of six test patches, and a valid submission of it."""
    write_kaggle_folder(tmp_path / "data", train=4, test=6, size=32)
    lines = (tmp_path / "data" / "sample_submission.csv").read_text().split()[1:]
    return tmp_path / "data", "id,label\n" + "".join(f"{line.split(',')[0]},0.{n}\n" for n, line in enumerate(lines))


def command(monkeypatch: pytest.MonkeyPatch, file: Path, data: Path) -> int:
    monkeypatch.setattr("sys.argv", ["pipeline", "check-submission", str(file), "--data-dir", str(data)])
    return main()


@pytest.mark.parametrize("encode", [str.encode, lambda t: codecs.BOM_UTF8 + t.replace("\n", "\r\n").encode()])
def test_command_takes_a_file_made_elsewhere(data, tmp_path, monkeypatch, capsys, encode):
    path = tmp_path / "s.csv"
    path.write_bytes(encode(data[1]))
    assert command(monkeypatch, path, data[0]) == 0
    said = capsys.readouterr()
    assert f"{path}: valid, 6 predictions" in said.out and not said.err
    path.write_text("id,label\n" + "".join(line.split(",")[0] + ",0.5\n" for line in data[1].split()[1:]))
    assert command(monkeypatch, path, data[0]) == 0 and "warning" in capsys.readouterr().err
    (data[0] / "sample_submission.csv").unlink()  # without the sample the ids are those of test/, sorted
    rows = sorted(data[1].split()[1:])
    path.write_text("\n".join(["id,label", *rows]))
    assert command(monkeypatch, path, data[0]) == 0


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read: No such file"),
        (b"", "expected the header"),
        (b"\xff\xfei\0d\0", "expected a CSV file in UTF-8"),
        ("id,label\nü,0.5\n".encode("latin-1"), "expected a CSV file in UTF-8"),
        (b"PK\x03\x04\xe2\x28", "expected a CSV file in UTF-8"),
        (b"id,label\na\x00b,0.5\n", "unknown ids"),
        (b'id,label\n"' + b"x" * 200_000 + b'",0.5\n', "field larger than field limit"),
    ],
)  # fmt: skip
def test_command_refuses_what_is_no_submission_without_a_traceback(
    data, tmp_path, monkeypatch, capsys, content, said
):  # fmt: skip
    path = tmp_path / "s.csv"
    if content is not None:
        path.write_bytes(content)
    assert command(monkeypatch, path, data[0]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {path}: ") and said in error and "Traceback" not in error
