"""The head of a run's report: the score, how it was split, what a decision gives, how fast it was, what stands out."""

from collections.abc import Mapping
from typing import Any

from report import discussion
from report.page import Block, Head, Link, Tile, count_of, is_number, number, share
from report.run_files import RunFiles


def head(run: RunFiles, facts: Mapping[str, Any]) -> list[Block]:
    """Tiles of what was measured, and the three findings that matter most."""
    tiles = [*_score(facts), *_split(run, facts), *_decision(facts), *_speed(run, facts)]
    found = discussion.most_urgent(facts)
    return [Head(tiles, [Link(finding.text, finding.section, finding.section) for finding in found])]


def _score(facts: Mapping[str, Any]) -> list[Tile]:
    auc = (facts.get("scores") or {}).get("auc")
    if not auc or not is_number(auc["value"]):
        return []
    interval = f"95 % interval {number(auc['low'])} to {number(auc['high'])}, by {facts['interval_unit']}"
    return [Tile("Validation AUC", number(auc["value"]), interval)]


def _split(run: RunFiles, facts: Mapping[str, Any]) -> list[Tile]:
    if not run.config and "validation_patches" not in facts:
        return []
    patches = count_of(facts["validation_patches"], "validation patch") if "validation_patches" in facts else ""
    if run.grouped:
        return [Tile("Split", "by slide", "; ".join(part for part in ("no slide on both sides", patches) if part))]
    if not run.settings:
        return [Tile("Split", "unknown", "; ".join(part for part in ("no settings are kept", patches) if part))]
    return [Tile("Split", "by patch", "; ".join(part for part in ("slides on both sides: flatters", patches) if part))]


def _decision(facts: Mapping[str, Any]) -> list[Tile]:
    chosen = facts.get("chosen")
    if not chosen:
        return []
    at = f"p ≥ {chosen['threshold']:.3f}" + (f" ({chosen['name']})" if chosen["name"] != "0.5" else "")
    found = []
    for name in ("sensitivity", "specificity"):
        interval = chosen[f"{name}_interval"]
        if is_number(chosen[name]) and interval is not None:
            detail = f"at {at}; 95 % {share(interval[0])} to {share(interval[1])}"
            found.append(Tile(name.capitalize(), share(chosen[name]), detail))
    return found


def _speed(run: RunFiles, facts: Mapping[str, Any]) -> list[Tile]:
    rate = facts.get("images_per_s")
    return [Tile("Training speed", f"{rate:,.0f} images/s", run.device)] if is_number(rate) else []
