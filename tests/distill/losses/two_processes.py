"""Every loss on one batch, divided among the processes that run this; the first writes values and gradients.

torchrun --standalone --nproc_per_node 2 tests/distill/losses/two_processes.py OUT.pt
"""

import sys

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from distill import losses
from distill.catalogue import names
from distill.losses import Address, CrossEntropy
from distill.objective import Objective
from students import Outputs, Shapes, ViTConfig

IMAGES, BATCH, CLASSES = 40, 8, 5
STUDENT = ViTConfig(img_size=8, patch_size=4, embed_dim=8, depth=4, num_heads=2, num_classes=CLASSES, distilled=True)
TEACHER = Shapes(CLASSES, False, 7, {0: (4, 8, 8), 1: (6, 4, 4), 2: (6, 2, 2), 3: (8, 2, 2), 4: (10, 2, 2)})


def measure(name: str, rank: int, processes: int, **options: bool) -> dict:
    """Two steps of a loss on this process's part of the batches: mean terms and mean gradients."""
    torch.manual_seed(0)
    fits: dict = {"CRD": {"negatives": 16}, "Manifold": {"pairs": ((0.5, 0.5), (1.0, 1.0))}}
    loss = getattr(losses, name)(**fits.get(name, {}) | options)
    rest = {"class": CrossEntropy(weight=0.1), "token": CrossEntropy(weight=0.1, head="token")}
    module = Objective(STUDENT.build(), {"loss": loss, **rest}, TEACHER, images=IMAGES)
    wrapped = DistributedDataParallel(module) if processes > 1 else module
    if isinstance(wrapped, DistributedDataParallel):
        wrapped.broadcast_buffers = False
    generator = torch.Generator().manual_seed(0)
    part, terms = BATCH // processes, []
    rows = slice(rank * part, (rank + 1) * part)
    for step in range(2):
        views = torch.rand(BATCH, 3, 8, 8, generator=generator)
        target = Outputs(
            3 * torch.randn(BATCH, CLASSES, generator=generator)[rows],
            embedding=torch.randn(BATCH, TEACHER.embedding, generator=generator)[rows],
            grids={i: torch.randn(BATCH, *shape, generator=generator)[rows] for i, shape in TEACHER.grids.items()},
        )
        labels, index = torch.arange(BATCH) % CLASSES, torch.randperm(IMAGES, generator=generator)[:BATCH]
        where = Address(index=index[rows], start=rank * part, total=BATCH, seed=step, progress=0.5)
        said = wrapped(views[rows], target, labels[rows], where)
        said["total"].backward()
        value = said["loss"].detach() / processes
        if processes > 1:
            dist.all_reduce(value)
        terms.append(value)
    return {
        "terms": torch.stack(terms),
        "gradients": torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None]),
    }


def main() -> None:
    processes = int(sys.argv[2]) if len(sys.argv) > 2 else 2
    if processes > 1:
        dist.init_process_group("gloo")
    rank = dist.get_rank() if processes > 1 else 0
    torch.set_num_threads(1)
    found = {name: measure(name, rank, processes) for name in names()}
    for name in names():
        if hasattr(getattr(losses, name), "gather"):
            found[f"{name} apart"] = measure(name, rank, processes, gather=False)
    if rank == 0:
        torch.save(found, sys.argv[1])
    if processes > 1:
        dist.barrier()  # one that leaves early takes the connections of the other with it
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
