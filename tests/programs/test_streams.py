"""Nobody listens, or what is printed cannot be: the work is done all the same, and the exit status is true."""

import os
import pty
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from forker import Result
from killing import temporary_files
from tests_support import wait_for
from training_cases import (
    ONE_THREAD,
    ROOT,
    assert_same_run,
    one_thread,  # noqa: F401 (a fixture)
    smoke_args,
)

from system import streams
from training.checkpoint import load_checkpoint
from training.run_folder import RunFolder

# (standard output, standard error), as Forker.start names them; whether the status tells that something is lost.
LOST = [("gone", "", 0), ("", "closed", 0), ("closed", "closed", 0), ("gone", "gone", 0), ("full", "", 1)]
PROGRAMS = [
    ["train.py"], ["predict.py"], ["explore.py"], ["-m", "pipeline"], ["-m", "report"], ["-m", "bench"],
    ["-m", "bench", "loader"], ["-m", "bench.gpu_check"], ["-m", "models", "export"],
]  # fmt: skip


@pytest.fixture(scope="module")
def predicted(data, trained, forker, tmp_path_factory) -> bytes:
    """The submission that predict.py writes when somebody listens."""
    out = tmp_path_factory.mktemp("predicted")
    assert forker.run("predict", predict_args(data, trained, out)).status == 0
    return (out / "submission.csv").read_bytes()


def predict_args(data: Path, run: RunFolder, out: Path) -> list[str]:
    return ["--run", str(run.path), "--data-dir", str(data), "--device", "cpu", "--out", str(out / "submission.csv"),
            "--cache-dir", str(out / "cache")]  # fmt: skip


def without_traceback(result: Result) -> Result:
    assert "Traceback" not in result.out + result.err and "BrokenPipe" not in result.err, result
    return result


# -- the work is done -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("out", "err", "status"), LOST)
def test_predicting_writes_the_same_file_whoever_listens(forker, data, trained, predicted, tmp_path, out, err, status):
    result = without_traceback(forker.run("predict", predict_args(data, trained, tmp_path), out=out, err=err))
    assert result.status == status, result
    assert (tmp_path / "submission.csv").read_bytes() == predicted
    assert ("cannot be written (No space left on device)" in result.err + result.out) == ((out, err) == ("full", ""))


@pytest.mark.parametrize("out", ["gone", "full"])
def test_training_ends_with_the_same_weights_whoever_listens(forker, data, trained, tmp_path, out):
    folder = RunFolder(tmp_path / "run")
    result = without_traceback(forker.run("train", smoke_args(data, folder.path), out=out, err="closed"))
    assert result.status == (out == "full"), result
    assert_same_run(folder, trained)
    assert (folder.path / "report.html").read_text().rstrip().endswith("</html>")


@pytest.mark.parametrize(("program", "out"), [("pipeline", "gone"), ("explore", "closed"), ("report", "full")])
def test_other_programs_write_whole_files_whoever_listens(forker, data, trained, tmp_path, program, out):
    run = shutil.copytree(trained.path, tmp_path / "run")
    argv, written = {
        "pipeline": (["pack", "--data-dir", data, "--out", tmp_path / "cache"], "cache/train-*.packed"),
        "explore": (["--data-dir", data, "--out", tmp_path / "e", "--cache-dir", tmp_path / "c"], "e/explore.html"),
        "report": ([run, "--out", tmp_path / "r"], "r/report.html"),
    }[program]
    result = without_traceback(forker.run(program, argv, out=out, err="gone"))
    assert result.status == (out == "full"), result
    assert len(list(tmp_path.glob(written))) == 1


def test_an_error_is_said_on_the_other_stream_where_standard_error_is_closed(forker, tmp_path):
    argv = ["--run", str(tmp_path / "nowhere"), "--data-dir", "D", "--out", str(tmp_path / "s.csv")]
    for err in ("closed", "gone"):
        result = forker.run("predict", argv, err=err)
        assert result.status == 1 and result.out.startswith(f"error: --run {tmp_path / 'nowhere'}: expected"), result
    assert forker.run("predict", argv, out="closed", err="closed").status == 1


@pytest.mark.parametrize("program", PROGRAMS, ids=" ".join)
def test_help_for_a_reader_that_leaves_or_was_never_there(program, tmp_path):
    line = f"set -o pipefail; {sys.executable} {' '.join(program)} --help"
    for ending, status in (("| head -n 1", 0), (">&-", 0), ("2>&- <&- >&-", 0), (">/dev/full", 1)):
        ended = subprocess.run(
            ["bash", "-c", f"{line} {ending}"], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
        )
        assert (ended.returncode, "Traceback" in ended.stderr) == (status, False), (ending, ended)


def test_a_real_reader_that_leaves_after_a_line(data, trained, predicted, tmp_path):
    words = " ".join(predict_args(data, trained, tmp_path))
    line = f"set -o pipefail; {sys.executable} predict.py {words} | head -n 1"
    ended = subprocess.run(
        ["bash", "-c", line], cwd=ROOT, env={**os.environ, **ONE_THREAD}, capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (0, ""), ended
    assert ended.stdout.count("\n") == 1 and (tmp_path / "submission.csv").read_bytes() == predicted


# -- signals ----------------------------------------------------------------------------------------------------------


def signalled(forker, folder, data, *signums: int, **options) -> Result:
    """A training run with a checkpoint every second step, signalled once it has one."""
    running = forker.start("train", smoke_args(data, folder.path, "--checkpoint-every", "2"), **options)
    wait_for(lambda: folder.last.exists() or running.ended())
    for signum in signums:
        running.signal(signum)
    return without_traceback(running.result())


def test_ctrl_c_that_ends_tee_too_is_told_how_to_go_on(forker, data, trained, tmp_path):
    folder = RunFolder(tmp_path / "run")
    result = signalled(forker, folder, data, signal.SIGINT, out="gone")
    assert result.status == 130, result
    assert "continue with: " in result.err and f"--resume --out-dir {folder.path}" in result.err
    assert forker.run("train", ["--resume", "--out-dir", str(folder.path)], out="gone", err="gone").status == 0
    assert_same_run(folder, trained)


def test_a_terminal_that_is_closed_leaves_a_checkpoint_and_nohup_is_heeded(forker, data, trained, tmp_path):
    folder, kept = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "kept")
    result = signalled(forker, folder, data, signal.SIGHUP, signal.SIGHUP, out="gone", err="gone")
    assert result.status == 129, result
    assert load_checkpoint(folder.last, belongs_to={})["progress"]["step"] > 0 and not temporary_files(folder.path)
    assert forker.run("train", ["--resume", "--out-dir", str(folder.path)]).status == 0
    assert_same_run(folder, trained)
    result = signalled(forker, kept, data, signal.SIGHUP, ignored=(signal.SIGHUP,))
    assert result.status == 0 and "stopped" not in result.out, result
    assert_same_run(kept, trained)


def test_a_closed_terminal_leaves_nothing_half(forker, data, trained, tmp_path):
    running = forker.start("explore", ["--data-dir", data, "--out", tmp_path / "e", "--cache-dir", tmp_path / "c"])
    wait_for(lambda: (tmp_path / "e").exists() or running.ended())
    running.signal(signal.SIGHUP)
    result = without_traceback(running.result())
    assert result.status == 129 and "nothing half-made was left" in result.err, result
    assert not [path for part in tmp_path.rglob("*") if part.is_dir() for path in temporary_files(part)]


def test_what_the_user_needs_goes_to_the_terminal_at_last():
    """Both streams gone, as with ``2>&1 | tee log`` and Ctrl-C."""
    code = """if True:
        import os
        from system import streams
        reader, writer = os.pipe()
        os.dup2(writer, 1), os.dup2(writer, 2), os.close(writer), os.close(reader)
        streams.steady()
        streams.tell("continue with: python …", terminal=True)
        streams.tell("not that far")
        os._exit(7 if streams.is_lost(1) and streams.is_lost(2) and not streams.incomplete() else 1)
    """
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        os.execv(sys.executable, [sys.executable, "-c", code])
    said = b""
    while True:
        try:
            if not (chunk := os.read(terminal, 4096)):
                break
        except OSError:  # the terminal's other end is closed
            break
        said += chunk
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7, said
    assert said.decode() == "continue with: python …\r\n"


# -- letters ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_letters_that_an_output_lacks_are_spelled(forker, data, tmp_path, encoding):
    named = Path(shutil.copytree(data, tmp_path / "łóź 試"))
    for path in sorted((named / "train").iterdir())[:25]:
        path.write_bytes(b"x")
    argv = ["pack", "--data-dir", named, "--out", tmp_path / "cache", "--on-bad", "skip"]
    result = without_traceback(forker.run("pipeline", argv, encoding=encoding))
    assert result.status == 0 and "... and 5 more" in result.out, result
    assert r"\u0142" in result.out and ("�" in result.out) == (encoding == "latin-1")  # ó as one byte there


def test_bytes_of_a_name_that_are_no_text_are_shown():
    assert streams.readable("a\udcffb…") == r"a\xffb…"
    assert "x…–\udcff\u0142─".encode("ascii", "spelled") == rb"x...-\xff\u0142-"
    assert "x…\udcc5\udc82".encode("ascii", "spelled_or_bytes") == b"x...\xc5\x82"


def test_what_a_test_or_a_notebook_put_there_stays(capsys):
    before = sys.stdout, sys.stderr
    streams.steady()
    assert (sys.stdout, sys.stderr) == before
    streams.tell("said")
    assert capsys.readouterr().out == "said\n"
