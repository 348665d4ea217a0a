"""`python -m distill export STUDENT --to FORMAT`."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

if TYPE_CHECKING:
    from distill.console import Console
    from distill.export.source import Source

ENDINGS = {"onnx": ".onnx", "torchscript": ".torchscript.pt", "pt2": ".pt2", "timm": "", "hub": "-hub"}
ONLY_FOR = {
    "normalize": ("onnx", "torchscript", "pt2"),
    "opset": ("onnx",),
    "int8": ("onnx",),
    "script": ("onnx",),
} | dict.fromkeys(("license", "license_name", "license_link", "datasets", "push", "private", "dry_run"), ("hub",))


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write a student in a form that others read. What was written is read back and compared with the student first.

    - onnx: one file, batch free, with how images are prepared in its metadata.
    - torchscript: for torch without this package, also in C++; torch has deprecated it.
    - pt2: torch.export's file, which torch offers in its place.
    - timm: a folder.
    - hub: that folder with a model card.
    """

    student: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="STUDENT")]
    """A run folder, or a student's folder."""
    to: Literal["onnx", "torchscript", "pt2", "timm", "hub"]
    """The format."""
    out: Path | None = None
    """File or folder to write; None: exports/NAME with the format's ending, NAME being the run's."""
    normalize: bool = False
    """Files: take images in 0..1 and normalise them inside."""
    opset: int = 18
    """onnx: the version of ONNX's operators."""
    int8: bool = False
    """onnx: beside it NAME.int8.onnx with weights of 8 bits, both measured on the run's validation images."""
    script: Path | None = None
    """onnx, with --int8: the recipe's script, where it has data sets of its own. It is imported, so its code runs."""
    license: str | None = None
    """hub: the student's licence by the hub's identifier, such as apache-2.0, cc-by-nc-4.0 or other."""
    license_name: str | None = None
    """hub: the name of a licence that is "other"."""
    license_link: str | None = None
    """hub: where that one can be read."""
    datasets: tuple[str, ...] = ()
    """hub: the data, by the hub's identifiers, such as imagenet-1k; none: the name of the recipe's data."""
    push: str | None = None
    """hub: upload to this repository, ORG/NAME, as whoever `hf auth login` says. Nothing is uploaded without it."""
    private: bool = False
    """hub: a repository that --push makes is private."""
    dry_run: bool = False
    """hub: say what would be written and uploaded, and leave nothing behind."""

    def __call__(self) -> None:
        self._check()
        from accelerate import PartialState

        from distill import preflight
        from distill.console import Console
        from distill.export.source import open_source

        if not PartialState().is_main_process:  # one is enough
            return
        console = Console()
        source = open_source(self.student)
        out = self.out or Path("exports") / f"{source.name}{ENDINGS[self.to]}"
        if self.to == "hub":
            return self._hub(source, out, console)
        preflight.check_folder(out.parent)
        if self.to == "onnx":
            return self._onnx(source, out, console)
        if self.to == "timm":
            from distill.export import timm

            off = timm.write(source, out)
        else:
            from distill.export import pt2, torchscript

            if out.is_dir():
                raise ValueError(f"{out} is a folder; name a file with --out")
            off = (pt2 if self.to == "pt2" else torchscript).write(source, out, normalize=self.normalize)
        console.say(f"{out}: {self.to}, {_size(out)}, {_agrees(off)}")
        if self.to == "torchscript":
            console.say("torch has deprecated TorchScript; --to pt2 writes what torch.export offers in its place")

    def _check(self) -> None:
        for field in fields(self):
            formats = ONLY_FOR.get(field.name, (self.to,))
            if getattr(self, field.name) != field.default and self.to not in formats:
                option = f"--{field.name.replace('_', '-')}"
                raise ValueError(f"{option} is for --to {' or '.join(formats)}, not {self.to}; leave it out")
        if self.license is not None:
            from distill.export import licenses

            licenses.check(self.license, self.license_name, self.license_link)
        elif self.license_name or self.license_link:
            raise ValueError("a licence's name and link are for --license other, which is not given; add it")

    def _onnx(self, source: Source, out: Path, console: Console) -> None:
        if out.is_dir() or out.suffix != ".onnx":
            raise ValueError(f"{out} is no name of an ONNX file; use --out NAME.onnx")
        if self.script is not None:
            from distill.script import import_as_main

            import_as_main(self.script)
        from distill.export import int8, onnx

        onnx.check_opset(self.opset)

        images = int8.validation_images(source) if self.int8 else None
        off = onnx.write(source, out, normalize=self.normalize, opset=self.opset)
        takes = "images in 0..1" if self.normalize else "normalised images"
        console.say(f"{out}: ONNX of opset {onnx.opset_of(out)} for {takes}, {_size(out)}, {_agrees(off)}")
        small = out.with_name(f"{out.stem}.int8.onnx")
        if images is None:
            if small.is_file():
                console.say(f"{small} is of an earlier export and may be of another student; --int8 writes it anew")
            return
        scores = int8.write(out, small, images, console)
        for file, name in ((out, "float"), (small, "int8")):
            agrees = scores[name].agreement
            also = "" if agrees is None or scores[name].top1 is None else f", agrees with float on {100 * agrees:.2f} %"
            console.say(f"{name}: {_size(file)}, {console.accuracy(scores[name])}{also} ({file})")

    def _hub(self, source: Source, out: Path, console: Console) -> None:
        from distill import preflight
        from distill.export import hub

        if self.push and not self.dry_run:
            hub.check_push(self.push)
        facts = hub.gather(
            source,
            license=self.license,
            license_name=self.license_name,
            license_link=self.license_link,
            datasets=self.datasets,
            repo=self.push,
        )
        if self.dry_run:
            with tempfile.TemporaryDirectory() as aside:
                hub.write(source, Path(aside) / "student", facts)
                self._say_upload(Path(aside) / "student", hub.FILES, console)
        else:
            preflight.check_folder(out.parent)
            off = hub.write(source, out, facts)
            readme = out / "README.md"
            console.say(f"{out}: for the hub, {_size(out)}, {_agrees(off)}; read {readme} before you publish it")
        if self.license is None:
            whose = facts.teacher_license or "not known here"
            console.say(
                f"no licence is stated; give one with --license, mindful of the teacher's ({whose}) and the images'"
            )
        if facts.report is None:
            console.say("the card has no figures, for there is no report.json of a finished run beside the student")
        if self.push and not self.dry_run:
            console.say(f"uploaded: {hub.push(out, self.push, private=self.private)}")

    def _say_upload(self, folder: Path, files: tuple[str, ...], console: Console) -> None:
        where = f"to {self.push}{' (private, if it is new)' * self.private}" if self.push else "with --push ORG/NAME"
        rows = [(name, _size(folder / name)) for name in files]
        console.say(f"would be uploaded {where}:")
        console.summary("", [*rows, ("together", _size(folder))])


def _agrees(off: float) -> str:
    return f"agrees with the student to {off:.0e} of the largest logit" if off else "equal to the student"


def _size(place: Path) -> str:
    files = place.iterdir() if place.is_dir() else [place]
    size = sum(file.stat().st_size for file in files)
    return f"{size / 1e6:.2f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"
