"""One thread of torch: the nets here are too small for more, and two test processes share two cores."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
