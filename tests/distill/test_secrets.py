"""Tokens and passwords: in no file of a run, nor on the terminal, nor on the hub's card."""

import base64
import functools
import http.server
import io
import tarfile
import threading
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from distill import Shards, run
from distill.export.command import Export
from distill.failures import one_line
from distill.masked import is_masked, without_secrets
from teachers import Teacher
from tests.tiny_recipe import recipe

PASSWORD, TOKEN, HUB, TRACKER = "p4ssw0rd", "s1gnature", "hf_s3cretOfTheHub", "wandbS3cret"
SECRETS = (PASSWORD, TOKEN, HUB, TRACKER, base64.b64encode(f"me:{PASSWORD}".encode()).decode())


class Store(http.server.SimpleHTTPRequestHandler):
    """Files for who knows the password and the token."""

    protocol_version = "HTTP/1.0"

    def do_GET(self):
        told = base64.b64decode(self.headers.get("Authorization", "").removeprefix("Basic ")).decode()
        if (told, urlsplit(self.path).query) == (f"me:{PASSWORD}", f"token={TOKEN}"):
            super().do_GET()
        else:
            self.send_error(401)

    do_HEAD = do_GET

    def log_message(self, format, *args):
        pass


@pytest.fixture
def store(tmp_path, tiny_images):
    """A store of one shard; its address, with the secrets in it."""
    folder = tmp_path / "store"
    folder.mkdir()
    with np.load(tiny_images) as tiny, tarfile.open(folder / "tiny.tar", "w") as tar:
        for number, (pixels, label) in enumerate(zip(tiny["train_images"][:128], tiny["train_labels"], strict=False)):
            image = io.BytesIO()
            Image.fromarray(pixels).save(image, "png")
            for ending, data in (("png", image.getvalue()), ("cls", str(label).encode())):
                member = tarfile.TarInfo(f"{number:05}.{ending}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Store, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://me:{PASSWORD}@127.0.0.1:{server.server_port}/NAME?token={TOKEN}"
    server.shutdown()
    server.server_close()


def holds_no_secret(*places: Path) -> None:
    files = [file for place in places for file in place.rglob("*") if file.is_file()]
    assert len(files) > 10
    for file in files:
        content = file.read_bytes()
        for secret in SECRETS:
            assert secret.encode() not in content, (file, secret)
            assert secret not in str(file)


def test_no_secret_of_the_data_or_the_environment_is_kept_or_shown(tmp_path, store, tiny_teacher, monkeypatch, capfd):
    monkeypatch.setenv("HF_TOKEN", HUB)
    monkeypatch.setenv("WANDB_API_KEY", TRACKER)
    monkeypatch.setenv("DISTILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    good = store.replace("NAME", "tiny.tar")
    data = Shards(train_urls=(good,), val_urls=(good,), num_classes=10)
    value = replace(recipe, data=data, teacher=Teacher(name=str(tiny_teacher), runtime="eager"))
    out = tmp_path / "runs" / "secret"
    args = ["--out", str(out), "--optim.epochs", "2", "--workers", "0", "--threads", "1"]
    run(value, args)
    said = capfd.readouterr()
    assert "top-1" in said.out

    # It is still its own run, one with a new signature too, and another's is refused with masked words.
    (out / "report.json").unlink()
    run(value, args)
    other = f"{store.replace('NAME', 'other.tar')}&more={TOKEN}"
    for name, words in ((good, "holds a run of another recipe"), (other, "cannot be reached")):
        with pytest.raises(SystemExit):
            run(replace(value, data=replace(data, train_urls=(name,))), [*args, "--optim.lr", "0.5"])
        more = capfd.readouterr()
        assert words in more.err
        said = (*said, *more)

    Export(student=out, to="hub", out=tmp_path / "hub")()
    assert "***@127.0.0.1" in (tmp_path / "hub" / "README.md").read_text()
    text = "".join([*said, *capfd.readouterr()])
    assert not [secret for secret in SECRETS if secret in text]
    holds_no_secret(out, tmp_path / "hub", tmp_path / "cache")


def test_a_masked_url_is_not_taken_for_one_that_opens(tmp_path):
    url = without_secrets(f"https://me:{PASSWORD}@host/a.tar")
    with pytest.raises(ValueError, match=r"https://\*\*\*@host/a\.tar was kept without its secret; .*--data-from"):
        Shards(train_urls=(url,), val_urls=(url,)).train()


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("https://me:pw@host/a.tar", "https://***@host/a.tar"),
        ("https://t0ken@host:80/a?x=1&sig=a%2Fb#c", "https://***@host:80/a?x=***&sig=***#c"),
        ("error: 's3://k:s@b/{000..099}.tar' and (gs://b/c@2) or a/b?c=d", None),
        ("hf://datasets/org/name@main/x.tar", "hf://datasets/org/name@main/x.tar"),
        ("simplecache::https://a:b@c@host/x", "simplecache::https://***@host/x"),
    ],
)
def test_urls_without_their_secrets_by_hand(text, masked):
    if masked is None:
        masked = "error: 's3://***@b/{000..099}.tar' and (gs://b/c@2) or a/b?c=d"
    assert without_secrets(text) == masked
    assert without_secrets(masked) == masked
    assert is_masked(text) is False
    assert one_line(ValueError(text)) == masked


word = st.text("abcXYZ019-._~%!$*+,:", min_size=6, max_size=20)


@given(user=word, value=word, name=st.text("abcz_-", min_size=1), before=st.sampled_from(["", "GET ", "('", "\n"]))
def test_no_user_or_value_of_a_query_is_left(user, value, name, before):
    masked = without_secrets(f"{before}https://{user}@host/place?first=1&{name}={value}")
    assert masked == f"{before}https://***@host/place?first=***&{name}=***"
