"""Every loss trains every kind of student with every kind of teacher: three steps on one batch lower it."""

from dataclasses import replace

import pytest
import torch

import students
from distill import losses
from distill.losses import Address
from distill.objective import Objective
from students import ViTConfig
from teachers import Head, Teacher

CLASSES = 5
IMAGES = 40
SIZE = (64, 96)  # of the teachers; the views and the students are of half of it
STUDENT = ViTConfig(img_size=(32, 48), patch_size=8, embed_dim=16, depth=4, num_heads=2, num_classes=CLASSES)
STUDENTS = {
    "token": replace(STUDENT, distilled=True),
    "no token": STUDENT,
    "mean": replace(STUDENT, class_token=False, global_pool="avg"),
}
TEACHERS = ["test_resnet", "test_convnext", "test_vit", "distilled ViT"]


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    """Four kinds of teacher with random weights and a head for five classes, and what they say about a batch."""
    config = replace(STUDENT, img_size=SIZE, patch_size=16, embed_dim=24, distilled=True)
    torch.manual_seed(1)
    folder = students.save(config.build(), tmp_path_factory.mktemp("teacher") / "distilled")
    views = torch.rand(8, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    found = {}
    for name in TEACHERS:
        torch.manual_seed(0)
        known = Teacher(name=f"{name}.r160_in1k", img_size=SIZE) if "test" in name else Teacher(name=str(folder))
        width = known.shapes().embedding
        head = Head(torch.randn(CLASSES, width), torch.zeros(CLASSES), l2=0, heldout_top1=0, heldout_nll=0)
        frozen = known.build(head=head, pretrained="test" not in name)
        found[name] = frozen.shapes, frozen(views, list(frozen.shapes.grids))
    return views, found


@pytest.mark.parametrize("of_student", STUDENTS)
@pytest.mark.parametrize("of_teacher", TEACHERS)
def test_three_steps_lower_the_loss(loss_name, of_teacher, of_student, teachers):
    views, found = teachers
    shapes, target = found[of_teacher]
    index = torch.arange(8)
    where = Address(index=index, start=0, total=8, seed=3, progress=0.5)
    fits: dict = {"CRD": {"negatives": 64}, "Manifold": {"pairs": ((0.5, 0.5), (1.0, 1.0))}}
    config = STUDENTS[of_student]
    # The other heads learn labels, too little to matter.
    rest = {"class": losses.CrossEntropy(weight=1e-6)}
    if config.distilled:
        rest["token"] = losses.CrossEntropy(weight=1e-6, head="token")
    torch.manual_seed(0)
    student = config.build()
    module = Objective(
        student, {"loss": getattr(losses, loss_name)(**fits.get(loss_name, {})), **rest}, shapes, images=IMAGES
    )
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3)
    seen = []
    for _ in range(4):
        terms = module(views, target, index % CLASSES, where)
        seen.append(terms["loss"].item())
        optimizer.zero_grad()
        terms["total"].backward()
        optimizer.step()
    assert seen[-1] < seen[0]
