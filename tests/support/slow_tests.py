"""Makes tests/slow.txt from durations that pytest printed: python -m tests.support.slow_tests FILE

FILE holds the output of `pytest -n 2 -m "" --durations=0` on idle cores. A module whose tests are all slow is one line.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from pathlib import Path

from tests.conftest import TESTS

LIMIT = 1.0  # seconds, of setup, call and teardown together


def slow(durations: str) -> list[str]:
    """Names of tests, without their parameters, of which one case takes longer than the limit."""
    seconds: dict[str, float] = defaultdict(float)
    for match in re.finditer(r"^ *([\d.]+)s (?:call|setup|teardown) +(\S.*?) *$", durations, re.MULTILINE):
        seconds[match[2]] += float(match[1])
    names = {case.partition("[")[0]: False for case in seconds}
    for case, taken in seconds.items():
        names[case.partition("[")[0]] |= taken > LIMIT
    modules: dict[str, list[str]] = defaultdict(list)
    for name in names:
        modules[name.partition("::")[0]].append(name)
    lines = []
    for module, tests in modules.items():
        found = [test for test in tests if names[test]]
        lines += [module] if len(found) == len(tests) else found
    return sorted(lines)


if __name__ == "__main__":
    file = TESTS / "slow.txt"
    head = [line for line in file.read_text().splitlines() if line.startswith("#")]
    file.write_text("\n".join([*head, *slow(Path(sys.argv[1]).read_text())]) + "\n")
