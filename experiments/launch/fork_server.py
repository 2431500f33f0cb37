"""What the server of `experiments.launch.process` does before it takes orders: `multiprocessing` imports this file there.

It leaves the launcher's terminal and, if wanted, its session; imports once what all its children need; and checks that it
may be forked, for a thread of a library would be missing in a child. A server that may not be forked ends, and its
launcher starts processes from scratch. Imported by anybody else, this file does nothing.
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
IGNORED = frozenset({signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2})  # Slurm sends them to a whole step


def ignore(*numbers: signal.Signals) -> None:
    """Also those that came while they were blocked."""
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)


def prepare(modules: list[str], *, own_session: bool) -> None:
    """Raises SystemExit where the imports leave threads behind."""
    if own_session:
        os.setsid()
    else:
        ignore(*IGNORED)  # somebody has to see how the children end
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (1, 2):  # whoever reads the launcher's output must not wait for us
        os.dup2(nothing, descriptor)
    os.close(nothing)
    with suppress(ImportError):  # each child will say so in its log
        for name in modules:
            import_module(name)
        from experiments.run.provenance import code

        code()  # asked once, before the checkout can change
    if os.path.isdir(TASKS) and len(os.listdir(TASKS)) != 1:
        raise SystemExit("the imports have left threads")
    gc.collect()
    gc.freeze()  # children share these pages: the collector must not touch them


if SESSION in os.environ:
    prepare(
        [name for name in os.environ.pop(PRELOAD).split(",") if name],
        own_session=os.environ.pop(SESSION) == "own",
    )
