"""python -m models export RUN --out net.onnx: a trained network for programs that have no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
import tyro.extras

from system.command import leave, run_command
from system.errors import UserError
from system.files import replaceable, require_writable

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
        if not self.run.is_dir():
            raise UserError(f"{self.run}: expected the folder of a run, found {_what_is_there(self.run)}")
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise UserError(f"--temperature {self.temperature}: expected a positive number")
        replaceable(self.out)
        require_writable(self.out.absolute().parent, "--out")
        try:
            from models.export import export, require_packages  # torch: a mistake is told before
            from models.saved import load_network

            require_packages()
            import torch
        except ImportError as error:
            raise UserError(
                f"a package that exporting needs cannot be imported: {error}; install it anew, or end other programs"
                " if memory is full"
            ) from error
        network, info = load_network(self.run / "best.safetensors", torch.device("cpu"))
        print(f"exporting {info.model}: some seconds …", flush=True)
        self.out.parent.mkdir(parents=True, exist_ok=True)
        difference, patches = export(network, info, self.out, views=self.tta, temperature=self.temperature)
        height, width = info.patch_size
        print(
            f"{self.out}: patches [N, {height}, {width}, 3] uint8 -> probability [N] float32, {self.tta}"
            f" view{'s' * (self.tta > 1)}; at most {difference:.1g} from torch, over {patches} made-up patches"
            + (" [learned from SYNTHETIC data]" if info.synthetic else "")
        )


def _what_is_there(path: Path) -> str:
    return "a file" if path.exists() else "nothing"


def _work() -> None:
    tyro.extras.subcommand_cli_from_dict(
        {"export": Export}, prog="python -m models", description=_DESCRIPTION, config=(tyro.conf.OmitArgPrefixes,)
    )()


def main() -> int:
    """Entry point; returns the exit status."""
    return run_command(_work)


if __name__ == "__main__":
    leave(main())
