"""Errors that a user can make, and can mend."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

_LONGEST = 800
#: Names are alike from here on: below it, ``ring`` would be taken for ``tracking``.
_LIKENESS = 0.6
#: Names that an error lists.
_LISTED = 40


class UserError(Exception):
    """One sentence that names the place and the mend. The command line prints it and exits with code 2.

    What it quotes may come from a hostile file, so its text is one line of bounded length without control characters.
    """

    def __str__(self) -> str:
        text = "".join(c if c.isprintable() else "\ufffd" for c in " ".join(super().__str__().split()))
        # The reason and the mend stand at the end, so it is the middle that is left out.
        return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} ... {text[-_LONGEST // 2 :]}"


class NotFiniteError(UserError):
    """A number is NaN or infinite where learning or judging needs one.

    Args:
        what: which number, and where it was met.
        mend: what to do about it.
    """

    def __init__(self, what: str, mend: str):
        super().__init__(f"{what}: {mend}")
        self.what, self.mend = what, mend


def nearest(name: str, known: Sequence[str]) -> str:
    """The end of an error sentence about an unknown name: '; did you mean ...?', or a list of what there is.

    The last part of a name with dots counts too, so that ``epoch`` is near to ``algorithm.epochs``.
    """
    ends = {one.rpartition(".")[2]: one for one in reversed(known)}
    for names in ({one: one for one in known}, ends):
        close = difflib.get_close_matches(name, names, n=1, cutoff=_LIKENESS)
        if close:
            return f"; did you mean '{names[close[0]]}'?"
    more = f" and {len(known) - _LISTED} more" if len(known) > _LISTED else ""
    return f"; known: {', '.join(known[:_LISTED])}{more}" if known else ""
