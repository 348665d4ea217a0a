from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from PIL import Image


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def own_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTILL_CACHE", str(cache))


@pytest.fixture(scope="session")
def photos() -> list[tuple[Image.Image, int]]:
    """20 photographs and their ImageNet-1k classes."""
    spec = find_spec("foolbox")
    if spec is None or not spec.submodule_search_locations:
        pytest.fail("the photographs are in foolbox: pip install --no-deps foolbox==3.3.4")
    files = sorted(Path(spec.submodule_search_locations[0], "data").glob("imagenet_*.jpg"))
    assert len(files) == 20
    return [(Image.open(file).convert("RGB"), int(file.stem.split("_")[2])) for file in files]
