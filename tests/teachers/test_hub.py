"""Weights on the hub: known to be here or not without asking it, and asked for once where it does not answer."""

import socket
import threading
from pathlib import Path

import huggingface_hub.constants as constants
import pytest

from teachers import Teacher, hub

TEACHER = Teacher(name="convnext_atto.d2_in1k")


@pytest.fixture
def refuses(monkeypatch, tmp_path):
    """A hub that takes every connection and closes it; the list holds one entry a connection."""
    seen: list[int] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                seen.append(1)
                connection.close()

        threading.Thread(target=serve, daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield seen


def test_a_hub_that_does_not_answer_is_asked_once(refuses):
    with pytest.raises(ValueError, match=r"the weights of 'convnext_atto.d2_in1k' \(hub timm/.*\) cannot be had"):
        TEACHER.build()
    assert len(refuses) == 1
    assert constants.HF_HUB_OFFLINE is False


def test_offline_it_is_not_asked_at_all(refuses, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="cannot be had"):
        TEACHER.build()
    assert refuses == []
    assert constants.HF_HUB_OFFLINE is True


def test_any_answer_is_an_answer(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            connection.recv(4096)
            connection.sendall(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            connection.close()

        threading.Thread(target=serve, daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        assert hub.answers()


def test_weights_are_here_once_they_lie_in_the_cache(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert not TEACHER.weights_here()
    # The hub's own layout: a reference to a commit, and the commit's files.
    repo = tmp_path / "models--timm--convnext_atto.d2_in1k"
    commit = "0123456789abcdef0123456789abcdef01234567"
    for path, content in ((repo / "refs" / "main", commit), (repo / "snapshots" / commit / "model.safetensors", "")):
        path.parent.mkdir(parents=True)
        path.write_text(content)
    assert hub.cached("timm/convnext_atto.d2_in1k")
    assert TEACHER.weights_here()


def test_files_and_packages_need_no_hub(tmp_path: Path):
    assert Teacher(name="tf_efficientnet_lite0").weights_here()
    assert not Teacher(name="tf_efficientnet_lite4").weights_here()
