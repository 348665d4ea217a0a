"""A linear head fitted on features that do not fit in memory: the sums of `fit_head`'s loss are taken in chunks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from teachers.calibration import temperature_of_use
from teachers.features import Features
from teachers.head import L2_GRID, Head

Reduce = Callable[[Tensor], Tensor]
# The loss is a mean, so a penalty that suits thousands of images is too strong for a million.
GRID = (1e-6, 3e-6, 1e-5, 3e-5, *L2_GRID)


def fit_streamed(
    features: Features,
    *,
    num_classes: int,
    device: torch.device,
    l2: Sequence[float] = GRID,
    reduce: Reduce = lambda sums: sums,
    advance: Callable[[], object] = lambda: None,
) -> Head:
    """The multinomial logistic regression of `fit_head`, with the same loss on standardised features.

    Whole-batch L-BFGS, its value and gradient summed over chunks of rows: it has no rate or batch size to be chosen,
    ends where the gradient does, and holds one chunk in float32 at a time. It runs along the principal axes of the
    features, each scaled by its curvature, because every step is a pass over the files and correlated features would
    make it hundreds. From the strongest l2 down, each fit starts
    at the one before, until the likelihood of the held-out images has fallen twice in a row.

    The weights are fitted on the images that are not held out and on no other. The held-out ones choose l2, over all
    views, and then the temperature that weight and bias are divided by, on the plain view: ten numbers in all.

    reduce: sums a tensor over processes that each hold a part of the rows; they then all find the same head.
    advance: told of each pass over the features. ValueError if no row is held out, or every one.
    """
    mean, std, rows = _statistics(features, device, reduce)
    problem = _Problem(features, device, reduce, advance, mean, std, rows)
    start = torch.zeros(num_classes, features.width + 1, device=device)  # the last column is the bias
    tried: list[tuple[float, float, float, Tensor]] = []
    for strength in sorted(l2, reverse=True):
        start = problem.solve(strength, start, tolerance=1e-4)
        nll, top1 = problem.judge(start)
        tried.append((nll, strength, top1, start))
        if len(tried) > 2 and tried[-1][0] > tried[-2][0] > tried[-3][0]:
            break
    nll, strength, top1, start = min(tried, key=lambda fit: fit[:2])
    fitted = problem.solve(strength, start, tolerance=1e-5)
    weight = fitted[:, :-1] / std
    bias = fitted[:, -1] - weight @ mean
    plain = [(F.linear(x, weight, bias).cpu(), y.cpu()) for x, y in features.chunks(device, held_out=True, plain=True)]
    none = torch.empty(0, num_classes), torch.empty(0, dtype=torch.long)
    logits, labels = (torch.cat(parts) for parts in zip(*(plain or [none]), strict=True))
    temperature = temperature_of_use(logits, labels, lambda sums: reduce(sums.to(device)).cpu())
    return Head(
        (weight / temperature).cpu(),
        (bias / temperature).cpu(),
        l2=strength,
        heldout_top1=top1,
        heldout_nll=nll,
        temperature=temperature,
    )


class _Problem:
    """The loss of one head as sums over chunks and processes."""

    def __init__(
        self,
        features: Features,
        device: torch.device,
        reduce: Reduce,
        advance: Callable[[], object],
        mean: Tensor,
        std: Tensor,
        rows: float,
    ) -> None:
        self.features, self.device, self.reduce, self.advance = features, device, reduce, advance
        self.mean, self.std, self.rows = mean, std, rows
        self.variances, self.axes = self._principal_axes()

    def solve(self, l2: float, start: Tensor, *, tolerance: float) -> Tensor:
        """The parameters [K, D + 1] at the minimum of mean cross-entropy + l2 / 2 · ‖W‖²."""
        num_classes = len(start)
        curvature = (1 - 1 / num_classes) / num_classes  # of the cross-entropy by a logit, where all are alike
        scale = torch.cat([curvature * self.variances + l2, self.variances.new_tensor([curvature])]).sqrt()
        parameters = (self._turned(start) * scale).requires_grad_()
        optimizer = torch.optim.LBFGS(
            [parameters],
            max_iter=300,
            tolerance_grad=tolerance,
            tolerance_change=1e-9,
            history_size=20,
            line_search_fn="strong_wolfe",
        )

        def closure() -> float:
            value, gradient = self._value_and_gradient(self._turned_back(parameters.detach() / scale), l2)
            parameters.grad = self._turned(gradient) / scale
            return value

        optimizer.step(closure)
        return self._turned_back(parameters.detach() / scale)

    def _turned(self, parameters: Tensor) -> Tensor:
        """Parameters [K, D + 1] of the features -> of their principal axes. The penalty is the same in both."""
        return torch.cat([parameters[:, :-1] @ self.axes, parameters[:, -1:]], 1)

    def _turned_back(self, parameters: Tensor) -> Tensor:
        return torch.cat([parameters[:, :-1] @ self.axes.T, parameters[:, -1:]], 1)

    def _principal_axes(self) -> tuple[Tensor, Tensor]:
        """Variances [D] of the standardised features along their principal axes, and the axes [D, D] in columns."""
        products = torch.zeros(len(self.mean), len(self.mean), device=self.device)
        for x, _ in self.features.chunks(self.device, held_out=False):
            x = (x - self.mean) / self.std
            products += x.T @ x
        variances, axes = torch.linalg.eigh((self.reduce(products) / self.rows).cpu().double())
        return variances.clamp(min=0).float().to(self.device), axes.float().to(self.device)

    def _value_and_gradient(self, parameters: Tensor, l2: float) -> tuple[float, Tensor]:
        weight, bias = parameters[:, :-1], parameters[:, -1]
        gradient, total = torch.zeros_like(parameters), torch.zeros(1, dtype=torch.float64, device=self.device)
        for x, labels in self.features.chunks(self.device, held_out=False):
            x = (x - self.mean) / self.std
            log_p = F.linear(x, weight, bias).log_softmax(-1)
            total += F.nll_loss(log_p, labels, reduction="sum")
            slope = log_p.exp_()  # [B, K]: the gradient of the sum by the logits is p - one-hot
            slope[torch.arange(len(labels), device=self.device), labels] -= 1
            gradient[:, :-1] += slope.T @ x
            gradient[:, -1] += slope.sum(0)
        self.advance()
        gradient = self.reduce(gradient) / self.rows
        gradient[:, :-1] += l2 * weight
        value = float(self.reduce(total)) / self.rows + l2 / 2 * float(weight.square().sum())
        return value, gradient

    def judge(self, parameters: Tensor) -> tuple[float, float]:
        """Mean negative log-likelihood and share of right decisions on the held-out images."""
        sums = torch.zeros(3, dtype=torch.float64, device=self.device)
        for x, labels in self.features.chunks(self.device, held_out=True):
            logits = F.linear((x - self.mean) / self.std, parameters[:, :-1], parameters[:, -1])
            right = (logits.argmax(1) == labels).sum()
            sums += torch.stack([F.cross_entropy(logits, labels, reduction="sum"), right, right.new_tensor(len(x))])
        nll, right, rows = self.reduce(sums).tolist()
        if not rows:
            raise ValueError("no image is held out to choose l2 and the temperature on; hold out a larger share")
        return nll / rows, right / rows


def _statistics(features: Features, device: torch.device, reduce: Reduce) -> tuple[Tensor, Tensor, float]:
    """Mean [D] and deviation [D] of the rows that are fitted on, and their number."""
    total = torch.zeros(features.width + 1, device=device)  # the last is the number of rows
    for x, _ in features.chunks(device, held_out=False):
        total[:-1] += x.sum(0)
        total[-1] += len(x)
    total = reduce(total)
    rows = float(total[-1])
    if not rows:
        raise ValueError("every image is held out; hold out a smaller share")
    mean = total[:-1] / rows
    squares = torch.zeros_like(mean)
    for x, _ in features.chunks(device, held_out=False):  # a second pass, because differences of squares cancel
        squares += (x - mean).square().sum(0)
    std = (reduce(squares) / rows).sqrt()
    # A feature that does not vary says nothing; left at 1 it is 0 after centring.
    return mean, torch.where(std > 1e-6 * std.max(), std, 1.0), rows
