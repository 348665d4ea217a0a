"""ViT-S from a large CNN on ImageNet-1k without labels: a patient and consistent teacher.

accelerate launch recipes/imagenet/patient.py --data.root PATH

PATH holds train/ and val/ with one folder a class; training reads no label, validation does. Hardware: meant for
several nodes of 8 GPUs in bf16. Teacher: the BiT-R152x2 of Beyer et al. 2022 (arXiv:2106.05237) at 224 px. Theirs are
the crops, mixup, KL at temperature 1 alone, clipping at 1 and 1,200 epochs; the ViT and DeiT's AdamW for it are ours.

Published for a ResNet-50 student: 82.8 % top-1 after 9,600 epochs. Not yet measured here.
"""

from dataclasses import replace

from distill import Folder, Recipe, run
from distill.settings import (
    DEIT_OPTIM,
    PATIENT_CLIP,
    PATIENT_EPOCHS,
    PATIENT_LOSSES,
    PATIENT_VIEWS,
    deit_student,
)
from students import VIT_SMALL
from teachers import Teacher

recipe = Recipe(
    student=deit_student(VIT_SMALL),
    teacher=Teacher(name="resnetv2_152x2_bit.goog_teacher_in21k_ft_in1k"),
    data=Folder(root="imagenet"),
    views=PATIENT_VIEWS,
    losses=PATIENT_LOSSES,
    optim=replace(DEIT_OPTIM, epochs=PATIENT_EPOCHS, clip_grad=PATIENT_CLIP),
)

if __name__ == "__main__":
    run(recipe)
