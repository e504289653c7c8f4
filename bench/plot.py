"""python -m bench plot: pictures of result files."""

from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from bench.options_more import PlotOptions
from bench.plots import draw_ceilings, draw_end_to_end, draw_ladder, draw_scaling
from bench.results import Result, one_line, read_result
from pipeline.errors import UserError
from pipeline.files import require_writable, write_whole
from report.style import to_png

PICTURES: dict[str, Callable[[Result], Figure]] = {
    "ceilings": draw_ceilings,
    "loader": draw_ladder,
    "peers": draw_ladder,
    "scaling": draw_scaling,
    "train": draw_end_to_end,
}


class Plot(PlotOptions):
    """Draw what result files hold; one that cannot be read gets one line, and the rest is still drawn."""

    def run(self) -> None:
        """Draw them. Raises UserError where nothing could be drawn."""
        drawn, found = 0, result_files(self.results)
        for folder in {path.parent for path in found} if self.out_dir is None else ():
            require_writable(folder, "--out-dir")
        for path in found:
            try:
                result = read_result(path)
                if result.command not in PICTURES:
                    print(f"{path}: no picture for `python -m bench {result.command}`")
                    continue
                figure = PICTURES[result.command](result)
            except UserError as error:
                print(f"not drawn: {one_line(error)}")
                continue
            except (KeyError, TypeError, ValueError) as error:
                print(
                    f"not drawn: {path}: expected rows of `python -m bench {result.command}`, found {one_line(error)}"
                )
                continue
            out = (self.out_dir or path.parent) / f"{path.stem}.png"
            out.parent.mkdir(parents=True, exist_ok=True)
            png = to_png(figure, synthetic=bool(result.settings.get("synthetic")))
            write_whole(out, lambda file, png=png: file.write(png))
            print(f"{out}: drawn from {path}")
            drawn += 1
        if not drawn:
            raise UserError("nothing was drawn: expected result files of " + ", ".join(PICTURES))


def result_files(paths: Sequence[Path]) -> list[Path]:
    """The files named, and the .json files in the folders named. Raises UserError for what is not there."""
    files: list[Path] = []
    for path in paths:
        if not path.exists():
            raise UserError(f"{path}: expected a result file or a folder of them, found nothing there")
        files += sorted(path.glob("*.json")) if path.is_dir() else [path]
    return files
