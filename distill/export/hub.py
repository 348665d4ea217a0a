"""A folder that is ready for the Hugging Face hub, and its upload, which happens only when it is asked for."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from distill.export import timm as timm_folder
from distill.export.card import Facts, card
from distill.export.paths import without_paths
from distill.export.source import Source

FILES = ("README.md", *timm_folder.FILES)


def write(source: Source, out: Path, facts: Facts) -> float:
    """Write weights, config.json and the model card into `out`; returns how far timm's model is off the student."""
    timm_folder.check_folder(out, FILES)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".export-") as aside:
        folder = Path(aside) / "student"
        off = timm_folder.save(source, folder)
        (folder / "README.md").write_text(card(source, facts), encoding="utf-8")
        timm_folder.place(folder, out, FILES)
    return off


def gather(source: Source, **given: Any) -> Facts:
    """What the run folder says, where the student lies in one, and what the user gives of the card."""
    recipe = _json(source.run / "recipe.json") if source.run else None
    report = _json(source.run / "report.json") if source.run else None
    given["datasets"] = given["datasets"] or _datasets(recipe)
    return Facts(recipe=recipe, report=report, teacher_license=_teacher_license(recipe), **given)


def _json(file: Path) -> dict[str, Any] | None:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f"{file} is no JSON ({error}); run its recipe again, or compare it again") from None


def _datasets(recipe: dict[str, Any] | None) -> tuple[str, ...]:
    data = (recipe or {}).get("data") or {}
    named = data.get("name") or data.get("path") or data.get("root")
    if not isinstance(named, str):
        return ()
    name = Path(without_paths(named.rstrip("/"))).name.removesuffix(".npz")
    return (name,) if name else ()


def _teacher_license(recipe: dict[str, Any] | None) -> str | None:
    """As timm, or the teacher's folder, states it; a hub is not asked."""
    from teachers import Teacher, source

    teacher = (recipe or {}).get("teacher") or {}
    name = str(teacher.get("name", ""))
    if teacher.get("type") != "teachers.teacher.Teacher" or teacher.get("checkpoint") or name.startswith("hf"):
        return None
    try:
        return source.plan(Teacher(name=name)).skeleton.pretrained_cfg.get("license")
    except ValueError:  # a folder that is gone
        return None


def check_push(repo: str) -> None:
    """ValueError unless a repository's name is one, and someone is logged in."""
    import huggingface_hub
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise ValueError(f"--push {repo!r} is no name of a repository ({error}); use ORG/NAME") from None
    if repo.count("/") != 1:
        raise ValueError(f"--push {repo!r} names no owner; use ORG/NAME")
    if huggingface_hub.get_token() is None:
        raise ValueError(
            f"nobody is logged in to the hub, so nothing can be pushed to {repo}; run `hf auth login` first"
        )


def push(folder: Path, repo: str, *, private: bool) -> str:
    """Upload a folder that `write` made, and return the address of the commit. ValueError if the hub does not take it.

    Who is logged in is huggingface_hub's own business; the token is neither read nor shown here.
    """
    from huggingface_hub import HfApi

    api = HfApi(library_name="distill-vision")
    try:
        api.create_repo(repo, private=private or None, exist_ok=True)
        return api.upload_folder(
            repo_id=repo, folder_path=folder, allow_patterns=list(FILES), commit_message="A distilled student"
        ).commit_url
    except Exception as error:  # the network's errors and the hub's have no common kind
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"{folder} was written, but the hub did not take it as {repo}: {reason}") from None
