"""What happened to the image files of a set while they were read: counted once, said in one line. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from moco.data.folder import Listing, known_by

MOST_ENDINGS = 4  # in the line; the others are counted together


@dataclass(frozen=True)
class Seen:
    """Numbers of files, of all splits together.

    `one_colour`: every pixel alike. `deep`: more than 8 bits a level; `deepest`: the highest level of them, of `of`; `dim`:
    those that use less than a quarter of the range. `clear`: alpha 0 everywhere, so shown without it.
    """

    read: int = 0
    skipped: int = 0
    one_colour: int = 0
    deep: int = 0
    deepest: int | None = None
    dim: int = 0
    clear: int = 0
    of: int = 65_535
    passed_over: Mapping[str, int] = field(default_factory=dict)  # ending -> files that were not opened
    loops: int = 0  # links to a folder that holds them, not followed
    known_by: str = "contents"

    def and_listed(self, listing: Listing) -> Seen:
        """With what only the listing tells."""
        by = known_by(listing.fingerprint) if listing.fingerprint else "nothing"
        return replace(self, passed_over=dict(listing.passed_over), loops=len(listing.loops), known_by=by)

    def line(self) -> str:
        """`images: read 5,395, passed over 126 (.jp2 126), skipped 3, 12 of one colour, deepest value 4,095 of 65,535`."""
        over = sum(self.passed_over.values())
        parts = [
            f"read {self.read:,}",
            f"passed over {over:,}{f' ({_endings(self.passed_over)})' if over else ''}",
            f"skipped {self.skipped:,}",
            f"{self.one_colour:,} of one colour",
        ]
        if self.deep:
            depth = "unknown" if self.deepest is None else f"{self.deepest:,} of {self.of:,}"
            parts.append(f"deepest value {depth} in {self.deep:,} files of 16 bits")
        if self.dim:
            parts.append(f"{self.dim:,} of them under {(self.of + 1) // 4:,}")
        if self.clear:
            parts.append(f"{self.clear:,} with an alpha of 0 everywhere, shown without it")
        if self.loops:
            parts.append(f"{self.loops:,} links in a circle not followed")
        if self.known_by == "names":
            parts.append("known by names and sizes only: contents were not compared")
        return f"images: {', '.join(parts)}"

    def plain(self) -> dict[str, Any]:
        """For a record in JSON, with the line."""
        return {**asdict(self), "line": self.line()}


def _endings(passed_over: Mapping[str, int]) -> str:
    """`.jp2 126, .txt 3`, the most frequent first."""
    ordered = sorted(passed_over.items(), key=lambda pair: (-pair[1], pair[0]))
    rest = sum(count for _, count in ordered[MOST_ENDINGS:])
    shown = [f"{ending} {count:,}" for ending, count in ordered[:MOST_ENDINGS]]
    return ", ".join(shown + ([f"others {rest:,}"] if rest else []))


def refuse_if_dark(seen: Seen, bits: int | None) -> None:
    """Raises ValueError where 16-bit files hold the levels of fewer bits, and nobody has said of how many."""
    if bits is not None or 2 * seen.dim <= seen.deep:
        return
    deepest = seen.deepest or 0
    fitting = [b for b in (8, 10, 12, 14) if deepest < 2**b]
    say = (
        f"--set data.bits={fitting[0]} if their levels have {fitting[0]} bits" if fitting else "save all with one depth"
    )
    raise ValueError(
        f"data.bits is not set: of {seen.deep:,} files of 16 bits {seen.dim:,} stay under 16,384 of 65,535 (the deepest value "
        f"is {deepest:,}), so they would be nearly black; {say}, or --set data.bits=16 if they are meant to be dark"
    )


def refuse_if_blank(counts: Iterable[tuple[str, int, int]]) -> None:
    """`counts`: split, images read, those of one colour. Raises ValueError where most images of a split are of one colour."""
    for split, read, blank in counts:
        if 2 * blank > read:
            raise ValueError(
                f"{split}: {blank:,} of {read:,} images are of one colour each, so there is nothing to learn from most of "
                "them; look at the files, or write them anew"
            )
