"""Distil on a folder of images without labels: the student learns the teacher's classes from the teacher alone.

accelerate launch recipes/unlabelled.py --data.root PATH

A tenth of the images is set apart, on which the student's decisions and probabilities are compared with the teacher's.
With --data.val-root PATH, one folder a class, accuracy is measured instead. Not yet measured on a public data set.

Hardware: meant for one GPU. We know of no published result of these settings, which are ours.
On a CPU, start small: --student.img-size 96 --teacher.img-size 96 --student.depth 6 --optim.epochs 20
"""

from dataclasses import replace

from distill import Optim, Recipe, Unlabelled, Views, run
from distill.losses import Hint, SoftTargets
from students import VIT_TINY
from teachers import Teacher

recipe = Recipe(
    student=replace(VIT_TINY, num_classes=None, drop_path_rate=0.1),
    teacher=Teacher(name="tf_efficientnet_lite0"),
    data=Unlabelled(root="images"),
    # Teacher and student see the same mixed images, as Beyer et al. 2022 (arXiv:2106.05237) advise.
    views=Views(scale=(0.25, 1.0), mixup=0.8),
    losses={
        "soft": SoftTargets(weight=1.0, temperature=1.0),
        "hint": Hint(weight=2.0, pairs=((0.5, 3), (1.0, 4))),
    },
    optim=Optim(epochs=100, batch_size=64, lr=5e-4, warmup_epochs=None),
)

if __name__ == "__main__":
    run(recipe)
