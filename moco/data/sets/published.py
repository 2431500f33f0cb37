"""Published sets, read by torchvision. Importing this imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moco.config import Data
from moco.data.catalog import SetFacts, image_set

if TYPE_CHECKING:
    from moco.data.decode import Log
    from moco.data.splits import ImageData


def _torchvision(name: str, *arguments: str) -> str:
    call = ", ".join(["'DIR'", *arguments, "download=True"])
    return f'python -c "import torchvision; torchvision.datasets.{name}({call})" on a machine with a network'


@image_set(
    SetFacts(
        50_000,
        10_000,
        10,
        32,
        "no licence stated, research use; 170 MB",
        present="cifar-10-batches-py",
        provide=_torchvision("CIFAR10"),
        downloads=True,
    )
)
def cifar10(data: Data, log: Log) -> ImageData:
    from moco.data import public, splits

    return splits.image_data(public.arrays(public.cifar10, data, log), data)


@image_set(
    SetFacts(
        50_000,
        10_000,
        100,
        32,
        "no licence stated, research use; 169 MB",
        present="cifar-100-python",
        provide=_torchvision("CIFAR100"),
        downloads=True,
    )
)
def cifar100(data: Data, log: Log) -> ImageData:
    from moco.data import public, splits

    return splits.image_data(public.arrays(public.cifar100, data, log), data)


@image_set(
    SetFacts(
        5_000,
        8_000,
        10,
        96,
        "from ImageNet, research use; 2.6 GB",
        unlabelled=100_000,
        present="stl10_binary",
        provide=_torchvision("STL10"),
        downloads=True,
    )
)
def stl10(data: Data, log: Log) -> ImageData:
    from moco.data import public, splits

    return splits.image_data(public.arrays(public.stl10, data, log), data)


@image_set(
    SetFacts(
        60_000,
        10_000,
        10,
        28,
        "MIT; 30 MB",
        present="FashionMNIST",
        provide=_torchvision("FashionMNIST"),
        downloads=True,
    )
)
def fashion_mnist(data: Data, log: Log) -> ImageData:
    from moco.data import public, splits

    return splits.image_data(public.arrays(public.fashion_mnist, data, log), data)


@image_set(
    SetFacts(
        9_469,
        3_925,
        10,
        None,
        "Apache-2.0; 0.1 to 1.6 GB by size",
        present="{imagenette}",
        provide=_torchvision("Imagenette", "size='{imagenette_size}'"),
        downloads=True,
        files=True,
    )
)
def imagenette(data: Data, log: Log) -> ImageData:
    from moco.data import files, public

    return files.image_data(public.listing(public.fetch_imagenette, data, log), data, log)


@image_set(
    SetFacts(
        1_281_167,
        50_000,
        1000,
        None,
        "research only, on request from image-net.org; 150 GB",
        present="train",
        provide="train/<class>/*.JPEG and val/<class>/*.JPEG, or the three ILSVRC2012 archives from image-net.org",
        files=True,
        folder="imagenet",
        archives="ILSVRC2012_img_train.tar",
    )
)
def imagenet(data: Data, log: Log) -> ImageData:
    from moco.data import files, public

    return files.image_data(public.listing(public.fetch_imagenet, data, log), data, log)
