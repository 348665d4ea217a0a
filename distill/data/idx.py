"""The idx files of MNIST and its kin, plain or as .gz."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from distill.data.arrays import ArrayImages

FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "val": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


def found(folders: tuple[Path, ...]) -> dict[str, tuple[Path, ...]] | None:
    """The (images, labels) files of train and val in the first folder that has all four; None if none has."""
    for folder in folders:
        whole = {}
        for split, names in FILES.items():
            either = [(folder / name, folder / f"{name}.gz") for name in names]
            whole[split] = tuple(
                next(path for path in pair if path.is_file()) for pair in either if any(map(Path.is_file, pair))
            )
        if all(len(paths) == 2 for paths in whole.values()):
            return whole
    return None


def read_split(images: Path, labels: Path, classes: int) -> ArrayImages:
    """ValueError if a file is no idx file of bytes, or if images and labels do not belong together."""
    pixels, truth = _read(images, 3), _read(labels, 1).astype(np.int64)
    if len(pixels) != len(truth) or not len(pixels):
        raise ValueError(f"{images} has {len(pixels)} images and {labels.name} {len(truth)} labels; fetch them again")
    if truth.max() >= classes:
        raise ValueError(f"{labels} has a label {truth.max()} but {classes} classes; fetch it again")
    return ArrayImages(pixels, truth)


def _read(path: Path, dimensions: int) -> np.ndarray:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            zero, kind, rank = struct.unpack(">HBB", file.read(4))
            if (zero, kind, rank) != (0, 8, dimensions):
                raise ValueError("its first bytes are not those of one")
            shape = struct.unpack(f">{rank}I", file.read(4 * rank))
            if math.prod(shape) > 2**32:
                raise ValueError("it claims more than 4 GiB")
            data = file.read(math.prod(shape) + 1)
    except (OSError, EOFError, ValueError, struct.error, zlib.error) as error:
        raise ValueError(f"{path} is no idx file of {dimensions} dimensions ({error}); fetch it again") from None
    if len(data) != math.prod(shape):
        has = f"{len(data):,}" if len(data) < math.prod(shape) else "more"
        raise ValueError(f"{path} should hold {math.prod(shape):,} bytes and has {has}; fetch it again")
    return np.frombuffer(data, dtype=np.uint8).reshape(shape)
