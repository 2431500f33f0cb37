"""Prepares the fork server of `experiments.launch.process`: `multiprocessing` imports this file when the server starts.

The server detaches from the launcher's terminal and, if wanted, from its session; imports what all children need; and checks
that it may be forked: a thread of a library would be missing in a child. If it may not be forked it ends, and the launcher
starts each process from scratch. In any other process, importing this file does nothing.
"""

from __future__ import annotations

import gc
import os
import signal
from contextlib import suppress
from importlib import import_module

PRELOAD = "MOCO_FORK_SERVER_PRELOAD"  # modules, separated by commas; set in the server's environment alone
SESSION = "MOCO_FORK_SERVER_SESSION"  # "own", or "shared" with the launcher
TASKS = "/proc/self/task"
# Ignored by a server in the launcher's session, because Slurm sends them to all processes of a step.
IGNORED = frozenset({signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2})


def ignore(*numbers: signal.Signals) -> None:
    """Ignore these signals, also those that came while they were blocked."""
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)


def prepare(modules: list[str], *, own_session: bool) -> None:
    """Raises SystemExit if the imports leave threads behind."""
    if own_session:
        os.setsid()
    else:
        ignore(*IGNORED)  # the server must live to report how its children end
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (1, 2):  # a reader of the launcher's output must not wait for this process
        os.dup2(nothing, descriptor)
    os.close(nothing)
    with suppress(ImportError):  # each child will have the same error in its log
        for name in modules:
            import_module(name)
        from experiments.run.provenance import code

        code()  # read once, before the checkout can change
    if os.path.isdir(TASKS) and len(os.listdir(TASKS)) != 1:
        raise SystemExit("the imports have left threads")
    gc.collect()
    gc.freeze()  # children share these pages as long as the collector does not write to them


if SESSION in os.environ:
    prepare(
        [name for name in os.environ.pop(PRELOAD).split(",") if name],
        own_session=os.environ.pop(SESSION) == "own",
    )
