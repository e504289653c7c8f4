"""Tables as people bring them: what means one thing only is read, damage is refused by its line."""

import codecs

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests_support import write_kaggle_folder

from pipeline.data.image_files import DatasetError
from pipeline.data.kaggle import read_ids
from pipeline.data.tables import parse_table, read_table
from pipeline.dataset import open_dataset
from system.errors import UserError

PLAIN = "id,label\na,0\nb,1\nc,1\n"
IDS, LABELS = ["a", "b", "c"], ["0", "1", "1"]


@pytest.mark.parametrize(
    "content",
    [
        PLAIN, PLAIN.rstrip("\n"), PLAIN + "\n", PLAIN + "\n\n  \n", "\n" + PLAIN, PLAIN + ",\n,\n",
        PLAIN.replace("\n", "\r\n"), PLAIN.replace("\n", "\r"), PLAIN.replace("b,1\n", "\nb,1\n"),
        PLAIN.replace(",", ";"), PLAIN.replace(",", "\t"), PLAIN.replace(",", "|"), PLAIN.replace(",", ", "),
        PLAIN.replace("id,label", "Id,LABEL"), PLAIN.replace("id,label", " id , label "),
        '"id","label"\n"a","0"\n"b","1"\n"c","1"\n',
        "label,id\n0,a\n1,b\n1,c\n", ",id,label\n0,a,0\n1,b,1\n2,c,1\n", "id,label\n1,a,0\n2,b,1\n3,c,1\n",
        "id,slide,label\na,x,0\nb,,1\nc,z,1\n", "id,label,,\na,0,,\nb,1,,\nc,1,,\n", "id,label\na,0,\nb,1,,\nc,1\n",
        'note,id,label\n"two\nlines, one field",a,0\n,b,1\n,c,1\n',
    ],
)  # fmt: skip
def test_what_means_one_thing_only_is_read(content):
    for data in (content.encode(), codecs.BOM_UTF8 + content.encode(), content.encode("utf-16")):
        table = parse_table(data, "t.csv", ("id", "label"))
        assert table["id"] == IDS and table["label"] == LABELS
    assert parse_table(content.encode("utf-32"), "t.csv", ("id",))["id"] == IDS


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "expected a CSV file with the header id,label, found nothing in it"),
        (b"\n,,\n", "found nothing in it"),
        (b"a,0\nb,1\n", "line 1: expected the header id,label, found 'a,0'"),
        (b"id,label,label\na,0,1\n", "line 1: expected one column label, found 2"),
        (b"id,label\na,0\nb\n", "line 3: expected 2 fields, found 1: 'b'"),
        (b"id,label\na,0\n\nb,1,2\n", "line 4: expected 2 fields, found 3: 'b,1,2'"),
        (b"id,label\n7,a,0\n9,b,1\n", "line 2: expected 2 fields, found 3"),  # no row numbers: which is the id?
        (b'id,label\na,0\n"b,1\n', "expected a CSV file"),
        (b"id,label\na,0\nb\0c,1\n", "line 3: damaged: found a NUL byte"),
        (PLAIN.encode("utf-16-le"), "line 1: damaged: found a NUL byte"),
        (b"id,label\na,0\nb\xff,1\n", "line 3: expected text in UTF-8"),
        (codecs.BOM_UTF16_LE + b"i", "expected text in UTF-8, found other bytes"),
        (b"id,label\n" + b"a" * 200_000 + b",0\n", "field larger than field limit"),
    ],
)
def test_damage_is_refused_by_its_line(content, said):
    with pytest.raises(DatasetError) as refused:
        parse_table(content, "t.csv", ("id", "label"), error=DatasetError)
    assert str(refused.value).startswith("t.csv: ") and said in str(refused.value)


def test_complaints_name_the_line_in_the_file_also_below_empty_ones_and_long_fields():
    table = parse_table(b'id,note\n\na,"x\ny"\nb,ok\na,bad\n', "t.csv", ("id", "note"))
    with pytest.raises(UserError, match=r"^t.csv: expected ok, line 4: found 'x\\ny'; line 6: found 'bad'$"):
        table.require("note", "ok".__eq__, "ok")
    with pytest.raises(UserError, match="every id once; this one stands above already:, line 6: found 'a'"):
        table.require_unique("id")


def test_numbers_are_plain_decimals_and_nothing_else():
    values = ["1", "+0.5", ".5", "5e-1", "0_1", "nan", "inf", "", "0x1", "٠"]
    table = parse_table(("v\n" + "\n".join(f'"{v}"' for v in values) + "\nx").encode(), "t.csv", ("v",))
    found = table.numbers("v")
    assert found[:4].tolist() == [1, 0.5, 0.5, 0.5] and np.isnan(found[4:]).all()


def test_no_file_and_a_folder_are_said(tmp_path):
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(UserError, match=f"^{path}: cannot be read: it is "):
            read_table(path, ("id",))


@given(st.lists(st.text(st.characters(blacklist_categories=["Cs", "Cc"]), min_size=1), min_size=1, unique=True))
def test_any_text_comes_back_without_the_blanks_around_it(values):
    values = [value.strip() for value in values]
    text = "id\n" + "\n".join('"' + value.replace('"', '""') + '"' for value in values)
    assert parse_table(text.encode(), "t.csv", ("id",))["id"] == [value for value in values if value]


@pytest.mark.parametrize(
    ("zero", "one"),
    [("0.0", "1.0"), ("False", "True"), ("false", "TRUE"), ("+0", "+1"), ("00", "1."), ("0e0", "1e0"), ("-0", " 1 ")],
)
def test_labels_may_be_written_as_tables_write_them(tmp_path, zero, one):
    folder = tmp_path / "data"
    write_kaggle_folder(folder, train=8, test=2, size=8)
    expected = open_dataset(folder).train
    labels = folder / "train_labels.csv"
    labels.write_text(labels.read_text().replace(",0\n", f",{zero}\n").replace(",1\n", f",{one}\n"))
    found = open_dataset(folder).train
    assert found.labels.tolist() == expected.labels.tolist() and found.ids.tolist() == expected.ids.tolist()


@pytest.mark.parametrize("label", ["2", "", "nan", "yes", "0.5", "-1", "1,0", "NA", "0_1"])
def test_other_labels_are_refused(tmp_path, label):
    folder = tmp_path / "data"
    write_kaggle_folder(folder, train=8, test=2, size=8)
    labels = folder / "train_labels.csv"
    labels.write_text(labels.read_text().replace(",1\n", f',"{label}"\n', 1))
    with pytest.raises(DatasetError, match="train_labels.csv: expected label 0 or 1, line "):
        open_dataset(folder)


@pytest.mark.parametrize("identifier", ["..", "a/b", "a\\b", "a\x7fb", "x" * 201, "é" * 101])
def test_ids_that_are_no_file_names_are_refused(identifier):
    with pytest.raises(DatasetError, match="line 2: found"):
        read_ids(f"id\n{identifier}\n".encode(), "t.csv")
