"""ViT-S from a ViT on CIFAR-100: locality guidance and soft targets.

accelerate launch recipes/cifar100/vit_small_vit.py --data.download

Hardware: meant for one GPU. On a CPU: --student.img-size 32 --student.patch-size 4 --teacher.img-size 128
Teacher: DeiT III-B of ImageNet with a head fitted on CIFAR-100; the same three of its blocks guide blocks 0, 6 and 11.
The schedule, the stochastic depth and the guidance are published (arXiv:2207.10026) for a DeiT-Ti on CIFAR-100;
DeiT's views, the teacher and the half for its soft targets are ours.
A better teacher: python -m distill teacher fine-tune recipes/cifar100/vit_small_vit.py --out runs/teacher, and then
--teacher.name runs/teacher --teacher.head own

We know of no published result of this student with these settings. Not yet measured here.
"""

from distill import Recipe, Torchvision, run
from distill.settings import DEIT_VIEWS, LOCALITY_OPTIM, deit_student, half_and_half, locality_hint
from students import VIT_SMALL
from teachers import Teacher

recipe = Recipe(
    student=deit_student(VIT_SMALL.override(num_classes=100)),
    teacher=Teacher(name="deit3_base_patch16_224.fb_in22k_ft_in1k", head="fit", fit_images=50_000),
    data=Torchvision(name="CIFAR100", root="data"),
    views=DEIT_VIEWS,
    losses=half_and_half(smoothing=0.1) | {"hint": locality_hint(0, 6, 11)},
    optim=LOCALITY_OPTIM,
)

if __name__ == "__main__":
    run(recipe)
