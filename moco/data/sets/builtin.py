"""Sets that come with the packages: no download. Importing this imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moco.config import Data
from moco.data.catalog import SetFacts, image_set

if TYPE_CHECKING:
    from moco.data.decode import Log
    from moco.data.splits import ImageData


@image_set(SetFacts(1437, 360, 10, 8, "BSD-3-Clause with scikit-learn; UCI, CC BY 4.0"))
def digits(data: Data, log: Log) -> ImageData:
    from moco.data import builtin, splits

    return splits.image_data(builtin.digits(), data)


@image_set(SetFacts(575, 145, 4, 8, "as the digits, the first four classes of them"))
def digits4(data: Data, log: Log) -> ImageData:
    from moco.data import builtin, splits

    return splits.image_data(builtin.digits(classes=4), data)


@image_set(SetFacts(4000, 1000, 10, None, "drawn by this package"))
def shapes(data: Data, log: Log) -> ImageData:
    from moco.data import builtin, splits

    return splits.image_data(builtin.shapes(data.image_size), data)
