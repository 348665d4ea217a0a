"""Make fashion_mnist.npz: a stratified part of Fashion-MNIST, 1,200 training and 400 test images of each class.

    python recipes/data/make_fashion_mnist.py FOLDER

FOLDER holds the four files of Fashion-MNIST (https://github.com/zalandoresearch/fashion-mnist), such as Debian's
package dataset-fashion-mnist puts into /usr/share/datasets/fashion-mnist.
"""

import gzip
import sys
from pathlib import Path

import numpy as np

CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
PER_CLASS = {"train": 1200, "t10k": 400}


def read(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [N, 28, 28] and labels [N] from the two IDX files of a split."""
    images = np.frombuffer(
        gzip.decompress((folder / f"{split}-images-idx3-ubyte.gz").read_bytes()), np.uint8, offset=16
    )
    labels = np.frombuffer(gzip.decompress((folder / f"{split}-labels-idx1-ubyte.gz").read_bytes()), np.uint8, offset=8)
    return images.reshape(-1, 28, 28), labels


def part(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """The first images of each class, in the order of the files."""
    images, labels = read(folder, split)
    chosen = np.concatenate([np.flatnonzero(labels == k)[: PER_CLASS[split]] for k in range(len(CLASSES))])
    chosen.sort()
    return images[chosen], labels[chosen]


if __name__ == "__main__":
    source = Path(sys.argv[1])
    train, test = part(source, "train"), part(source, "t10k")
    target = Path(__file__).with_name("fashion_mnist.npz")
    np.savez_compressed(
        target,
        train_images=train[0],
        train_labels=train[1],
        val_images=test[0],
        val_labels=test[1],
        classes=np.array(CLASSES),
    )
    print(f"{target.name}: {len(train[0])} + {len(test[0])} images, {target.stat().st_size / 1e6:.1f} MB")
