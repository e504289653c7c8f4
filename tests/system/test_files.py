"""What may be replaced by a file that is written whole, and what may not."""

import os
import stat
from pathlib import Path

import pytest

from system.errors import UserError
from system.files import write_text


def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for name, before in (("old.csv", "old"), ("new.csv", None)):
        target, link = tmp_path / "there" / name, tmp_path / name
        if before is not None:
            target.write_text(before)
        link.symlink_to(target)
        write_text(link, "written")
        assert link.is_symlink() and target.read_text() == "written" and not target.is_symlink()


def test_what_is_no_file_is_refused_and_stays(tmp_path: Path) -> None:
    pipe, folder, circle, to_pipe = (tmp_path / name for name in ("pipe", "folder", "circle", "to_pipe"))
    os.mkfifo(pipe)
    folder.mkdir()
    circle.symlink_to(circle)
    to_pipe.symlink_to(pipe)
    for path, found in (
        (pipe, "a device or pipe"),
        (to_pipe, "a device or pipe"),
        (folder, "a folder"),
        (circle, "a link"),
    ):
        with pytest.raises(UserError, match=f"{path}: expected a file .*found {found}"):
            write_text(path, "written")
    assert stat.S_ISFIFO(pipe.lstat().st_mode) and to_pipe.is_symlink() and circle.is_symlink()
    assert len(list(tmp_path.iterdir())) == 4 and not list(folder.iterdir())
