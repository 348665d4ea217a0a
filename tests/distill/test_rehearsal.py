"""A rehearsal: what it stands in, how many images it takes, and whether its estimates are those of real files."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from distill import Arrays, Folder, Optim, Recipe, Torchvision, Unlabelled, Views, checkpoint, run, sizing
from distill.affordable import CPU_FLOPS, affordable
from distill.console import Console
from distill.estimate import Measured, disk_bytes, duration, estimates
from distill.losses import CrossEntropy, Hint, SoftTargets
from distill.objective import Objective
from distill.options import RunOptions
from distill.preflight import Plan, check
from distill.rehearsal import rehearse
from distill.script import recipe_of
from distill.standin import missing, stand_in
from students import ViTConfig
from teachers import Teacher

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture(autouse=True)
def on_cpu(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")


def small(tiny_images: Path, teacher: Path, **changes) -> Recipe:
    recipe = Recipe(
        student=ViTConfig(
            img_size=28, patch_size=7, in_chans=1, num_classes=10, embed_dim=48, depth=2, num_heads=2, distilled=True
        ),
        teacher=Teacher(name=str(teacher), runtime="eager"),
        data=Arrays(path=str(tiny_images)),
        views=Views(mixup=0.8),
        losses={"labels": CrossEntropy(), "soft": SoftTargets(), "hint": Hint()},
        optim=Optim(epochs=2, batch_size=64, warmup_epochs=0, ema_decay=0.9),
    )
    return replace(recipe, **changes)


def test_kept_bytes_are_those_of_a_real_step(tiny_images, tiny_teacher):
    plan = check(small(tiny_images, tiny_teacher))
    found = sizing.cost(plan, images=8)
    assert found is not None
    weights = {p.untyped_storage().data_ptr() for p in plan.objective.parameters()}
    kept: dict[int, int] = {}
    alive = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        alive.append(tensor)
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        sizing.losses_on_blank_images(plan, plan.objective.train(), 8)["total"].backward()
    real = sum(size for place, size in kept.items() if place not in weights) / 8
    assert found.kept == pytest.approx(real, rel=0.02)
    assert found.idle == ()


def test_a_parameter_without_a_gradient_is_named(tiny_images, tiny_teacher):
    plan = check(small(tiny_images, tiny_teacher))

    class Idle(Objective):
        def __init__(self, *args, **more) -> None:
            super().__init__(*args, **more)
            self.left_over = torch.nn.Parameter(torch.zeros(3))

    idle = Idle(plan.recipe.student.build(), plan.recipe.losses, plan.teacher, images=4)
    sizing.losses_on_blank_images(plan, idle, 4)["total"].backward()
    assert sizing.without_gradient(idle) == ("left_over",)


@pytest.fixture(scope="module")
def deit_tiny() -> Plan:
    with torch.device("meta"):
        return check(stand_in(recipe_of(RECIPES / "imagenet/vit_tiny.py"))[0])


def test_operations_of_known_models(deit_tiny):
    # DeiT's and RegNetY-16GF's published multiplications and additions: 1.26 G (without the distillation token) and
    # 15.96 G an image. Forward and backward of the student are three forwards, less what the last block leaves out of
    # 196 patches: queries, output and MLP, 10·D² a token, and their attention.
    found = sizing.cost(deit_tiny, images=2)
    assert found is not None
    left_out = 196 * 10 * 192**2 + 2 * 196 * 197 * 192
    assert found.flops == pytest.approx(3 * 2 * (1.26e9 - left_out), rel=0.02)
    teacher = sizing.teacher(deit_tiny)
    assert teacher.flops == pytest.approx(2 * 15.96e9, rel=0.01)
    assert teacher.parameters == pytest.approx(83.6e6, rel=1e-3)


def test_a_step_too_large_for_a_cpu_is_rehearsed_in_part(deit_tiny):
    found = affordable(deit_tiny, Accelerator())
    assert found.cost is not None
    of_one = found.cost.flops + sizing.teacher(deit_tiny).flops  # 39.6e9
    assert deit_tiny.layout.part == 1024
    assert (found.part, found.short_of) == (4, "patience")  # halved until it fits: 1024, 512 … 4
    assert 4 * of_one <= CPU_FLOPS < 8 * of_one


def test_a_step_that_fits_is_rehearsed_whole(tiny_images, tiny_teacher):
    found = affordable(check(small(tiny_images, tiny_teacher)), Accelerator())
    assert (found.part, found.short_of) == (64, "")


def test_a_step_that_no_machine_here_takes_is_computed_about(tiny_images, tiny_teacher, capsys):
    # 512 × 512 patches look at each other in two blocks of width 48: 2 · 4 · 262,144² · 48 operations, 2.6e13 forward.
    large = ViTConfig(img_size=2048, patch_size=4, in_chans=1, num_classes=10, embed_dim=48, depth=2, num_heads=2)
    with torch.device("meta"):
        plan = check(small(tiny_images, tiny_teacher, student=large))
    rehearse(plan, RunOptions(), Accelerator(), Console(), workers=1)
    said = " ".join(capsys.readouterr().out.split())
    assert "so none is taken, and memory is computed from shapes" in said
    assert "speed not known here: no step was taken on this cpu" in said
    assert "for 20 steps" in said
    assert "starting the teacher" not in said
    assert said.endswith("rehearsal: nothing was written")


def test_times_are_read_by_people():
    accelerator = Accelerator()
    assert duration(75, accelerator) == "1:15"
    assert duration(3 * 86_400, accelerator) == "3.0 days"
    assert duration(27_351 * 86_400, accelerator) == "75 years, too long on this cpu,"


def test_fitting_the_head_is_estimated_from_the_teachers_rate(tiny_images, tiny_teacher):
    recipe = small(tiny_images, tiny_teacher)
    plan = check(replace(recipe, teacher=Teacher(name=str(tiny_teacher), head="fit")))
    seconds = Measured(
        startup=1, step=1, loading=0.64, evaluation=1, asking=1.28, part=64, evaluated=64
    )  # 0.02 s a view for the teacher, 0.01 s for a loader
    rows = dict(estimates(plan, seconds, Accelerator(), 2, None, 1))
    # 640 images, plain and in a random view: 1,280 × (0.02 + 0.01 / 2) = 32 s.
    assert rows["head"] == "about 0:32 for the teacher's features of 2 × 640 views, and then the fit"


def test_disk_is_what_a_checkpoint_and_a_student_take(tiny_images, tiny_teacher, tmp_path):
    import students

    plan = check(small(tiny_images, tiny_teacher))
    accelerator = Accelerator()
    objective, optimizer = accelerator.prepare(
        plan.objective, torch.optim.AdamW(plan.objective.parameters(), fused=False)
    )
    average = plan.recipe.student.build()
    accelerator.register_for_checkpointing(average)
    torch.stack([parameter.sum() for parameter in objective.parameters()]).sum().backward()
    optimizer.step()
    checkpoint.save(accelerator, tmp_path / "checkpoints", 1)
    students.save(plan.objective.student, tmp_path / "student")
    student, whole = disk_bytes(plan)
    on_disk = sum(file.stat().st_size for file in (tmp_path / "checkpoints").rglob("*") if file.is_file())
    # What is not weights, such as names and the state of random numbers, is of one size whatever the student.
    assert 0 <= on_disk - whole < 100_000
    assert 0 <= (tmp_path / "student" / "model.safetensors").stat().st_size - student < 10_000


def test_without_images_teacher_or_network_it_is_told_and_nothing_is_left(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["vit_tiny_vit.py"])
    for name in ("DISTILL_CACHE", "HF_HUB_CACHE"):
        monkeypatch.setenv(name, str(tmp_path / name))
    recipe = recipe_of(RECIPES / "fashion_mnist/vit_tiny_vit.py")
    short = ["--teacher.runtime", "eager", "--threads", "1", "--optim.batch-size", "8", "--data.download"]
    run(recipe, ["--dry-run", *short])
    said = " ".join(capsys.readouterr().out.split())
    assert "FashionMNIST is missing or damaged in" in said
    assert "synthetic images stand in: 60,000 + 10,000 of 10 classes, as many as FashionMNIST has" in said
    assert "are not on this machine, so random ones stand in; the run itself fetches them" in said
    assert "for 450,000 steps" in said  # 60 epochs of 7,500
    assert "for 60 times 10,000 images" in said
    assert said.endswith("rehearsal: nothing was written")
    assert list(tmp_path.iterdir()) == []


def test_only_what_is_not_there_is_stood_in_for(tiny_images, tmp_path):
    assert missing(Arrays(path=str(tiny_images))) is None
    (tmp_path / "broken.npz").write_bytes(b"no zip file")
    assert missing(Arrays(path=str(tmp_path / "broken.npz"))) is None
    (tmp_path / "empty").mkdir()
    assert missing(Folder(root=str(tmp_path / "empty"))) is None  # preflight says what is wrong with it
    for data in (Folder(root="nowhere"), Unlabelled(root="nowhere"), Torchvision(name="CIFAR10", root=str(tmp_path))):
        assert missing(data)


def test_images_without_labels_are_stood_in_for_by_such():
    recipe, done = stand_in(recipe_of(RECIPES / "unlabelled.py"))
    assert recipe.data.classes == ()
    assert recipe.data.train()[7][1] == -1
    assert recipe.data.train()[7][0].size == (224, 224)
    assert done == "synthetic images stand in: 10,000 + 1,000 without labels, a guess"
