"""What a run costs: time, GPU-hours and storage of ViT-Ti, -S and -B, from a rate of one device.

python recipes/studies/cost.py --images-per-second 3000 1900 700 --devices 8
python recipes/studies/cost.py --operations-per-second 150e12 --devices 8

A rate is what you measured (a recipe's --dry-run prints one) or what you assume; nothing is measured here. From
operations a second it follows with the models' multiplications: one forward pass of the teacher, one of the student,
and its backward pass, which is taken as two forward passes.
"""

import math
import sys
from dataclasses import dataclass

import tyro

from students import VIT_BASE, VIT_SMALL, VIT_TINY, ViTConfig

STUDENTS = {"ViT-Ti/16": VIT_TINY, "ViT-S/16": VIT_SMALL, "ViT-B/16": VIT_BASE}
SAVED_BYTES = 44  # an image and epoch: the ten largest of 1,000 logits, docs/teachers-saved.md
STATE_BYTES = 16  # a parameter in a checkpoint: weight, two momenta of AdamW and the moving average, float32
CHECKPOINTS = 2  # that are kept


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a run costs: time, GPU-hours and storage of ViT-Ti, -S and -B, from a rate of one device."""

    images_per_second: tuple[float, ...] = ()
    """Of one device in a whole step, teacher included, for ViT-Ti, -S and -B in turn."""
    operations_per_second: float | None = None
    """Or additions and multiplications that one device does in a second, from which the rates follow."""
    teacher: str | None = "regnety_160.deit_in1k"
    """The timm name of the teacher whose forward pass is counted; None: saved outputs, or no teacher."""
    devices: int = 8
    """Devices that work together."""
    efficiency: float = 1.0
    """Share of `devices` times the rate of one that all of them reach."""
    images: tuple[float, ...] = (1.28e6, 1e9)
    """Training images."""
    epochs: tuple[float, ...] = (300, 1)
    """Epochs, one for each number of images."""
    kilobytes: float = 110.0
    """Of one stored image."""


def macs(student: ViTConfig) -> int:
    """Multiplications with an addition in one forward pass of a student on one image.

    Linear layers, patch embedding and both products of the attention; norms and activations are left out.
    """
    dim, tokens = student.embed_dim, student.grid_size[0] * student.grid_size[1]
    every = tokens + student.num_prefix_tokens
    embed = tokens * dim * student.in_chans * student.patch_hw[0] * student.patch_hw[1]
    block = every * dim * dim * 4 + 2 * every * every * dim + 2 * every * dim * int(dim * student.mlp_ratio)
    heads = (1 + student.distilled) * dim * student.known_classes()
    return embed + student.depth * block + heads


def teacher_macs(name: str) -> int:
    """As `macs`, of a timm model at its own size: convolutions and linear layers, counted as it runs on no data."""
    import timm
    import torch
    from timm.data.config import resolve_data_config
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        model = timm.create_model(name, pretrained=False).eval()
        size = resolve_data_config({}, model=model)["input_size"]
        counter = FlopCounterMode(display=False)
        with counter, torch.no_grad():
            model(torch.empty(1, *size))
    return counter.get_total_flops() // 2


def rates(cost: Cost) -> dict[str, float]:
    """Images a second of one device in a whole step, by student. ValueError unless one kind of rate is given."""
    if bool(cost.images_per_second) == (cost.operations_per_second is not None):
        raise ValueError("no rate, or two, are given; use --images-per-second TI S B or --operations-per-second N")
    if cost.operations_per_second is not None:
        of_teacher = teacher_macs(cost.teacher) if cost.teacher else 0
        steps = {name: 2 * (3 * macs(student) + of_teacher) for name, student in STUDENTS.items()}
        return {name: cost.operations_per_second / step for name, step in steps.items()}
    if len(cost.images_per_second) != len(STUDENTS):
        raise ValueError(f"{len(cost.images_per_second)} rates for {', '.join(STUDENTS)}; give one each")
    return dict(zip(STUDENTS, cost.images_per_second, strict=True))


def table(cost: Cost) -> str:
    """The table in Markdown, a row for each student and number of images."""
    positive = {"images_per_second": cost.images_per_second, "devices": (cost.devices,), "images": cost.images}
    positive |= {"epochs": cost.epochs, "kilobytes": (cost.kilobytes,), "efficiency": (cost.efficiency,)}
    positive["operations_per_second"] = () if cost.operations_per_second is None else (cost.operations_per_second,)
    for name, values in positive.items():
        if not all(0 < value < math.inf for value in values) or (name == "efficiency" and cost.efficiency > 1):
            most = " up to 1" if name == "efficiency" else ""
            raise ValueError(f"--{name.replace('_', '-')} is {' '.join(map(str, values))}; use numbers above 0{most}")
    if len(cost.images) != len(cost.epochs):
        raise ValueError(f"{len(cost.epochs)} epochs for {len(cost.images)} numbers of images; give one each")
    head = ["Student", "Images", "Epochs", "Images/s, one device", f"on {cost.devices}", "Hours", "Device-hours"]
    head += ["Images, TB", "Saved outputs, GB", "Checkpoints, GB"]
    lines = [f"| {' | '.join(head)} |", f"| --- {'| --: ' * (len(head) - 1)}|"]
    for images, epochs in zip(cost.images, cost.epochs, strict=True):
        for name, rate in rates(cost).items():
            together = rate * cost.devices * cost.efficiency
            hours = images * epochs / together / 3600
            cells = [name, _short(images), f"{epochs:g}", f"{rate:,.0f}", f"{together:,.0f}", _hours(hours)]
            cells += [_hours(hours * cost.devices), f"{images * cost.kilobytes / 1e9:,.2f}"]
            cells += [f"{images * epochs * SAVED_BYTES / 1e9:,.0f}"]
            cells += [f"{CHECKPOINTS * STATE_BYTES * params(STUDENTS[name]) / 1e9:.2f}"]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def params(student: ViTConfig) -> int:
    """Parameters of a student."""
    import torch

    with torch.device("meta"):
        return sum(parameter.numel() for parameter in student.build().parameters())


def _short(images: float) -> str:
    return f"{images / 1e9:g} B" if images >= 1e9 else f"{images / 1e6:g} M"


def _hours(hours: float) -> str:
    return f"{hours:,.1f}" if hours < 10 else f"{hours:,.0f}"


def main() -> None:
    cost = tyro.cli(Cost, description=__doc__)
    try:
        text = table(cost)
    except ValueError as error:
        sys.exit(f"error: {error}")
    given = "images a second given" if cost.images_per_second else "operations a second given"
    print(f"{text}\nFrom the {given} on the command line.")  # Markdown as it is: ten columns fit no narrow window


if __name__ == "__main__":
    main()
