"""A teacher of other classes answers for ours through a map; what does not fit is named."""

import json
from pathlib import Path

import pytest
import timm
import torch

from teachers import Head, Teacher
from teachers.classmap import ClassMap
from teachers.classnames import class_names


def test_probabilities_of_a_group_add_up_and_the_rest_is_renormalised() -> None:
    logits = torch.tensor([[0.1, 0.2, 0.3, 0.15, 0.25]]).log()
    mapped = ClassMap([[2], [4, 0]])(logits)
    torch.testing.assert_close(mapped.exp(), torch.tensor([[0.3, 0.35]]))
    torch.testing.assert_close(mapped.softmax(-1), torch.tensor([[0.3 / 0.65, 0.35 / 0.65]]))


def test_a_subset_is_picked_exactly() -> None:
    logits = torch.randn(4, 1000)
    assert torch.equal(ClassMap([[7], [0], [999]])(logits), logits[:, [7, 0, 999]])


def test_a_file_names_classes_by_index_synset_or_description(tmp_path: Path) -> None:
    names = class_names(timm.create_model("test_resnet"))
    file = tmp_path / "map.json"
    file.write_text(json.dumps({"fish": "n01440764", "cat": [281, "tiger cat"], "shark": "tiger shark"}))
    read = ClassMap.read(str(file), classes=("cat", "fish", "shark"), num_teacher_classes=1000, teacher_names=names)
    assert read.groups == ((281, 282), (0,), (3,))


def test_imagenet_21k_is_known_by_synsets() -> None:
    with torch.device("meta"):
        names = class_names(timm.create_model("vit_tiny_patch16_224.augreg_in21k"))
    assert len(names[0]) == 21843
    subset = ClassMap.read("names", classes=("n01440764", "n02123045"), num_teacher_classes=21843, teacher_names=names)
    assert [list(names[0])[index] for (index,) in subset.groups] == ["n01440764", "n02123045"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"cat": 1}', "has no entry for 'dog'; give each of your classes one"),
        ('{"cat": 1, "dgo": 2}', r"has no entry for 'dog' \(did you mean 'dgo'\?\)"),
        ('{"cat": 1, "dog": 2, "cow": 3}', "has entries for 'cow', which are no classes of the data"),
        ('{"cat": 1, "dog": 5}', "gives 'dog' class 5 but 'resnet' has 5 classes; use 0 to 4"),
        ('{"cat": 1, "dog": -1}', "gives 'dog' class -1"),
        ('{"cat": 1, "dog": "begle"}', r"the name 'begle', which 'resnet' does not have \(did you mean 'beagle'\?\)"),
        ('{"cat": 1, "dog": "zzzzzz"}', "'resnet' does not have; use one of its names or an index, 0 to 4"),
        ('{"cat": 1, "dog": [2, 1]}', "uses class 1 of 'resnet' for 'cat' and again for 'dog'"),
        ('{"cat": 1, "dog": [2, 2]}', "uses class 2 of 'resnet' for 'dog' and again for 'dog'"),
        ('{"cat": 1, "dog": []}', "gives 'dog' an empty list"),
        ('{"cat": 1, "dog": 2.5}', "gives 'dog' 2.5; use an index, a name, or a list"),
        ("[1, 2]", 'holds a list; it is an object such as {"cat"'),
        ("cat: 1", "is no JSON"),
        ('{"cat": 1, "dog": 2, "cat": 3}', r"is no JSON \('cat' has two entries\)"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "map.json"
    file.write_text(content)
    with pytest.raises(ValueError, match=message) as refusal:
        ClassMap.read(
            str(file),
            classes=("cat", "dog"),
            num_teacher_classes=5,
            teacher_names=({"beagle": 0, "siamese": 1},),
            teacher="'resnet'",
        )
    assert "\n" not in str(refusal.value)


def test_without_names_of_either_side() -> None:
    with pytest.raises(ValueError, match="unlabelled images have none"):
        ClassMap.read("map.json", classes=(), num_teacher_classes=5)
    with pytest.raises(ValueError, match="the teacher carries no names of its 5 classes; use indices, 0 to 4"):
        ClassMap.read("names", classes=("a",), num_teacher_classes=5)
    with pytest.raises(ValueError, match="cannot be read"):
        ClassMap.read("nowhere.json", classes=("a",), num_teacher_classes=5)


def test_a_mapped_teacher_answers_for_our_classes_only(tmp_path: Path) -> None:
    file = tmp_path / "map.json"
    file.write_text('{"fish": ["n01440764", 1], "cat": 281, "dog": "beagle"}')
    config = Teacher(name="test_resnet", img_size=32, class_map=str(file), runtime="eager")
    teacher = config.build(class_map=config.mapped(("cat", "dog", "fish")), pretrained=False)
    assert (teacher.num_classes, teacher.shapes.num_classes) == (3, 3)
    views = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        own = teacher.model(teacher.preprocess(views))
    said = teacher(views, (1,))
    by_hand = torch.stack([own[:, 281], own[:, 162], torch.logaddexp(own[:, 0], own[:, 1])], 1)
    torch.testing.assert_close(said.logits, by_hand)
    assert said.embedding is not None
    assert said.embedding.shape == (2, 96)  # as it is without a map
    with torch.autocast("cpu", torch.bfloat16):
        assert teacher(views).logits.isfinite().all()


def test_a_map_behind_a_fitted_head() -> None:
    head = Head(torch.randn(4, 96), torch.randn(4), l2=0.1, heldout_top1=0.5, heldout_nll=1.0)
    teacher = Teacher(name="test_resnet").build(head=head, class_map=ClassMap([[3], [0]]), pretrained=False)
    said = teacher(torch.rand(1, 3, 32, 32))
    assert said.embedding is not None
    torch.testing.assert_close(said.logits, head(said.embedding)[:, [3, 0]])


def test_the_path_is_kept_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Teacher(name="test_resnet", class_map="map.json").class_map == str(tmp_path / "map.json")
    assert Teacher(name="test_resnet", class_map="names").class_map == "names"
