"""Manifold distillation: tokens lie to each other as the teacher's do, within images, across them, and at random."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from distill.losses.contract import Address, Bound, Functions, Needs, check_factors, require_teacher
from distill.losses.later import F, torch
from distill.losses.pairs import Pair, Pairs, grids_of, layers_of, match_size, resolve
from distill.losses.precision import student_and_teacher
from distill.losses.processes import gathered, rank, summed, world_size
from distill.losses.schedule import CONSTANT, Schedule
from students.outputs import Outputs, Shapes

if TYPE_CHECKING:
    from torch import Tensor


@student_and_teacher
def manifold(
    fs: Tensor,
    ft: Tensor,
    within: float = 4.0,
    across: float = 0.1,
    random: float = 0.2,
    tokens: int = 192,
    seed: int = 0,
    gather: bool = False,
) -> Tensor:
    """Weighted mean squared errors of three Gram matrices of tokens of length 1, of grids [B, C, H, W].

    Hao et al. 2022 (arXiv:2107.01378), equations 6 to 8: within each image, across the images at each position, and
    among `tokens` tokens of the batch, drawn by `seed`. Numbers of channels may differ; where heights or widths do,
    the larger grid is averaged down first. gather: the batch is that of all processes; each computes what its own
    images are within themselves and to the others, so that the mean over processes is the value of one.
    """
    check_factors(within=within, across=across, random=random)
    fs, ft = match_size(fs, ft)
    s, t = _tokens(fs), _tokens(ft)  # [b, N, C]
    terms = []
    if within:
        terms.append(within * F.mse_loss(_gram(s), _gram(t)))
    if across:
        terms.append(across * F.mse_loss(_to_others(s, gather), _to_others(t, gather)))
    if random:
        drawn = _draw(s, tokens, seed, gather)
        terms.append(random * F.mse_loss(_gram(_pick(s, drawn, gather)), _gram(_pick(t, drawn, gather))))
    return torch.stack(terms).sum()


def _tokens(grid: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, H·W, C], each of length 1."""
    return F.normalize(grid.flatten(2).transpose(1, 2), dim=-1, eps=1e-4)


def _to_others(x: Tensor, gather: bool) -> Tensor:
    """Tokens [b, N, C] -> [N, b, B], the cosines of this process's images with all, at each position."""
    everyone = gathered(x) if gather else x
    return x.transpose(0, 1) @ everyone.permute(1, 2, 0)


def _draw(x: Tensor, tokens: int, seed: int, gather: bool) -> Tensor:
    """Places among this process's tokens [b, N, C] of those drawn from the batch; of another's, -1."""
    own, processes = x.shape[0] * x.shape[1], world_size() if gather else 1
    generator = torch.Generator(x.device).manual_seed(seed)
    drawn = torch.randperm(own * processes, generator=generator, device=x.device)[:tokens]
    place = drawn - own * (rank() if gather else 0)
    return torch.where((place >= 0) & (place < own), place, -1)


def _pick(x: Tensor, drawn: Tensor, gather: bool) -> Tensor:
    """Tokens [b, N, C] -> the drawn ones [tokens, C], each from the process that has it."""
    picked = torch.where((drawn >= 0).unsqueeze(1), x.flatten(0, 1)[drawn], 0.0)
    return summed(picked) if gather else picked


def _gram(x: Tensor) -> Tensor:
    return x @ x.transpose(-1, -2)


FIRST_AND_LAST: Pairs = ((0, 0), (1, 1), (2, 2), (3, 3), (-4, -4), (-3, -3), (-2, -2), (-1, -1))


@dataclass(frozen=True, kw_only=True)
class Manifold:
    """Cosines between tokens are the teacher's; made for ViT teachers, for a CNN name its stages in `pairs`.

    It couples the images of a batch, but for the term within images; with one image the term across images is 0.
    Reads no labels: under mixing both models see the mixed image. No projection: the numbers of channels may differ.
    The mean over the pairs; by default the first four and the last four blocks of both models.
    """

    paper: ClassVar[str] = "Hao et al. 2022, arXiv:2107.01378"
    functions: ClassVar[Functions] = (manifold,)

    weight: float = 1.0
    """Factor of this loss in the total."""
    schedule: Schedule = CONSTANT
    """How the weight changes over the run."""
    pairs: Pairs = FIRST_AND_LAST
    """Student layer, teacher layer, of each pair: a block or stage (3), from the end (-1), or a fraction (0.25)."""
    within: float = 4.0
    """Factor of the tokens within an image."""
    across: float = 0.1
    """Factor of the images at one position."""
    random: float = 0.2
    """Factor of tokens drawn from the whole batch."""
    tokens: int = 192
    """How many are drawn."""
    gather: bool = True
    """Compare the images of all processes, so that their number does not change the value; whole grids are sent."""

    @property
    def needs(self) -> Needs:
        couples = bool(self.across or self.random)
        return Needs(
            **layers_of(self.pairs),
            couples=couples,
            gathers=couples and self.gather,
            address=True,
        )

    def bind(self, student: Shapes, teacher: Shapes | None, images: int) -> Bound:
        check_factors(within=self.within, across=self.across, random=self.random)
        if self.random and self.tokens < 2:
            raise ValueError(f"tokens is {self.tokens}; use 2 or more, or random 0")
        teacher = require_teacher(teacher)
        for whose, shapes in (("student", student), ("teacher", teacher)):
            if self.pairs == FIRST_AND_LAST and len(shapes.grids) < 8:
                raise ValueError(
                    f"its pairs are the first four and the last four blocks and the {whose} has {len(shapes.grids)} "
                    "layers; name pairs that belong together, such as pairs=((0.5, 0.5), (1.0, 1.0))"
                )
        return BoundManifold(self, resolve(self.pairs, student, teacher))


class BoundManifold:
    """Manifold distillation that knows its layers."""

    def __init__(self, options: Manifold, pairs: list[Pair]) -> None:
        self.options, self.pairs = options, pairs

    def __call__(self, student: Outputs, teacher: Outputs | None, labels: Tensor | None, address: Address) -> Tensor:
        assert teacher is not None
        o, terms = self.options, []
        for i, pair in enumerate(self.pairs):
            options = {"within": o.within, "across": o.across, "random": o.random, "tokens": o.tokens}
            fs, ft = grids_of(pair, student, teacher)
            terms.append(manifold(fs, ft, **options, seed=address.seed + i, gather=o.gather))
        return torch.stack(terms).mean()
