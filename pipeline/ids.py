"""Ids that are the SHA-1 of their patch's pixels, each of them once."""

import re
from collections import Counter
from collections.abc import Iterable

_NUMBERED = re.compile(r"([0-9a-f]{40})-[0-9]+")


def numbered(sha1: Iterable[str]) -> list[str]:
    """Ids of patches: their SHA-1; a patch that was there before gets its number after it: -2, -3 and so on."""
    seen: Counter[str] = Counter()
    ids = []
    for digest in sha1:
        seen[digest] += 1
        ids.append(digest if seen[digest] == 1 else f"{digest}-{seen[digest]}")
    return ids


def checksum_of(identifier: str) -> str:
    """The SHA-1 that an id gives: the id itself, or what stands before the number of a patch that is there again."""
    found = _NUMBERED.fullmatch(identifier)
    return found[1] if found else identifier
