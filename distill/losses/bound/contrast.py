"""CRD that knows its layers: projections, memory, draws."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill.losses.contract import Address
from distill.losses.contrast import CRD, crd
from distill.losses.pairs import NO_PAIRS, resolve_embeddings, vector
from distill.losses.precision import at_least_float32
from distill.losses.processes import gathered
from students.outputs import Outputs, Shapes


class BoundCRD(nn.Module):
    """CRD with its two projections and its memory of both models' embeddings [images, dim]."""

    memory_s: Tensor
    memory_t: Tensor
    log_scales: Tensor

    def __init__(self, options: CRD, student: Shapes, teacher: Shapes, images: int) -> None:
        super().__init__()
        self.options, self.images = options, images
        (pair,) = resolve_embeddings((options.layers,) if options.layers else NO_PAIRS, student, teacher)
        self.pairs = [replace(pair, projection=f"linear to {options.dim}, both", matches_size=False)]
        self.project_s = nn.Linear(pair.student_shape[0], options.dim)
        self.project_t = nn.Linear(pair.teacher_shape[0], options.dim)
        for name in ("memory_s", "memory_t"):
            self.register_buffer(name, F.normalize(torch.randn(images, options.dim), dim=-1))
        # log Z of the scores, one a direction; fixed by the first batch, as in the authors' code.
        self.register_buffer("log_scales", torch.full((2,), math.nan))
        self.scaled = False

    def forward(self, student: Outputs, teacher: Outputs | None, labels: Tensor | None, address: Address) -> Tensor:
        assert teacher is not None
        pair = self.pairs[0]
        u = F.normalize(self.project_s(at_least_float32(vector(student, pair.student))), dim=-1)
        v = F.normalize(self.project_t(at_least_float32(vector(teacher, pair.teacher)).detach()), dim=-1)
        compared = self.compared(address)
        # The memory changes below, while the gradient still needs it as it was.
        scores = self.scores(u, self.memory_t.clone(), compared), self.scores(v, self.memory_s.clone(), compared)
        if not self.scaled:
            self.fix_scales(scores)
        if self.training:
            with torch.no_grad():
                self.remember(gathered(address.index), gathered(u), gathered(v))
        return torch.stack([crd(scores[i] - self.log_scales[i], self.images) for i in range(2)]).sum()

    @torch.no_grad()
    def fix_scales(self, scores: tuple[Tensor, Tensor]) -> None:
        """Take log Z of both directions, images times the mean score of this batch, unless a checkpoint had them."""
        if self.log_scales.isfinite().all():
            self.scaled = True
            return
        means = torch.stack([score.logsumexp((0, 1)) - math.log(score.numel()) for score in scores])
        of_all = gathered(means.unsqueeze(0))  # [processes, 2]
        self.log_scales.copy_(of_all.logsumexp(0) - math.log(len(of_all)) + math.log(self.images))
        self.scaled = bool(self.log_scales.isfinite().all())  # else a first step that is skipped fixed nothing

    def scores(self, anchor: Tensor, memory: Tensor, compared: Tensor) -> Tensor:
        """Anchors [B, dim], memory [images, dim], compared [B, 1 + K] -> u·v / τ [B, 1 + K]."""
        # One product with the whole memory takes `images` numbers an image; gathering first takes K · dim.
        return (anchor / self.options.temperature @ memory.T).gather(1, compared)

    def compared(self, address: Address) -> Tensor:
        """[B, 1 + K], the image itself and K draws, the same for an image however the batch is divided."""
        device, rows = address.index.device, slice(address.start, address.start + len(address.index))
        generator = torch.Generator(device).manual_seed(address.seed)
        draws = (address.total, self.options.negatives)
        drawn = torch.randint(self.images, draws, generator=generator, device=device)[rows]
        return torch.cat([address.index.unsqueeze(1), drawn], dim=1)

    def remember(self, index: Tensor, u: Tensor, v: Tensor) -> None:
        """Move the entries of images index [B] towards u, v [B, dim]."""
        keep = self.options.momentum
        for memory, fresh in ((self.memory_s, u), (self.memory_t, v)):
            moved = F.normalize(keep * memory[index] + (1 - keep) * fresh, dim=-1)
            # A step that is skipped because it is not finite must not stay in the memory.
            memory[index] = torch.where(moved.isfinite().all(-1, keepdim=True), moved, memory[index])
