"""Data sets of the Hugging Face hub, or of a folder that `datasets` reads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from distill.data.bad import BadImages, OnBad, bad_image, readable
from distill.data.contract import UNLABELLED, Images
from distill.data.decode import open_image
from distill.data.split import described, stratified
from teachers.hub import without_retries

if TYPE_CHECKING:
    from PIL.Image import Image

VAL_SPLITS = ("validation", "val", "valid", "test")


@dataclass(frozen=True, kw_only=True)
class HuggingFace:
    """A data set of the hub by its name, or a local folder: of parquet or image files, or written by save_to_disk.

    Without a val_split the first of validation, val, valid and test is taken; where there is none, `val_fraction` of
    every class is set apart.
    """

    name: str
    """Name on the hub, such as uoft-cs/cifar10, or a folder."""
    config: str | None = None
    """Configuration of the data set, where it has several."""
    revision: str | None = None
    """Version on the hub: a tag, branch or commit."""
    train_split: str = "train"
    """Split to train on, in the words of datasets: train, or train[:10%]."""
    val_split: str | None = None
    """Split to validate on; None: the one that the data set has for it, or a share of the training split."""
    image_column: str | None = None
    """Column of the images; None: the only one of that type."""
    label_column: str | None = None
    """Column of the labels; None: the only one with class names, or the one called label. "": no labels."""
    val_fraction: float = 0.1
    """Share of every class set apart where there is no split to validate on."""
    split_seed: int = 0
    """Of that split; not the run's seed."""
    on_bad: OnBad = "error"
    """An image that cannot be read ends the run, or is listed in bad_images.txt and replaced by the next one."""

    def __post_init__(self) -> None:
        if Path(self.name).is_dir():  # recipe.json is read from other folders
            object.__setattr__(self, "name", str(Path(self.name).absolute()))

    @property
    def classes(self) -> tuple[str, ...]:
        return self._open(self.train_split).classes

    def train(self) -> RowImages:
        return self._splits()[0]

    def val(self) -> RowImages:
        return self._splits()[1]

    def fingerprint(self) -> str:
        train, val = self._splits()
        parts = [f"{images.rows._fingerprint} {len(images)}" for images in (train, val)]
        return f"huggingface {' '.join(parts)} {self.val_fraction} {self.split_seed}"

    def notes(self, train: Images, val: Images) -> tuple[str, ...]:
        """Which split is validated on."""
        split = self._val_split()
        return (
            f"validation images from the split {split}" if split else described(self.val_fraction, self.split_seed),
        )

    def _splits(self) -> tuple[RowImages, RowImages]:
        train, split = self._open(self.train_split), self._val_split()
        if split is None:
            if not train.classes:
                raise ValueError(f"{self.name} has no labels to split by; name a split with --data.val-split")
            held = stratified(train.labels, train.classes, self.val_fraction, self.split_seed, self.name)
            return train.take(np.flatnonzero(~held)), train.take(np.flatnonzero(held))
        return train, self._open(split, train.classes)

    def _val_split(self) -> str | None:
        if self.val_split is not None:
            return self.val_split
        names = self._split_names()
        return next((name for name in VAL_SPLITS if name in names), None)

    def _split_names(self) -> tuple[str, ...]:
        datasets, folder = _datasets(), Path(self.name)
        if _was_saved(folder):
            whole = self._load(lambda: datasets.load_from_disk(self.name))
            return tuple(whole) if isinstance(whole, dict) else ()
        asked = {"config_name": self.config, "revision": self.revision}
        return tuple(self._load(lambda: datasets.get_dataset_split_names(self.name, **asked)))

    def _open(self, split: str, classes: tuple[str, ...] = ()) -> RowImages:
        datasets = _datasets()
        if _was_saved(Path(self.name)):
            whole = self._load(lambda: datasets.load_from_disk(self.name))
            if isinstance(whole, dict):
                if split not in whole:
                    raise ValueError(f"{self.name} has the splits {', '.join(whole)} but no {split}; name one of them")
                whole = whole[split]
        else:
            asked = {"name": self.config, "split": split, "revision": self.revision}
            whole = self._load(lambda: datasets.load_dataset(self.name, **asked))
        return _row_images(whole, self, split, classes)

    def _load(self, load: Any) -> Any:
        named = not Path(self.name).is_dir()
        try:
            with _asking_once() if named else nullcontext():
                return load()
        except Exception as error:  # of the hub, of parsers, of the network: datasets has no error of its own
            if named and isinstance(error, ConnectionError):
                raise ValueError(
                    f"the hub does not answer and {self.name} is not in its cache on this machine; give a folder with "
                    "--data.name, or fetch it once where there is a network, and copy the cache (HF_HOME) here"
                ) from None
            reason = " ".join(str(error).split())[:300]
            raise ValueError(
                f"datasets cannot load {self.name} ({type(error).__name__}: {reason}); give a name on the hub or a "
                "folder with --data.name, and its split and configuration"
            ) from None


@dataclass(frozen=True, eq=False)
class RowImages:
    """Rows of a datasets.Dataset: their images still encoded, and their labels [N]."""

    name: str
    rows: Any
    column: str
    labels: np.ndarray
    classes: tuple[str, ...]
    on_bad: OnBad = "error"
    bad: BadImages = field(default_factory=BadImages)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Image, int]:
        return readable(index, len(self), self._read, self.bad if self.on_bad == "skip" else None)

    def _read(self, index: int) -> tuple[Image, int]:
        cell = self.rows[index][self.column] or {}
        path, data = cell.get("path"), cell.get("bytes")
        name = f"{self.name} row {index}" + (f" ({path})" if path else "")
        if data is None and path is None:
            raise bad_image(name, "it is empty")
        return open_image(str(path) if data is None else BytesIO(data), name), int(self.labels[index])

    def take(self, indices: np.ndarray) -> RowImages:
        """Some of the rows."""
        rows = self.rows.select(indices)
        return RowImages(self.name, rows, self.column, self.labels[indices], self.classes, self.on_bad)


def _row_images(rows: Any, data: HuggingFace, split: str, known: tuple[str, ...]) -> RowImages:
    datasets, name = _datasets(), f"{data.name} {split}"
    pictures = [column for column, kind in rows.features.items() if isinstance(kind, datasets.Image)]
    column = _column(data.image_column, pictures, rows.features, f"images of {data.name}", "--data.image-column")
    if not len(rows):
        raise ValueError(f"the split {split} of {data.name} is empty; name another")
    labels, classes = _labels(rows, data, split, known)
    rows = rows.select_columns([column]).cast_column(column, datasets.Image(decode=False))
    return RowImages(name, rows, column, labels, classes, data.on_bad)


def _labels(rows: Any, data: HuggingFace, split: str, known: tuple[str, ...]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels [N] and the classes. `known` are those of the training split, which another split's labels must be of."""
    features = rows.features
    named = [name for name, kind in features.items() if isinstance(kind, _datasets().ClassLabel)]
    named = named or [name for name in ("label", "labels", "fine_label") if name in features]
    if data.label_column == "" or (data.label_column is None and not named):
        return np.full(len(rows), UNLABELLED), ()
    column = _column(data.label_column, named, features, f"labels of {data.name}", "--data.label-column")
    values = [UNLABELLED if value is None else value for value in rows[column][:]]
    words = [value for value in values if value != UNLABELLED]
    if odd := next((value for value in words if not isinstance(value, (int, str))), None):
        raise ValueError(
            f"the column {column} of {data.name} holds {type(odd).__name__}s; use --data.label-column with one of "
            "whole numbers or names, a class an image"
        )
    if 0 < len(words) < len(values):
        raise ValueError(
            f"{len(values) - len(words):,} of {len(values):,} rows of the split {split} of {data.name} have no label; "
            "give them one, leave them out, or use --data.label-column '' and learn from the teacher alone"
        )
    classes = tuple(getattr(features[column], "names", ()))
    if not classes and all(isinstance(value, int) for value in words):
        classes = known or tuple(str(number) for number in range(max(words, default=-1) + 1))
    elif not classes:
        classes = known or tuple(sorted({str(word) for word in words}))
        index: dict[Any, int] = {name: label for label, name in enumerate(classes)} | {UNLABELLED: UNLABELLED}
        values = [index.get(value, len(classes)) for value in values]
    labels = np.array(values, dtype=np.int64)
    if (known and classes != known) or not UNLABELLED <= labels.min() <= labels.max() < len(classes):
        raise ValueError(
            f"the split {split} of {data.name} has labels that {data.train_split} has not, or the other way round; "
            "name another with --data.val-split, or another column with --data.label-column"
        )
    return labels, classes


def _column(asked: str | None, found: list[str], features: Any, what: str, option: str) -> str:
    if asked is not None:
        if asked not in features:
            raise ValueError(
                f"there is no column {asked} for the {what}; use {option} with one of {', '.join(features)}"
            )
        return asked
    if len(found) != 1:
        raise ValueError(
            f"{len(found)} columns may be the {what} ({', '.join(found or features)}); name one with {option}"
        )
    return found[0]


@contextmanager
def _asking_once() -> Iterator[None]:
    """Within, a hub that does not answer is not asked again and again, and `datasets` takes what its cache has."""
    config = _datasets().config
    with without_retries() as offline:
        before, config.HF_HUB_OFFLINE = config.HF_HUB_OFFLINE, config.HF_HUB_OFFLINE or offline
        try:
            yield
        finally:
            config.HF_HUB_OFFLINE = before


def _was_saved(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))


def _datasets() -> Any:
    try:
        import datasets
    except ImportError:
        raise ValueError("HuggingFace data is read with datasets; pip install 'distill-vision[huggingface]'") from None
    return datasets
