"""train.py --submission: the test patches are opened while the last epoch runs, and predicted where it has trained."""

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import torch

from pipeline.data.patches import PatchTable
from pipeline.data.submission import Made
from pipeline.open import AnySource, open_source
from pipeline.settings import InputSettings
from pipeline.sources.decode_cache import Layout
from pipeline.sources.layouts import Layouts, check_image, scan_layouts
from pipeline.sources.source import require_size
from pipeline.storage.stores import FolderStore
from pipeline.tiff.layout import LayoutChecker, TiffError
from system.advice import command
from system.errors import UserError, reason
from training.background import in_background
from training.config import TrainConfig
from training.device import Precision
from training.ensemble import load_ensemble
from training.patches import TrainPatches
from training.predicting import probabilities_of, warn_of_synthetic, write_predictions
from training.run_folder import RunFolder


class SubmissionPatches:
    """The test patches of a run: looked at before it trains, opened while its last epoch runs."""

    def __init__(self, table: PatchTable, settings: InputSettings, device: torch.device, cache_dir: Path) -> None:
        self.table, self.settings, self.device = table, settings, device
        self._cache_dir = cache_dir
        self._beside = ExitStack()
        self._opening: Future[AnySource] | None = None
        self._said: list[str] = []

    def require_good(self, size: tuple[int, int]) -> None:
        """Look at the header of every file in a folder; of a .zip, whose files have to be inflated for it, at one.

        Args:
            size: height and width, pixels, of the patches that the network learns from.

        Raises:
            UserError: listing the files that cannot be used, or naming one of another size.
        """
        first: Layout | Layouts
        if isinstance(self.table.store, FolderStore):
            first = scan_layouts(self.table, threads=self.settings.threads, progress=True, cache_dir=self._cache_dir)
            first.require_good()
        else:
            try:
                first = check_image(self.table.store.read(0), LayoutChecker())
            except TiffError as error:
                raise UserError(f"{self.table.store.name(0)}: {error}") from error
        require_size(self.table.store.name(0), (first.height, first.width), size)

    @contextmanager
    def ended(self) -> Iterator["SubmissionPatches"]:
        """Leave no thread behind the block; one at work is told to end if that ends by an error."""
        with self._beside:
            yield self

    def begin(self) -> None:
        """Open them in a thread of its own from now on."""
        self._opening = self._beside.enter_context(in_background(lambda: self._open(self._said.append)))

    def source(self) -> AnySource:
        """The opened patches. Raises UserError where they cannot be used."""
        if self._opening is None:
            return self._open(print)
        error = self._opening.exception()
        for line in self._said:
            print(line, flush=True)
        if error is None or isinstance(error, UserError):
            return self._opening.result()
        # Such as memory that training needed too: training is done and safe, and now there is more.
        print(f"warning: opening the test patches beside training failed ({reason(error)}); again", file=sys.stderr)
        return self._open(print)

    def _open(self, say: Callable[[str], None]) -> AnySource:
        return open_source(
            self.table, self.settings, device=self.device, cache_dir=self._cache_dir, progress=say is print, say=say
        )


def write_submission_of(
    config: TrainConfig, folder: RunFolder, patches: TrainPatches, test: SubmissionPatches, precision: Precision
) -> None:
    """Predict the test patches by the best epoch's weights and write the submission; says where it is.

    Through the functions of predict.py and from best.safetensors, so that the file is the same, byte for byte.

    Raises:
        UserError: the patches cannot be used, or the file cannot be written. The run's own files are safe by now.
    """
    settings = config.submit
    assert settings.submission is not None, "without one there are no test patches"
    try:
        ensemble = load_ensemble([folder.path], test.device, calibrated=settings.calibrated)
        warn_of_synthetic([folder.path], ensemble, test.table)
        probabilities = probabilities_of(
            ensemble,
            test.source(),
            np.arange(len(test.table)),
            settings=test.settings,
            device=test.device,
            batch_size=0,
            precision=precision,
            views=settings.tta,
        )
        made = Made((str(folder.path),), settings.tta, settings.calibrated, settings.threshold)
        write_predictions(
            test.table, patches.sample_ids, probabilities, ensemble.prevalence, out=settings.submission, made=made
        )
    except UserError as error:
        later = ("--run", folder.path, "--data-dir", patches.root, "--out", settings.submission)
        raise UserError(f"{error}\nthe run is complete; predict later: " + command("predict.py", *later)) from error
