"""What a fitted head is kept by: everything that the teacher's embedding of a view is a function of."""

import torch
from torch import nn

from distill import Arrays
from distill.compare.named import teacher_digest
from distill.recipe import Recipe
from distill.teaching import what_embeds
from students import ViTConfig
from students.preprocess import Preprocess
from teachers import Teacher

CONFIG = ViTConfig(img_size=8, patch_size=4, embed_dim=8, depth=1, num_heads=2, num_classes=3)


def test_a_head_is_kept_by_weights_modules_size_and_statistics(tmp_path):
    import students

    torch.manual_seed(0)
    folder = students.save(CONFIG.build(), tmp_path / "teacher")

    def key(**changes):
        teacher = Teacher(name=str(folder)).build()
        for name, value in changes.items():
            setattr(teacher, name, value)
        return str(what_embeds(teacher, changes.get("classifier")))

    other = Teacher(name=str(folder)).build().model
    other.norm = nn.LayerNorm(8, eps=1e-3)  # the same weights, another epsilon
    keys = [
        key(),
        key(preprocess=Preprocess((8, 8), (0.9,) * 3, (0.5,) * 3)),
        key(preprocess=Preprocess((8, 8), (0.5,) * 3, (0.1,) * 3)),
        key(preprocess=Preprocess((16, 16), (0.5,) * 3, (0.5,) * 3)),
        key(model=other),
        key(classifier="head"),
    ]
    assert len(set(keys)) == len(keys)
    assert key() == keys[0]


def test_teachers_that_only_run_otherwise_are_measured_once(tmp_path):
    def digest(**teacher):
        recipe = Recipe(student=CONFIG, data=Arrays(path="images.npz"), teacher=Teacher(name="resnet18", **teacher))
        return teacher_digest(recipe, tmp_path)

    assert digest(runtime="eager") == digest(runtime="onnxruntime")
    assert digest() != digest(img_size=64)
    before = digest()
    (tmp_path / "teacher_head.safetensors").write_bytes(b"another head")
    assert digest() != before
