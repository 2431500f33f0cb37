"""A module whose import takes forever, if SLOW_IMPORT names a file; the process says so there, with its pid."""

import os
import time
from pathlib import Path

from experiments.store.files import replace_text

if "SLOW_IMPORT" in os.environ:
    replace_text(Path(os.environ["SLOW_IMPORT"]), str(os.getpid()))
    while True:
        time.sleep(1)
