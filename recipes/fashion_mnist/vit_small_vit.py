"""A small ViT from a ViT on Fashion-MNIST: locality guidance and soft targets.

accelerate launch recipes/fashion_mnist/vit_small_vit.py --data.download

--data.root FOLDER takes the four .gz files where they are already, as in Debian's dataset-fashion-mnist.
Hardware: meant for one GPU. Student: 9 blocks × 192, 4.02 M parameters, for 28 px in patches of 4.
Teacher: DeiT III-S of ImageNet at 112 px with a head fitted on Fashion-MNIST; three blocks guide three blocks
of the student (arXiv:2207.10026, whose weight 2.5 this is). The sizes, the schedule and the views are ours.

We know of no published result of this student with these settings. Not yet measured here.
"""

from distill import Recipe, Torchvision, run
from distill.losses import Hint
from distill.settings import FASHION_OPTIM, FASHION_SMALL, FASHION_VIEWS, LOCALITY_WEIGHT, half_and_half
from teachers import Teacher

recipe = Recipe(
    student=FASHION_SMALL,
    teacher=Teacher(name="deit3_small_patch16_224.fb_in22k_ft_in1k", img_size=112, head="fit"),
    data=Torchvision(name="FashionMNIST", root="data"),
    views=FASHION_VIEWS,
    losses=half_and_half() | {"hint": Hint(weight=LOCALITY_WEIGHT, pairs=((0, 0), (4, 6), (8, 11)))},
    optim=FASHION_OPTIM,
)

if __name__ == "__main__":
    run(recipe)
