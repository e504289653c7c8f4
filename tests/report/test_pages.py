"""Every page opened in headless Chromium: no broken picture, no error, nothing fetched."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from report_cases import write_run

from explore import ExploreSettings, explore
from report.__main__ import ReportSettings, report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium to test the pages")

# Run in the page: every picture has been decoded, and the page is no wider than the window.
PROBE = """<script>window.addEventListener("load", () => { const images = [...document.images];
document.body.setAttribute("data-probe", `images=${images.length}` +
` broken=${images.filter(i => !i.complete || i.naturalWidth < 2).length}` +
` overflow=${document.documentElement.scrollWidth - window.innerWidth}` +
` wrapped=${[...document.querySelectorAll("td, th")].filter(c => c.offsetHeight && c.offsetHeight > 40).length}` +
` paper=${getComputedStyle(document.body).backgroundColor}`); });</script>"""


@pytest.fixture(scope="module")
def pages(kaggle_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A page of each kind."""
    work = tmp_path_factory.mktemp("pages")
    one = write_run(work / "one", kaggle_folder, synthetic=True)
    other = write_run(work / "other", kaggle_folder, lr=0.01, seed=1, weights=False)
    lines = (kaggle_folder / "sample_submission.csv").read_text().splitlines()[1:]
    (work / "s.csv").write_text(
        "id,label\n" + "".join(f"{line.split(',')[0]},0.{n:02}\n" for n, line in enumerate(lines))
    )
    cache = work / "cache"
    return {
        "explore": explore(ExploreSettings(kaggle_folder, work / "explore", cache_dir=cache)),
        "run": report(ReportSettings((one,), patches=20, mistakes=5)),
        "mistakes": one / "mistakes.html",
        "comparison": report(ReportSettings((one, other), out=work / "comparison")),
        "submission": report(ReportSettings((work / "s.csv",), data_dir=kaggle_folder, run=(one,), cache_dir=cache)),
    }


def _open(page: Path, tmp_path: Path, width: int, *options: str) -> tuple[str, str]:
    """The page's own document after loading, and what Chromium logged."""
    done = subprocess.run(
        [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--enable-logging=stderr",
            "--v=0",
            "--dump-dom",
            f"--user-data-dir={tmp_path / 'profile'}",
            f"--window-size={width},900",
            *options,
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


@pytest.mark.parametrize(
    ("kind", "pictures"), [("explore", 30), ("run", 40), ("mistakes", 20), ("comparison", 5), ("submission", 10)]
)
def test_page_in_chromium(pages: dict[str, Path], kind: str, pictures: int, tmp_path: Path) -> None:
    text = pages[kind].read_text()
    _, console = _open(pages[kind], tmp_path, 1200)
    assert console == "", "the page itself must be silent"
    # The page allows no script; the probe goes into a copy without that rule.
    probed = tmp_path / "probed.html"
    probed.write_text(re.sub(r"<meta http-equiv=.*?>", "", text).replace("</head>", PROBE + "</head>"))
    for width in (1200, 500):
        document, console = _open(probed, tmp_path, width)
        assert console == ""
        found = re.search(r'data-probe="images=(\d+) broken=(\d+) overflow=(-?\d+) wrapped=(\d+) paper=', document)
        assert found, "the page did not finish loading"
        images, broken, overflow, wrapped = map(int, found.groups())
        assert images >= pictures and broken == 0 and overflow <= 0 and wrapped == 0


def test_the_probe_finds_a_broken_picture(pages: dict[str, Path], tmp_path: Path) -> None:
    probed = tmp_path / "probed.html"
    text = re.sub(r"<meta http-equiv=.*?>", "", pages["comparison"].read_text()).replace("</head>", PROBE + "</head>")
    probed.write_text(text.replace("data:image/svg+xml;base64,PD94", "data:image/svg+xml;base64,xxxx", 1))
    assert "broken=1" in _open(probed, tmp_path, 1200)[0]


def test_pages_follow_the_dark_of_the_system(pages: dict[str, Path], tmp_path: Path) -> None:
    probed = tmp_path / "probed.html"
    text = re.sub(r"<meta http-equiv=.*?>", "", pages["comparison"].read_text()).replace("</head>", PROBE + "</head>")
    probed.write_text(text)
    assert "paper=rgb(255, 255, 255)" in _open(probed, tmp_path, 900, "--blink-settings=preferredColorScheme=1")[0]
    assert "paper=rgb(21, 24, 28)" in _open(probed, tmp_path, 900, "--blink-settings=preferredColorScheme=0")[0]
