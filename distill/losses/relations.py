"""Losses on how the images of a batch relate to each other: similarity-preserving and RKD."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from distill.losses.contract import Bound, Functions, Needs, check_factors, check_images, require_teacher
from distill.losses.grids import OverPairs
from distill.losses.later import F, torch
from distill.losses.pairs import NO_PAIRS, Pair, Pairs, layers_of, resolve, resolve_embeddings, vector
from distill.losses.precision import student_and_teacher
from distill.losses.processes import gathered, world_size
from distill.losses.schedule import CONSTANT, Schedule
from students.outputs import Outputs, Shapes

if TYPE_CHECKING:
    from torch import Tensor

AT_ONCE = 2**28  # differences of pairs, in a gradient's part
COINCIDENT = 1e-6  # of the largest: shorter than this has no direction


@student_and_teacher
def similarity_preserving(fs: Tensor, ft: Tensor, gather: bool = False) -> Tensor:
    """‖G_t - G_s‖² / B², G the Gram matrix [B, B] of the flattened grids with rows of length 1.

    Tung & Mori 2019 (arXiv:1907.09682), equations 1 to 4, of grids [B, C, H, W] of any shape, B of 2 or more.
    gather: the batch is that of all processes, each of which computes the rows of its own images.
    """
    check_images(len(fs) * (world_size() if gather else 1), 2)
    return F.mse_loss(_similarity(fs, gather), _similarity(ft, gather))


def _similarity(grid: Tensor, gather: bool) -> Tensor:
    """[b, C, H, W] -> [b, B], of this process's images with all."""
    flat = grid.flatten(1)
    gram = flat @ (gathered(flat) if gather else flat).T
    length = gram.detach().norm(dim=-1, keepdim=True)
    seen = length > COINCIDENT * length.amax()
    # An image whose grid is zero is like no other; the gradient of its row would be 1 / eps.
    return torch.where(seen, F.normalize(torch.where(seen, gram, 1.0), dim=-1), 0.0)


@student_and_teacher
def rkd(
    es: Tensor,
    et: Tensor,
    distance: float = 25.0,
    angle: float = 50.0,
    angle_images: int = 128,
    gather: bool = False,
) -> Tensor:
    """distance · smooth-L1 of the pairwise distances + angle · smooth-L1 of the angles, of embeddings [B >= 2, D].

    Park et al. 2019 (arXiv:1904.05068), equations 4 to 8, each a mean over all pairs or triplets. Distances are
    divided by their mean over pairs that differ. Angles are B³ numbers: they are those of the first `angle_images`
    images. Two images with one embedding have no direction; their angles count as 0. Of two images the one distance
    is its own mean, so only three say anything. gather: the batch is that of all processes.
    """
    if gather:
        es, et = gathered(es), gathered(et)
    check_images(len(es), 2)
    far = F.smooth_l1_loss(_distances(es), _distances(et)) if distance else es.new_zeros(())
    turned = F.smooth_l1_loss(_angles(es[:angle_images]), _angles(et[:angle_images])) if angle else es.new_zeros(())
    return distance * far + angle * turned


def _distances(embedding: Tensor) -> Tensor:
    """[B, D] -> [B, B], with mean 1 where they are not 0."""
    # Without the matrix product of x² + y² - 2xy: its rounding makes near neighbours NaN or 0.
    # In parts, for its gradient holds [rows, B, D] on a GPU: 51 GB of 4,096 images and 768 numbers.
    rows = max(AT_ONCE // embedding.numel(), 1)
    exact = "donot_use_mm_for_euclid_dist"
    far = torch.cat([torch.cdist(part, embedding, compute_mode=exact) for part in embedding.split(rows)])
    mean = far.sum() / (far > 0).sum().clamp_min(1)
    return far / mean.clamp_min(torch.finfo(far.dtype).tiny)


def _angles(embedding: Tensor) -> Tensor:
    """[B, D] -> [B, B, B], the cosine of the angle at image i between images j and k."""
    to = embedding.unsqueeze(0) - embedding.unsqueeze(1)  # [B, B, D]
    length = to.detach().norm(dim=-1, keepdim=True)
    apart = length > COINCIDENT * length.amax()
    direction = F.normalize(torch.where(apart, to, 0.0), dim=-1)
    # The gradient of a zero vector's direction would be 1 / eps.
    direction = torch.where(apart, direction, 0.0)
    return direction @ direction.transpose(1, 2)


@dataclass(frozen=True, kw_only=True)
class SimilarityPreserving:
    """Images that are alike to the teacher are alike to the student; no projection or resize is needed.

    It couples the images of a batch and needs 2 or more at once. Reads no labels: under mixing both models see the
    mixed image. The sum over the pairs.
    """

    paper: ClassVar[str] = "Tung & Mori 2019, arXiv:1907.09682"
    functions: ClassVar[Functions] = (similarity_preserving,)

    weight: float = 3000.0
    """Factor of this loss in the total."""
    schedule: Schedule = CONSTANT
    """How the weight changes over the run."""
    pairs: Pairs = ((-1, -1),)
    """Student layer, teacher layer, of each pair: a block or stage (3), from the end (-1), or a fraction (0.25)."""
    gather: bool = True
    """Compare the images of all processes, so that their number does not change the value; whole grids are sent."""

    @property
    def needs(self) -> Needs:
        return Needs(
            **layers_of(self.pairs),
            images=2,
            couples=True,
            gathers=self.gather,
        )

    def bind(self, student: Shapes, teacher: Shapes | None) -> Bound:
        pairs = resolve(self.pairs, student, require_teacher(teacher))
        pairs = [replace(pair, matches_size=False) for pair in pairs]
        return OverPairs(pairs, partial(similarity_preserving, gather=self.gather))


@dataclass(frozen=True, kw_only=True)
class RKD:
    """Distances and angles between the images' embeddings are the teacher's, up to scale.

    It couples the images of a batch and needs 3 or more at once. Reads no labels: under mixing both models see the
    mixed image. No projection: the two embeddings may have different lengths. The sum over the pairs, if any.
    """

    paper: ClassVar[str] = "Park et al. 2019, arXiv:1904.05068"
    functions: ClassVar[Functions] = (rkd,)

    weight: float = 1.0
    """Factor of this loss in the total."""
    schedule: Schedule = CONSTANT
    """How the weight changes over the run."""
    distance: float = 25.0
    """Factor of the distances."""
    angle: float = 50.0
    """Factor of the angles."""
    angle_images: int = 128
    """The angles are those of so many images at most; their number grows with the cube."""
    pairs: Pairs = NO_PAIRS
    """Student layer, teacher layer, whose grids are averaged into embeddings; none: the models' own embeddings."""
    gather: bool = True
    """Compare the images of all processes, so that their number does not change the value."""

    @property
    def needs(self) -> Needs:
        return Needs(
            embedding=not self.pairs,
            **layers_of(self.pairs),
            images=3,
            couples=True,
            gathers=self.gather,
        )

    def bind(self, student: Shapes, teacher: Shapes | None) -> Bound:
        check_factors(distance=self.distance, angle=self.angle)
        if self.angle and self.angle_images < 3:
            raise ValueError(f"angle_images is {self.angle_images}; use 3 or more, or angle 0")
        return BoundRKD(self, resolve_embeddings(self.pairs, student, require_teacher(teacher)))


class BoundRKD:
    """RKD that knows what it compares."""

    def __init__(self, options: RKD, pairs: list[Pair]) -> None:
        self.options, self.pairs = options, pairs

    def __call__(self, student: Outputs, teacher: Outputs | None, labels: Tensor | None) -> Tensor:
        assert teacher is not None
        o, terms = self.options, []
        for pair in self.pairs:
            options = {"distance": o.distance, "angle": o.angle, "angle_images": o.angle_images, "gather": o.gather}
            terms.append(rkd(vector(student, pair.student), vector(teacher, pair.teacher), **options))
        return torch.stack(terms).sum()
