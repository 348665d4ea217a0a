"""Distil on your own images: one folder a class, or train and val folders of them.

accelerate launch recipes/folder.py --data.root PATH

The classes are read from the folder, and the teacher's head is fitted on them. Without a val folder a tenth of each
class is set apart for validation. Epochs: 3,000,000 / number of training images, but 100 to 300, so 300 up to 10,000
images and 100 from 30,000 on; --optim.epochs N sets them. Not yet measured on a public data set.

Hardware: meant for one GPU. We know of no published result of these settings, which are ours.
On a CPU, start small: --student.img-size 96 --teacher.img-size 96 --student.depth 6 --optim.epochs 20

An image that cannot be read ends the run with its path; --data.on-bad skip lists it in bad_images.txt and goes on.
"""

from dataclasses import replace

from distill import Folder, Optim, Recipe, Views, run
from distill.losses import CrossEntropy, Hint, SoftTargets
from students import VIT_TINY
from teachers import Teacher

recipe = Recipe(
    student=replace(VIT_TINY, num_classes=None, drop_path_rate=0.1),
    teacher=Teacher(name="tf_efficientnet_lite0", head="fit"),
    data=Folder(root="images"),
    views=Views(scale=(0.25, 1.0), auto_augment="3a", color_jitter=0.3),
    losses={
        "labels": CrossEntropy(weight=0.5, smoothing=0.1),
        "soft": SoftTargets(weight=0.5, temperature=1.0),
        "hint": Hint(weight=2.0, pairs=((0.5, 3), (1.0, 4))),
    },
    optim=Optim(epochs=None, batch_size=64, lr=5e-4, warmup_epochs=None),
)

if __name__ == "__main__":
    run(recipe)
