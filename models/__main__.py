"""python -m models export RUN --out net.onnx: a trained network for programs that have no torch."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
import tyro.extras

import streams
from leaving import leave

_DESCRIPTION = """Trained networks for other programs.

Example:
  python -m models export runs/first --out first.onnx --tta 8"""


@dataclass(frozen=True)
class Export:
    """Write a run's best network as ONNX: uint8 patches [N, H, W, 3] in, probability [N] out, for any N.

    Normalisation and views are inside. The file is checked with onnxruntime against torch before it gets its name.
    """

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Folder of a run of train.py."""
    out: Path
    """File to write, such as first.onnx."""
    tta: Literal[1, 2, 4, 8] = 1
    """Views of each patch whose logits are averaged, as in predict.py."""
    temperature: float = 1.0
    """What logits are divided by: the "temperature" of the run's calibration.json gives calibrated probabilities."""

    def __call__(self) -> None:
        _check(self)
        try:
            from models.export import ExportError, export, require_packages  # torch: a mistake is told before
            from models.saved import WeightsError, load_network

            require_packages()
            import torch

            network, info = load_network(self.run / "best.safetensors", torch.device("cpu"))
            print(f"exporting {info.model}: some seconds …", flush=True)
            self.out.parent.mkdir(parents=True, exist_ok=True)
            difference, patches = export(network, info, self.out, views=self.tta, temperature=self.temperature)
        except MemoryError as error:
            raise _Mistake("memory is full: end other programs") from error
        except ImportError as error:  # before those that come with the import
            raise _Mistake(
                f"a package that exporting needs cannot be imported: {error}; install it anew, or end other programs"
                " if memory is full"
            ) from error
        except (ExportError, WeightsError) as error:
            raise _Mistake(str(error)) from error
        except OSError as error:
            raise _Mistake(
                f"{self.out}: cannot be written: {error.strerror or error}; what was there is untouched"
            ) from error
        height, width = info.patch_size
        print(
            f"{self.out}: patches [N, {height}, {width}, 3] uint8 -> probability [N] float32, {self.tta}"
            f" view{'s' * (self.tta > 1)}; at most {difference:.1g} from torch, over {patches} made-up patches"
            + (" [learned from SYNTHETIC data]" if info.synthetic else "")
        )


class _Mistake(Exception):
    """What the user can mend."""


def _check(settings: Export) -> None:
    """Raise _Mistake for what can be said before torch is imported."""
    run, out = settings.run, settings.out
    if not run.is_dir():
        raise _Mistake(f"{run}: expected the folder of a run, found {'a file' if run.exists() else 'nothing'}")
    if not (math.isfinite(settings.temperature) and settings.temperature > 0):
        raise _Mistake(f"--temperature {settings.temperature}: expected a positive number")
    if os.path.lexists(out) and not out.is_file():
        raise _Mistake(f"{out}: expected a file to write or to replace, found a folder or device; give another --out")
    folder = out.absolute().parent
    while not os.path.lexists(folder):
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise _Mistake(f"{out}: {folder} is no folder that can be written; give another --out")


def main() -> int:
    """Entry point; returns the exit status."""
    streams.steady()
    try:
        tyro.extras.subcommand_cli_from_dict(
            {"export": Export}, prog="python -m models", description=_DESCRIPTION, config=(tyro.conf.OmitArgPrefixes,)
        )()
    except _Mistake as mistake:
        streams.tell(f"error: {mistake}", first=2)
        return 1
    except KeyboardInterrupt:
        streams.tell("\ninterrupted; nothing half-made was left", first=2)
        return 130
    except SystemExit as ended:  # tyro's, after --help or a mistake
        if ended.code or not streams.incomplete():
            raise
        return 1
    return 1 if streams.incomplete() else 0


if __name__ == "__main__":
    leave(main())
