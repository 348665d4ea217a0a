"""A recipe that does not fit ends before any training, with what was found, what is allowed and the way out."""

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from io import StringIO
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import students
from distill import Arrays, Optim, Recipe, Views
from distill.losses import CRD, RKD, CrossEntropy, HardTargets, Hint, Schedule, SoftTargets
from distill.preflight import check, check_folder
from students import ViTConfig
from teachers import Teacher

CONFIG = ViTConfig(img_size=8, patch_size=4, in_chans=1, embed_dim=8, depth=2, num_heads=2, num_classes=None)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Recipe:
    folder = tmp_path_factory.mktemp("preflight")
    images = np.zeros((24, 8, 8), dtype=np.uint8)
    labels = np.arange(24) % 3
    arrays: dict[str, Any] = {
        "train_images": images,
        "val_images": images,
        "val_labels": labels,
        "classes": ["a", "b", "c"],
    }
    np.savez(folder / "data.npz", train_labels=labels, **arrays)
    unlabelled: dict[str, Any] = {name: value for name, value in arrays.items() if name != "classes"}
    unlabelled["val_labels"] = np.full(24, -1)
    np.savez(folder / "unlabelled.npz", **unlabelled)
    students.save(replace(CONFIG, num_classes=3).build(), folder / "teacher")
    return Recipe(
        student=CONFIG,
        teacher=Teacher(name=str(folder / "teacher")),
        data=Arrays(path=str(folder / "data.npz")),
        losses={"labels": CrossEntropy(), "soft": SoftTargets(), "hint": Hint(pairs=((0, 1),))},
        optim=Optim(epochs=2, batch_size=8, warmup_epochs=0),
    )


def test_a_recipe_that_fits_gets_its_classes_and_steps(recipe):
    plan = check(recipe, processes=2, accumulate=2)
    assert plan.recipe.student.num_classes == 3
    assert plan.classes == ("a", "b", "c")
    assert (plan.layout.part, plan.layout.steps) == (2, 6)
    assert plan.objective.teacher_layers == [1]
    assert plan.objective.student_layers == [0]


def test_a_class_map_gives_the_teacher_the_datas_classes(recipe, tmp_path):
    file = tmp_path / "map.json"
    file.write_text('{"a": 7, "b": "n01440764", "c": ["tiger shark", 980]}')
    mapped = replace(recipe, teacher=Teacher(name="test_resnet", img_size=32, class_map=str(file)))
    plan = check(mapped)
    assert plan.teacher is not None
    assert (plan.teacher.num_classes, plan.teacher.embedding) == (3, 96)
    with pytest.raises(
        ValueError, match=r"student has 3 classes but the teacher has 1000; .*--teacher\.class-map FILE"
    ):
        check(replace(mapped, teacher=replace(mapped.teacher, class_map=None)))


def test_the_students_start_is_a_function_of_the_seed(recipe):
    def start(seed):
        torch.rand(7)  # something else was drawn before
        return check(replace(recipe, seed=seed)).objective.student.state_dict()["head.weight"]

    assert torch.equal(start(0), start(0))
    assert not torch.equal(start(0), start(1))


def test_a_loss_of_weight_0_costs_nothing(recipe):
    plan = check(replace(recipe, losses=recipe.losses | {"hint": Hint(weight=0.0, pairs=((77, 77),))}))
    assert plan.objective.student_layers == plan.objective.teacher_layers == []
    assert sum(p.numel() for p in plan.objective.projections.parameters()) == 0


def optim(**changes):
    return lambda recipe: replace(recipe, optim=replace(recipe.optim, **changes))


def student(**changes):
    return lambda recipe: replace(recipe, student=replace(recipe.student, **changes))


def losses(**changes):
    return lambda recipe: replace(recipe, losses=changes)


def teacher(**changes):
    return lambda recipe: replace(recipe, teacher=replace(recipe.teacher, **changes))


def views(**changes):
    return lambda recipe: replace(recipe, views=replace(recipe.views, **changes))


def unlabelled(recipe):
    return replace(recipe, data=Arrays(path=recipe.data.path.replace("data.npz", "unlabelled.npz")))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (student(num_classes=5), "student has 5 classes but the data has 3; use --student.num-classes 3"),
        (losses(hint=Hint(pairs=((5, 0),)), labels=CrossEntropy()), "loss 'hint': in the student, there is no layer 5"),
        (losses(hint=Hint(pairs=((0, 9),)), labels=CrossEntropy()), "loss 'hint': in the teacher, there is no layer 9"),
        (losses(hint=Hint(pairs=((0, 0),))), "no loss trains the student's class head"),
        (
            losses(hard=HardTargets(head="token")),
            "loss 'hard': it reads the distillation token but",
        ),
        (losses(labels=CrossEntropy()), "has a teacher but no loss reads it"),
        (losses(), "has a teacher but no loss reads it"),
        (unlabelled, "loss 'labels' reads labels but the training images have none"),
        (optim(batch_size=7), "batch_size 7 does not divide among 2 processes × 1 accumulation steps"),
        (optim(batch_size=32), "a batch takes 32 images but there are 24 to train on"),
        (optim(epochs=0), "optim.epochs is 0; use 1 or more"),
        (optim(lr=1e-6), "optim.min_lr is 1e-05 and optim.lr 1e-06; use --optim.min-lr 1e-06 or less"),
        (optim(warmup_epochs=3), "optim.warmup_epochs is 3 but the run has 2 epochs"),
        (optim(lr=0.0), "optim.lr is 0.0; use a number above 0"),
        (optim(weight_decay=float("nan")), "optim.weight_decay is nan; use 0 or more"),
        (optim(betas=(1.0, 2.0)), "optim.betas are (1.0, 2.0)"),
        (optim(clip_grad=-1.0), "optim.clip_grad is -1.0; use a number above 0"),
        (losses(labels=CrossEntropy(weight=-1.0)), "losses.labels.weight is -1.0; use 0 or more"),
        (losses(labels=CrossEntropy(smoothing=2.0), soft=SoftTargets()), "loss 'labels': smoothing is 2.0"),
        (views(scale=(2.0, 3.0)), "views.scale is (2.0, 3.0)"),
        (views(hflip=2.0), "views.hflip is 2.0; use a probability"),
        (views(mixup=-1.0), "views.mixup is -1.0; use 0 or more"),
        (views(repeats=0), "views.repeats is 0; use 1 or more"),
        (views(repeats=5), "views.repeats is 5 but a batch of 8 then shows one image alone; use at most 4"),
        (
            lambda r: replace(r, views=Views(repeats=2), losses={**r.losses, "crd": CRD()}),
            "loss 'crd' remembers each image once a step but views.repeats shows it 2 times; use --views.repeats 1",
        ),
        (views(crop_pct=0.0), "views.crop_pct is 0.0"),
        (views(img_size=0), "views.img_size is 0"),
        (teacher(fit_images=0), "teacher.fit_images is 0; use 20 or more"),
        (optim(ema_decay=1.0), "optim.ema_decay is 1.0; use a number between 0 and 1"),
        (teacher(name="resnet18"), "student has 3 classes but the teacher has 1000"),
        (teacher(name="resnet18", class_map="nowhere.json"), "nowhere.json cannot be read"),
        (teacher(name="resnet18", class_map="names"), "gives 'a' the name 'a', which 'resnet18' does not have"),
        (teacher(class_map="names", head="fit"), "--teacher.class-map maps its own; use one"),
        (teacher(calibrate=True), "teacher.calibrate fits the temperature of a fitted head"),
        (teacher(name="reznet18"), "resnet18"),
        (teacher(name="no/such/folder"), "no/such/folder"),
        (teacher(runtime="tensorrt"), "teacher.runtime tensorrt: torch_tensorrt is not installed; pip install"),
        (lambda r: replace(r, views=Views(mixup=0.8), optim=replace(r.optim, batch_size=6)), "mix pairs but a process"),
        (views(auto_augment="autumn"), "timm takes no views.auto_augment 'autumn'"),
        (lambda r: replace(r, data=Arrays(path="none.npz")), "/none.npz; name an .npz file"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(recipe, change, message):
    with pytest.raises(ValueError, match=re.escape(message)) as refusal:
        check(change(recipe), processes=2)
    assert "\n" not in str(refusal.value)


def test_a_token_that_no_loss_trains_is_refused(recipe):
    distilled = replace(recipe, student=replace(recipe.student, distilled=True))
    assert check(distilled).objective.student.config.distilled  # the soft targets go to the token
    with pytest.raises(ValueError, match="no loss trains the student's distillation token"):
        check(replace(distilled, losses={"labels": CrossEntropy(), "soft": SoftTargets(head="class")}))
    with pytest.raises(ValueError, match="no loss trains the student's class head"):
        check(replace(distilled, losses={"soft": SoftTargets()}))


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"cannot be written .* choose another with --out"):
        check_folder(tmp_path / "file" / "run")
    check_folder(tmp_path / "new" / "run")
    assert list((tmp_path / "new" / "run").iterdir()) == []


def test_a_loss_that_compares_images_needs_enough_of_them_at_once(recipe):
    losses = {"labels": CrossEntropy(), "rkd": RKD()}
    one = replace(recipe, losses=losses, optim=replace(recipe.optim, batch_size=4))
    check(one)
    check(one, processes=2)  # two each, but gathered
    with pytest.raises(ValueError, match=r"loss 'rkd' compares images with each other and is given 2 at a time; it "):
        check(one, accumulate=2)
    alone = replace(one, losses=losses | {"rkd": RKD(gather=False)})
    with pytest.raises(ValueError, match=r"3 or more: use a larger --optim\.batch-size, or --losses\.rkd\.weight 0"):
        check(alone, processes=2)


def test_a_schedule_outside_the_run_is_refused(recipe):
    soft = SoftTargets(schedule=Schedule(name="decay", over=1.5))
    with pytest.raises(ValueError, match=r"losses\.soft\.schedule\.over is 1\.5; use a share of the run, above 0 to 1"):
        check(replace(recipe, losses=recipe.losses | {"soft": soft}))


def test_a_loss_is_told_the_number_of_training_images(recipe):
    plan = check(replace(recipe, losses=recipe.losses | {"crd": CRD(dim=4)}))
    assert {name: tuple(b.shape) for name, b in plan.objective.named_buffers() if "memory" in name} == {
        "projections.crd.memory_s": (24, 4),
        "projections.crd.memory_t": (24, 4),
    }


def test_the_summary_has_a_row_for_every_pair(recipe):
    from rich.console import Console

    from distill.summary import pairs_table

    shown = Console(width=100, record=True, quiet=False, file=StringIO())
    table = pairs_table(check(replace(recipe, losses=recipe.losses | {"crd": CRD(dim=4)})))
    assert table is not None
    shown.print(table)
    assert [line.split() for line in shown.export_text().splitlines()[1:]] == [
        ["hint", "0:", "8×2×2", "1:", "8×2×2", "1×1", "convolution", "none"],
        ["crd", "embedding:", "8", "embedding:", "8", "linear", "to", "4,", "both", "none"],
    ]
    assert pairs_table(check(replace(recipe, losses={"soft": SoftTargets()}))) is None


def test_a_teacher_with_the_datas_classes_in_another_order_is_refused(recipe, tmp_path):
    # Its logits would be of other classes than the labels, without an error.
    turned = students.save(replace(CONFIG, num_classes=3).build(), tmp_path / "turned", label_names=("c", "b", "a"))
    other = replace(recipe, teacher=Teacher(name=str(turned)))
    with pytest.raises(ValueError, match="your classes in another order: its class 0 is 'c', yours 'a'; use --teacher"):
        check(other)
    check(replace(recipe, teacher=Teacher(name=str(turned), class_map="names")))
    check(replace(recipe, teacher=Teacher(name=str(turned), head="fit")))


def test_several_processes_may_look_at_a_run_folder_at_once(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(check_folder, [tmp_path / "run"] * 400))
    assert list((tmp_path / "run").iterdir()) == []


def test_a_data_set_of_ones_own_may_name_classes_in_a_list_and_needs_images_to_validate_on(recipe):
    class Own:
        def __init__(self):
            self.classes = ["black", "white"]

        def train(self, images: int = 64):
            return [(Image.new("L", (28, 28), 255 * (i % 2)), i % 2) for i in range(images)]

        def val(self):
            return self.train(0)

        def fingerprint(self):
            return "own"

    small = replace(recipe.student, num_classes=None, img_size=[28, 28])
    own = replace(recipe, data=Own(), student=small, teacher=None, losses={"labels": CrossEntropy()})
    with pytest.raises(ValueError, match="there are no images to validate on"):
        check(own)
    Own.val = lambda self: self.train(8)
    plan = check(replace(own, views=replace(recipe.views, img_size=[32, 30])))
    assert (plan.classes, plan.recipe.view_size, plan.recipe.student.img_size) == (
        ("black", "white"),
        (32, 30),
        (28, 28),
    )
