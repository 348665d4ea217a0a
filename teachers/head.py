"""A linear head fitted on frozen features, so that a teacher of other classes can teach yours."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from teachers.calibration import temperature_of_use

L2_GRID = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1e0)


class Head(nn.Module):
    """Embeddings [B, D] -> logits [B, K].

    weight: [K, D], bias: [K]. l2: the penalty that was chosen; heldout_top1, heldout_nll: fraction right and mean
    negative log-likelihood in nats of that choice on the held-out groups, before the temperature that weight and bias
    are already divided by. metadata: what the file was saved with.
    """

    weight: Tensor
    bias: Tensor

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor,
        *,
        l2: float,
        heldout_top1: float,
        heldout_nll: float,
        temperature: float = 1.0,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)
        self.l2 = l2
        self.heldout_top1 = heldout_top1
        self.heldout_nll = heldout_nll
        self.temperature = temperature
        self.metadata = dict(metadata or {})

    def forward(self, embedding: Tensor) -> Tensor:
        return F.linear(embedding, self.weight, self.bias)

    def save(self, path: str | Path, metadata: Mapping[str, str] | None = None) -> None:
        """Write a safetensors file, whole or not at all; metadata is text that `load` gives back."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        figures = {name: repr(getattr(self, name)) for name in _FIGURES}
        aside = path.with_name(f".{path.name}.{os.getpid()}")
        tensors = {"weight": self.weight.cpu().contiguous(), "bias": self.bias.cpu().contiguous()}
        aside.touch()
        mode = aside.stat().st_mode  # as the umask has it; safetensors lets only the owner read
        save_file(tensors, aside, {**(metadata or self.metadata), **figures})
        aside.chmod(mode)
        aside.replace(path)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """The head that `save` wrote. ValueError for a file that is damaged."""
        try:
            with safe_open(path, "pt") as file:
                text = dict(file.metadata())
                figures = {name: float(text.pop(name)) for name in _FIGURES if name in text}
                return cls(file.get_tensor("weight"), file.get_tensor("bias"), **figures, metadata=text)
        except (SafetensorError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is no whole head ({error}); remove it, and it is fitted again") from None


_FIGURES = ("l2", "heldout_top1", "heldout_nll", "temperature")


def fit_head(
    embeddings: Tensor,
    labels: Tensor,
    *,
    num_classes: int,
    groups: Tensor | None = None,
    seed: int = 0,
    l2: Sequence[float] = L2_GRID,
    calibrate_on: Tensor | None = None,
) -> Head:
    """Multinomial logistic regression on embeddings [N, D] and labels [N], in float32 on their device.

    The loss is the mean cross-entropy + l2 / 2 · ‖W‖² on features standardised to mean 0 and deviation 1, the bias free
    of the penalty. l2 is the value with the lowest negative log-likelihood on a tenth of the groups, drawn by the
    seed; all rows are then fitted with it, and the standardisation is folded into the head.

    groups: [N], equal for rows of one image (plain and augmented), which must not be on both sides of the split;
    none: each row is its own. calibrate_on: [N] of bool; the head is then divided by the temperature that is best for
    those of these rows that are held out, and the held-out tenth stays out of the last fit too, because a temperature
    can only be judged on rows that the weights do not know.
    ValueError for labels outside the classes and for fewer than two groups.
    """
    if int(labels.min()) < 0 or int(labels.max()) >= num_classes:
        raise ValueError(
            f"labels go from {int(labels.min())} to {int(labels.max())} but there are {num_classes} classes"
        )
    x, labels = embeddings.detach().float(), labels.long()
    held = held_out(torch.arange(len(x)) if groups is None else groups, seed).to(x.device)
    mean, std = _statistics(x[~held])
    train, test = x[~held].sub_(mean).div_(std), x[held].sub_(mean).div_(std)
    start = x.new_zeros(num_classes, x.shape[1] + 1)  # the last column is the bias
    tried: list[tuple[float, float, float, Tensor]] = []
    for strength in sorted(l2, reverse=True):  # from the strongest: each is a good start for the next
        # A gradient this small leaves the likelihood right to half a per cent; the last fit goes on.
        start = _fit(train, labels[~held], strength, start, tolerance=1e-4)
        logits = _logits(test, start)
        nll = float(F.cross_entropy(logits, labels[held]))
        tried.append((nll, strength, float((logits.argmax(1) == labels[held]).double().mean()), start))
    del train, test  # as large as the features themselves, of which the last fit makes a copy, too
    nll, strength, top1, start = min(tried, key=lambda fit: fit[:2])
    rows = slice(None) if calibrate_on is None else ~held
    mean, std = _statistics(x[rows])
    fitted = _fit((x[rows] - mean).div_(std), labels[rows], strength, start, tolerance=1e-5)
    weight = fitted[:, :-1] / std
    bias = fitted[:, -1] - weight @ mean
    temperature = 1.0
    if calibrate_on is not None:
        judged = held & calibrate_on.to(held.device)
        temperature = temperature_of_use(F.linear(x[judged], weight, bias), labels[judged])
    return Head(
        weight / temperature,
        bias / temperature,
        l2=strength,
        heldout_top1=top1,
        heldout_nll=nll,
        temperature=temperature,
    )


def held_out(groups: Tensor, seed: int, fraction: float = 0.1) -> Tensor:
    """Which rows are held out, [N] of bool: whole groups, a fraction of them and at least one, drawn by the seed."""
    names, number = torch.unique(groups.cpu(), return_inverse=True)
    if len(names) < 2:
        raise ValueError("a head needs rows of at least two groups, one to fit on and one to choose l2 on")
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed))
    return torch.isin(number, order[: max(1, round(fraction * len(names)))])


def objective(x: Tensor, labels: Tensor, l2: float, parameters: Tensor) -> Tensor:
    """Mean cross-entropy + l2 / 2 · ‖W‖² of parameters [K, D + 1], W and in the last column the bias."""
    return F.cross_entropy(_logits(x, parameters), labels) + l2 / 2 * parameters[:, :-1].square().sum()


def _logits(x: Tensor, parameters: Tensor) -> Tensor:
    return torch.addmm(parameters[:, -1], x, parameters[:, :-1].T)


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    std = x.std(0, correction=0)
    # A feature that does not vary says nothing; left at 1 it is 0 after centring.
    return x.mean(0), torch.where(std > 1e-6 * std.max(), std, 1.0)


def _fit(x: Tensor, labels: Tensor, l2: float, start: Tensor, *, tolerance: float) -> Tensor:
    parameters = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [parameters],
        max_iter=300,
        tolerance_grad=tolerance,
        tolerance_change=1e-9,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def closure() -> float:
        optimizer.zero_grad()
        loss = objective(x, labels, l2, parameters)
        loss.backward()
        return float(loss.detach())

    with torch.enable_grad():
        optimizer.step(closure)
    return parameters.detach()
