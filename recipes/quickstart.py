"""Distil a real ImageNet teacher into a small ViT, offline, in minutes on a laptop's CPU.

accelerate launch recipes/quickstart.py

accelerate launch recipes/quickstart.py --alone (the same student without a teacher)

Teacher: EfficientNet-Lite0 with its ImageNet weights and a head fitted on the data's ten classes.
Student: a ViT of 6 blocks × 96 from scratch. Data: 12,000 + 4,000 images of Fashion-MNIST, 28 px, in this folder.

Hardware: two CPU cores do. We know of no published result of this student.

Measured on 2 CPU cores: top-1 83.0 % (mean of seeds 0 to 2), alone 72.2 %, teacher 87.0 %; 4 to 8 minutes.
"""

from pathlib import Path

from distill import Arrays, Optim, Recipe, Views, run
from distill.losses import CrossEntropy, Hint, SoftTargets
from students import ViTConfig
from teachers import Teacher

recipe = Recipe(
    student=ViTConfig(
        img_size=28,
        patch_size=4,
        in_chans=1,
        num_classes=10,
        embed_dim=96,
        depth=6,
        num_heads=3,
        mean=(0.286,),
        std=(0.353,),
    ),
    teacher=Teacher(name="tf_efficientnet_lite0", img_size=112, head="fit", fit_images=8_000),
    data=Arrays(path=str(Path(__file__).resolve().parent / "data" / "fashion_mnist.npz")),
    views=Views(scale=(0.6, 1.0), ratio=(0.9, 1.1), crop_pct=1.0),
    losses={
        "labels": CrossEntropy(weight=0.5),
        "soft": SoftTargets(weight=0.5, temperature=1.0),
        "hint": Hint(weight=4.0, pairs=((3, 3), (4, 4))),  # not the last block, most of which is then not computed
    },
    optim=Optim(epochs=4, batch_size=64, lr=2e-3, min_lr=1e-5, warmup_epochs=0.5),
)

if __name__ == "__main__":
    run(recipe)
