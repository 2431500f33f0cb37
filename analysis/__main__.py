import gc
import sys

gc.set_threshold(
    1_000_000
)  # thousands of runs are millions of objects, hardly any of them garbage: a fifth of a table's time

from analysis.cli import main  # noqa: E402

sys.exit(main())
