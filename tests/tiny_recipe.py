"""A recipe that takes seconds, with all that a resume can get wrong: mixing, erasing, drop-path, EMA, a memory."""

from distill import Arrays, Optim, Recipe, Views, run
from distill.losses import CRD, DIST, CrossEntropy, HardTargets, Hint, Schedule
from students import ViTConfig
from teachers import Teacher

recipe = Recipe(
    student=ViTConfig(
        img_size=28,
        patch_size=7,
        in_chans=1,
        num_classes=10,
        embed_dim=16,
        depth=2,
        num_heads=2,
        distilled=True,
        drop_path_rate=0.1,
    ),
    teacher=Teacher(name="given on the command line", runtime="eager"),
    data=Arrays(path="given on the command line"),
    views=Views(scale=(0.5, 1.0), mixup=0.8, cutmix=1.0, re_prob=0.25, crop_pct=1.0),
    losses={
        "labels": CrossEntropy(weight=0.5, smoothing=0.1),
        "hard": HardTargets(),
        "hint": Hint(weight=1.0),
        "dist": DIST(schedule=Schedule(name="decay")),
        "crd": CRD(weight=0.1, negatives=32, dim=8),
    },
    optim=Optim(epochs=4, batch_size=64, lr=2e-3, warmup_epochs=1, clip_grad=1.0, ema_decay=0.95),
)

if __name__ == "__main__":
    run(recipe)
