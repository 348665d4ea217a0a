"""ViT-B from a ViT on ImageNet-1k: soft targets, and the teacher's first and last grids through ViTKD.

accelerate launch recipes/imagenet/vit_base_vit.py --data.root PATH

PATH holds train/ and val/ with one folder a class. Hardware: meant for 8 GPUs in bf16.
Teacher: DeiT III-L, pretrained on ImageNet-22k. DeiT's optimiser and views (arXiv:2012.12877), USI's
logit losses (arXiv:2204.03475) and ViTKD's grids (arXiv:2209.02432); the sum of these is ours.

Published with ViTKD + NKD from a DeiT III-L: 85.4 % top-1. Not yet measured here.
"""

from distill import Folder, Recipe, run
from distill.losses import ViTKD
from distill.settings import DEIT_LABELS, DEIT_OPTIM, DEIT_REPEATED_VIEWS, USI_SOFT, deit_student
from students import VIT_BASE
from teachers import Teacher

recipe = Recipe(
    student=deit_student(VIT_BASE),
    teacher=Teacher(name="deit3_large_patch16_224.fb_in22k_ft_in1k"),
    data=Folder(root="imagenet"),
    views=DEIT_REPEATED_VIEWS,
    losses={"labels": DEIT_LABELS, "soft": USI_SOFT, "vitkd": ViTKD()},
    optim=DEIT_OPTIM,
)

if __name__ == "__main__":
    run(recipe)
