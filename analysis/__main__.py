import gc
import sys

# Thousands of runs are millions of objects, hardly any of them garbage: looking for it takes a fifth of a table's time.
gc.set_threshold(1_000_000)

from analysis.cli import main  # noqa: E402

sys.exit(main())
