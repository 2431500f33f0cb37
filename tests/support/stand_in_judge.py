"""A judge that dies at runs named b, killed, and c, with an exit code; what it finds in others is made up."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

FINE = {"test/retrieval_map": 1.0}


def judge(path: Path) -> dict[str, Any]:
    if path.name == "b":
        os.kill(os.getpid(), signal.SIGKILL)
    if path.name == "c":
        print("no room left", file=sys.stderr)
        sys.exit(3)
    return {"values": FINE}


def judge_with_pid(path: Path) -> dict[str, Any]:
    return {"values": {"pid": os.getpid()}}
