"""What a command says of a disk that is full or that may not be written: the place and the remedy, in one line."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from experiments.store.run import runs_root

FREE_SOME = "free some space, or {elsewhere}"
NO_ROOM = {
    errno.ENOSPC: FREE_SOME,
    errno.EDQUOT: FREE_SOME,
    errno.EROFS: "{elsewhere}",
    errno.EACCES: "{elsewhere}",
}


def no_room(error: OSError) -> str:
    """What a user can do about a disk that is full or that may not be written, in one line.

    Raises the error again where it is another one: a fault of the program keeps its traceback.
    """
    if error.errno not in NO_ROOM:
        raise error
    remedy, root = NO_ROOM[error.errno], runs_root()
    if error.filename is None:  # of a file that was open already
        return f"{error.strerror}; {remedy.format(elsewhere='choose another place')} (runs are kept in {root})"
    place = Path(os.fsdecode(error.filename)).absolute()
    elsewhere = "set MOCO_RUNS to another folder" if place.is_relative_to(root) else "choose another place"
    return f"{place}: {error.strerror}; {remedy.format(elsewhere=elsewhere)}"
