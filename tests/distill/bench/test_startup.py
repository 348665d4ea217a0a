"""How long a start is waited for: a real launch until its first step, after which nothing of it is left."""

import psutil
import pytest

from distill.bench.startup import Startup, first_step
from tests.conftest import REPOSITORY, TINY


def test_a_launched_run_is_ended_after_its_first_step(world, monkeypatch):
    for name, value in world.environment(PYTHONPATH=str(REPOSITORY)).items():
        monkeypatch.setenv(name, value)
    before = set(psutil.Process().children(recursive=True))
    seconds = first_step([str(TINY), "--data.path", str(world.data), "--teacher.name", str(world.teacher)])
    assert seconds > 0
    left = [one for one in psutil.process_iter(["cmdline"]) if str(world.data) in (one.info["cmdline"] or [])]
    assert left == []
    assert set(psutil.Process().children(recursive=True)) <= before
    assert [path.name for path in world.folder.iterdir()] in ([], ["cache"])


@pytest.mark.parametrize("options", [{"rounds": 0}, {"launches": 0}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match="use 1 or more of each"):
        Startup(recipe=TINY, **options)([])
