"""ViT-Ti from a CNN on ImageNet-1k: DeiT's hard distillation through a distillation token.

accelerate launch recipes/imagenet/vit_tiny.py --data.root PATH

PATH holds train/ and val/ with one folder a class. Hardware: meant for 8 GPUs in bf16; one takes
--gradient_accumulation_steps 2 where its memory is short. Teacher: RegNetY-16GF (82.9 % as published). All of
DeiT's settings (arXiv:2012.12877), repeated augmentation included.

Published: 74.5 % top-1 after these 300 epochs, 72.2 % without a teacher. Not yet measured here.
"""

from distill import Folder, Recipe, run
from distill.settings import DEIT_HARD, DEIT_OPTIM, DEIT_REPEATED_VIEWS, deit_student
from students import VIT_TINY
from teachers import Teacher

recipe = Recipe(
    student=deit_student(VIT_TINY, distilled=True),
    teacher=Teacher(name="regnety_160.deit_in1k"),
    data=Folder(root="imagenet"),
    views=DEIT_REPEATED_VIEWS,
    losses=DEIT_HARD,
    optim=DEIT_OPTIM,
)

if __name__ == "__main__":
    run(recipe)
