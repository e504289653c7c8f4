"""bench peers: the same pixels from every way of loading, every raw repeat kept, and failures that stay one line."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from bench import peers
from bench.peer_ways import (
    AUGMENTED,
    BASELINE,
    DATA_LOADERS,
    OURS,
    PASS_THROUGH,
    PIXELS,
    RANDOM_GATHER,
    Feed,
    Given,
    Peer,
    first_epoch,
)
from bench.peers import FORMATS, Peers
from system.errors import UserError

BY_NAME = {peer.name: peer for peer in (*DATA_LOADERS, *FORMATS, *OURS)}


@pytest.fixture
def given(dataset, tmp_path: Path) -> Given:
    return Given(
        table=dataset.train, rows=np.arange(100), batch_size=32, workers=1, device=torch.device("cpu"),
        cache_dir=tmp_path, folder=tmp_path,
    )  # fmt: skip


class Batches:
    """Epochs of one batch of float32; from the epoch ``breaks`` on there is an error instead."""

    def __init__(self, count: int, breaks: int = 100) -> None:
        self._x = torch.zeros(count, 4, 4, 3).permute(0, 3, 1, 2)
        self._left = breaks

    def __iter__(self) -> Iterator[tuple[torch.Tensor]]:
        if not self._left:
            raise RuntimeError("lost its files\nand more that nobody reads")
        self._left -= 1
        yield (self._x,)


def measure(monkeypatch, chosen: list[Peer], folder: Path, tmp_path: Path, **options) -> None:
    monkeypatch.setattr(peers, "PEERS", tuple(chosen))
    Peers(
        data_dir=folder, device="cpu", workers=1, batch_size=64, repeats=2, seconds=0.01, cache_dir=tmp_path, **options
    ).run()  # fmt: skip


def test_every_repeat_is_kept_and_failures_are_one_line(kaggle_folder, tmp_path, monkeypatch, capsys) -> None:
    out = tmp_path / "result.json"
    chosen = [
        BY_NAME[BASELINE],
        Peer("missing", PIXELS, lambda given: Feed(()), "no_module_of_this_name", "pip install something"),
        Peer("breaks half-way", AUGMENTED, lambda given: Feed(Batches(200, breaks=3))),
        Peer("loses patches", AUGMENTED, lambda given: Feed(Batches(199))),
        *(BY_NAME[name] for name in ("tiff", "strip", "packed")),
    ]
    measure(monkeypatch, chosen, kaggle_folder, tmp_path, out=out)
    rows = {row["name"]: row for row in json.loads(out.read_text())["rows"]}
    assert list(rows) == [*(peer.name for peer in chosen), RANDOM_GATHER, PASS_THROUGH], "a row was dropped"
    assert rows["missing"]["error"] == "not installed: pip install something"
    assert rows["breaks half-way"]["error"] == "RuntimeError: lost its files"
    assert rows["loses patches"]["error"] == "expected 200 patches an epoch, found 199"
    for name in (BASELINE, "tiff", "strip", "packed", RANDOM_GATHER, PASS_THROUGH):
        assert len(rows[name]["images_per_s"]) == 2 and min(rows[name]["images_per_s"]) > 0
    assert rows[BASELINE]["times_baseline"] == 1 and rows["packed"]["ratios"][BASELINE] > 0
    assert "missing: not installed: pip install something\n" in capsys.readouterr().out
    assert not list(tmp_path.glob("peers-*")), "the peers' own formats were left behind"


def test_different_pixels_are_not_compared(kaggle_folder: Path, tmp_path: Path, monkeypatch) -> None:
    found = iter(range(10))
    monkeypatch.setattr(peers, "first_epoch", lambda feed, group, expected: next(found))
    with pytest.raises(UserError, match="differ in their pixels"):
        measure(monkeypatch, [BY_NAME["strip"], BY_NAME["packed"]], kaggle_folder, tmp_path)


def test_one_changed_value_swapped_channels_and_a_wrong_label_change_the_fingerprint() -> None:
    x = torch.randint(0, 256, (5, 4, 4, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    y = torch.tensor([0, 1, 0, 0, 1])

    def of(x: torch.Tensor, y: torch.Tensor) -> int:
        return first_epoch(Feed([(x.contiguous(memory_format=torch.channels_last), y)]), PIXELS, 5)

    changed = x.clone()
    changed[2, 1, 0, 0] ^= 1
    assert of(x, y) == of(x.flip(0), y.flip(0).float()[:, None])
    assert len({of(x, y), of(changed, y), of(x.flip(1), y), of(x, 1 - y)}) == 4
    with pytest.raises(UserError, match="channels-last"):
        first_epoch(Feed([(x.contiguous(), y)]), PIXELS, 5)
    with pytest.raises(UserError, match=r"expected batches of torch.float32, found torch.uint8"):
        first_epoch(Feed([(x, y)]), AUGMENTED, 5)


@pytest.mark.parametrize("name", [peer.name for peer in (*DATA_LOADERS, *FORMATS)])
def test_each_peer_delivers_what_the_loader_does(name: str, given: Given) -> None:
    """Each patch once an epoch, in the loader's type and layout, and where nothing is augmented its very pixels."""
    peer = BY_NAME[name]
    if peer.needs:
        pytest.importorskip(peer.needs)
    ours, feed = BY_NAME["packed"].open(given), peer.open(given)
    expected = first_epoch(ours, PIXELS, 100) if peer.group == PIXELS else 0
    for _ in range(2):
        assert first_epoch(feed, peer.group, 100) == expected
    ours.close()
    feed.close()
