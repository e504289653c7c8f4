"""A run's most confident mistakes, as many as are asked for, with what spoke for each: a page of its own."""

from pathlib import Path

import torch

from report import run_network
from report.network import grad_cam_in_parts, load_network
from report.page import Block, Gallery, Link, Note, Page, Section, Text, count_of
from report.run_files import read_run
from system.errors import UserError

STEM = "mistakes"


def mistakes_page(run_dir: Path, count: int, *, data_dir: Path | None = None) -> Page:
    """The page of at most ``count`` false positives and as many false negatives at p = 0.5, worst first.

    Raises:
        UserError: the run has no validation predictions, or their patches or its network cannot be found.
    """
    run = read_run(run_dir)
    if run.validation is None:
        raise UserError(
            f"{run.path}: {'; '.join(run.missing)}: without predictions on validation there are no mistakes"
        )
    validation = run.validation
    found = run_network.Patches(run, validation, data_dir)
    network = load_network(run.weights, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    sections, facts = [], {"run": run.name, "asked_for": count}
    for kind in run_network.MISTAKE_KINDS:
        every = run_network.worst_mistakes(validation, kind.label, len(validation))
        places = every[:count]
        facts[kind.name] = len(every)
        blocks: list[Block] = [Note(f"No patch labelled {kind.label} is on the wrong side of 0.5.")]
        if len(places):
            pixels = found.pixels(places)
            said = f"The {len(places):,} worst of {len(every):,}." if len(places) < len(every) else "All of them."
            captions = [f"p = {p:.4f}, label {kind.label}" for p in validation.probabilities[places]]
            blocks = [
                Gallery(
                    f"all_{kind.name}",
                    list(pixels),
                    validation.ids[places].tolist(),
                    captions,
                    said,
                    values=run_network.values_of(validation, places),
                    maps=grad_cam_in_parts(network, pixels),
                )
            ]
        sections.append(Section(kind.title, blocks))
    return Page(
        title=f"Mistakes: {run.name}",
        subtitle=f"validation at p = 0.5 · {count_of(sum(facts[k.name] for k in run_network.MISTAKE_KINDS), 'mistake')}"
        f" among {count_of(len(validation), 'patch')}",
        sections=sections,
        synthetic=run.synthetic,
        facts=facts,
        head=[
            Text(
                "Each patch beside its Grad-CAM: yellow is what spoke for the predicted class. The square is the"
                " centre, which alone decides the label. p: the predicted probability of tumour."
            ),
            Link("Back to", "report.html", "the report"),
        ],
    )
