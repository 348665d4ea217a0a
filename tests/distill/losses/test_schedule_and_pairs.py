"""Schedules by hand, and what the names of layers mean."""

import pytest

from distill.losses import OFA, Hint, Manifold, Pair, Schedule
from distill.losses.pairs import resolve
from students import Shapes

STUDENT = Shapes(10, False, 6, dict.fromkeys(range(12), (6, 7, 7)))
TEACHER = Shapes(10, False, 8, {0: (4, 14, 14), 1: (8, 7, 7), 2: (16, 4, 9)})


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        (Schedule(), [1, 1, 1, 1]),
        (Schedule(name="warmup", over=0.5), [0, 0.5, 1, 1]),
        (Schedule(name="decay", over=0.5), [1, 0.5, 0, 0]),
        (Schedule(name="decay"), [1, 0.75, 0.5, 0]),
    ],
)
def test_factors_by_hand(schedule, factors):
    assert [schedule.factor(progress) for progress in (0.0, 0.25, 0.5, 1.0)] == factors


def test_layers_are_indices_from_either_end_or_fractions_of_the_depth():
    found = resolve(((0, 0), (-1, -1), (0.25, 0.34), (1.0, 1)), STUDENT, TEACHER)
    assert [(pair.student, pair.teacher) for pair in found] == [(0, 0), (11, 2), (2, 0), (11, 1)]


def test_a_pair_says_what_happens_to_its_grids():
    pairs = resolve(((0, 0), (0, 1), (0, 2)), STUDENT, TEACHER)
    assert [pair.size for pair in pairs] == [(7, 7), (7, 7), (4, 7)]
    assert [pair.columns() for pair in pairs] == [
        ("0: 6×7×7", "0: 4×14×14", "none", "teacher to 7×7"),
        ("0: 6×7×7", "1: 8×7×7", "none", "none"),
        ("0: 6×7×7", "2: 16×4×9", "none", "student to 4×7, teacher to 4×7"),
    ]
    own = Pair(student=None, teacher=None, student_shape=(6,), teacher_shape=(8,), projection="linear")
    assert own.columns() == ("embedding: 6", "embedding: 8", "linear", "none")


def test_manifolds_default_pairs_are_the_papers():
    found = resolve(Manifold().pairs, STUDENT, STUDENT)
    assert [pair.student for pair in found] == [0, 1, 2, 3, 8, 9, 10, 11]
    assert [pair.teacher for pair in found] == [0, 1, 2, 3, 8, 9, 10, 11]


def test_ofas_default_layers_are_the_papers_and_each_has_one_branch():
    assert [pair.student for pair in OFA().bind(STUDENT, TEACHER).pairs] == [1, 3, 9, 11]
    shallow = Shapes(10, False, 6, dict.fromkeys(range(4), (6, 7, 7)))
    assert [pair.student for pair in OFA().bind(shallow, TEACHER).pairs] == [0, 2, 3]


def test_a_layer_that_does_not_exist_is_named_with_its_model():
    with pytest.raises(ValueError, match="in the student, there is no layer 12; it has 12 layers, 0 to 11"):
        Hint(pairs=((12, 0),)).bind(STUDENT, TEACHER)
    with pytest.raises(ValueError, match="in the teacher, there is no layer 3; it has 3 layers, 0 to 2"):
        Manifold(pairs=((0, 3),)).bind(STUDENT, TEACHER, 100)
    with pytest.raises(ValueError, match="the last four blocks and the teacher has 3 layers; name pairs"):
        Manifold().bind(STUDENT, TEACHER, 100)
    with pytest.raises(ValueError, match="name student layer 11 with teacher layer 2 twice"):
        Hint(pairs=((-1, -1), (1.0, 2))).bind(STUDENT, TEACHER)
    with pytest.raises(ValueError, match=r"in the teacher, layer 1\.5 is no fraction of the depth"):
        Hint(pairs=((0, 1.5),)).bind(STUDENT, TEACHER)
