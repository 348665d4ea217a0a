"""What torchvision's data sets are asked for, and which files each of them reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

_Parts = tuple[tuple[dict[str, Any], ...], tuple[dict[str, Any], ...] | None]


@dataclass(frozen=True)
class Published:
    """What torchvision's class is asked for, and where its files lie.

    parts: the arguments of each part to train on, and to validate on; None for the latter where there is no split.
    files: what lies in the root folder. opens: whether torchvision opens image files with a function that it is given.
    download: whether it can fetch the files; if not, page has them.
    """

    parts: _Parts
    files: tuple[str, ...]
    opens: bool = False
    download: bool = True
    page: str = ""


_FLAG: _Parts = (({"train": True},), ({"train": False},))
_NAMED: _Parts = (({"split": "train"},), ({"split": "test"},))
_BOTH: _Parts = (({"split": "train"}, {"split": "val"}), ({"split": "test"},))
_TRAINVAL: _Parts = (({"split": "trainval"},), ({"split": "test"},))
_VAL: _Parts = (({"split": "train"},), ({"split": "val"},))

SETS = {
    "CIFAR10": Published(_FLAG, ("cifar-10-batches-py",)),
    "CIFAR100": Published(_FLAG, ("cifar-100-python",)),
    "MNIST": Published(_FLAG, ("MNIST",)),
    "FashionMNIST": Published(_FLAG, ("FashionMNIST",)),
    "KMNIST": Published(_FLAG, ("KMNIST",)),
    "SVHN": Published(_NAMED, ("train_32x32.mat", "test_32x32.mat")),
    "STL10": Published(_NAMED, ("stl10_binary",)),
    "Food101": Published(_NAMED, ("food-101",), opens=True),
    "Flowers102": Published(_BOTH, ("flowers-102",), opens=True),
    "DTD": Published(_BOTH, ("dtd",), opens=True),
    "OxfordIIITPet": Published(_TRAINVAL, ("oxford-iiit-pet",)),
    "FGVCAircraft": Published(_TRAINVAL, ("fgvc-aircraft-2013b",), opens=True),
    "GTSRB": Published(_NAMED, ("gtsrb",)),
    "StanfordCars": Published(_NAMED, ("stanford_cars",), True, False, "a copy such as Kaggle's"),
    "Imagenette": Published(_VAL, ("imagenette2",), opens=True),
    "EuroSAT": Published((({},), None), ("eurosat",), opens=True),
    "ImageNet": Published(
        _VAL,
        ("ILSVRC2012_devkit_t12.tar.gz", "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"),
        opens=True,
        download=False,
        page="image-net.org; unpacked as train/ and val/ it is a Folder",
    ),
}
IDX = ("MNIST", "FashionMNIST", "KMNIST")
"""Those whose files are idx files, which are also read as .gz."""

Name = Literal[
    "CIFAR10", "CIFAR100", "MNIST", "FashionMNIST", "KMNIST", "SVHN", "STL10", "Food101", "Flowers102", "DTD",
    "OxfordIIITPet", "FGVCAircraft", "GTSRB", "StanfordCars", "Imagenette", "EuroSAT", "ImageNet",
]  # fmt: skip
