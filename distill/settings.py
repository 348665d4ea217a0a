"""Training settings that several recipes share, each written once: published ones with their source, and ours."""

from __future__ import annotations

from dataclasses import replace

from distill.losses import CrossEntropy, HardTargets, Hint, Loss, SoftTargets
from distill.recipe import Optim
from distill.views import Views
from students.sizes import ViTConfig

# DeiT, Touvron et al. 2021 (arXiv:2012.12877), table 9; the same for every size. 1e-3 is its 5e-4 · 1024 / 512.
# Its colour jitter of 0.3 has no effect beside RandAugment in timm either. Its moving average of the weights (0.99996)
# is not the model that the paper reports.
DEIT_DROP_PATH = 0.1
DEIT_OPTIM = Optim(
    epochs=300, batch_size=1024, lr=1e-3, min_lr=1e-5, warmup_lr=1e-6, warmup_epochs=5, weight_decay=0.05, eps=1e-8
)
DEIT_VIEWS = Views(
    auto_augment="rand-m9-mstd0.5-inc1",
    interpolation="bicubic",
    re_prob=0.25,
    re_mode="pixel",
    mixup=0.8,
    cutmix=1.0,
    mix_prob=1.0,
    mix_switch_prob=0.5,
    crop_pct=0.875,
)
DEIT_REPEATED_VIEWS = replace(DEIT_VIEWS, repeats=3)  # as on ImageNet
DEIT_LABELS = CrossEntropy(weight=1.0, smoothing=0.1)
# Half for the labels, half for the teacher's decisions, which the distillation token learns.
DEIT_HARD = {"labels": CrossEntropy(weight=0.5, smoothing=0.1), "hard": HardTargets(weight=0.5)}

# USI, Ridnik et al. 2022 (arXiv:2204.03475): the same logit losses for every student and teacher.
USI_SOFT = SoftTargets(weight=5.0, temperature=1.0)

# A good teacher is patient and consistent, Beyer et al. 2022 (arXiv:2106.05237), for ImageNet: soft targets alone, both
# models see one crop, mixed by a share drawn evenly from 0 to 1, which is Beta(1, 1). 1,200 of its 300 to 9,600 epochs.
PATIENT_EPOCHS = 1200
PATIENT_CLIP = 1.0
PATIENT_VIEWS = Views(scale=(0.05, 1.0), mixup=1.0)
PATIENT_LOSSES = {"soft": SoftTargets(weight=1.0, temperature=1.0)}

# Locality guidance, Li et al. 2022 (arXiv:2207.10026), for a DeiT-Ti on CIFAR-100: labels, and hints at the first, the
# middle and the last block. The two small learning rates are those of the authors' code.
LOCALITY_OPTIM = Optim(
    epochs=300, batch_size=128, lr=5e-4, min_lr=5e-6, warmup_lr=5e-7, warmup_epochs=20, weight_decay=0.05
)
LOCALITY_BLOCKS = (0, 6, 11)
LOCALITY_WEIGHT = 2.5

# Ours. Fashion-MNIST is 28 px and grey, so ViT-Ti's and ViT-S's 12 blocks of 16 px patches would be mostly idle; the
# tiny one, its views and its learning rate are the quickstart's, which were measured there.
FASHION_TINY = ViTConfig(
    img_size=28,
    patch_size=4,
    in_chans=1,
    num_classes=10,
    embed_dim=96,
    depth=6,
    num_heads=3,
    mean=(0.286,),
    std=(0.353,),
)
FASHION_SMALL = FASHION_TINY.override(embed_dim=192, depth=9, drop_path_rate=0.1)
FASHION_VIEWS = Views(scale=(0.6, 1.0), ratio=(0.9, 1.1), crop_pct=1.0)
FASHION_OPTIM = Optim(epochs=60, batch_size=64, lr=2e-3, min_lr=1e-5, warmup_epochs=1)


def half_and_half(*, smoothing: float = 0.0) -> dict[str, Loss]:
    """Half for the labels, half for the soft targets of a fitted head at temperature 1, as measured in the quickstart.

    Ours.
    """
    return {
        "labels": CrossEntropy(weight=0.5, smoothing=smoothing),
        "soft": SoftTargets(weight=0.5, temperature=1.0),
    }


def locality_hint(*teacher_layers: int) -> Hint:
    """The guidance of the three blocks by three layers of a teacher."""
    return Hint(weight=LOCALITY_WEIGHT, pairs=tuple(zip(LOCALITY_BLOCKS, teacher_layers, strict=True)))


def deit_student(size: ViTConfig, *, distilled: bool = False) -> ViTConfig:
    """A size with DeiT's stochastic depth and, if distilled, its distillation token."""
    return size.override(drop_path_rate=DEIT_DROP_PATH, distilled=distilled)
