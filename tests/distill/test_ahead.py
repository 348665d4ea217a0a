"""Looking ahead changes no bit, begins nothing beyond the end, and keeps what is on two streams in order."""

import json
import os
import shutil
import signal
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from distill import Arrays, Recipe, preflight
from distill.ahead import Ahead, check, streams_for, tensors_in
from distill.console import Console
from distill.losses import Address, Needs, SoftTargets
from distill.options import RunOptions
from distill.prepared import Prepared
from distill.saved.command import SaveOptions
from distill.saved.fit import checked
from distill.saved.reader import SavedOutputs
from distill.saved.saving import save
from distill.script import recipe_of
from distill.signals import Interrupted, Signals
from distill.teaching import make_teacher
from distill.train import train
from students.outputs import Outputs
from teachers import Custom, Teacher
from tests.conftest import TINY

pytestmark = pytest.mark.usefixtures("cpu_only")

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def recipe(tiny_images, tiny_teacher) -> Recipe:
    """The tests' recipe with everything in a student that draws, for 8 steps."""
    tiny = recipe_of(TINY)
    kinds = ("drop_path_rate", "drop_rate", "pos_drop_rate", "proj_drop_rate", "attn_drop_rate")
    return replace(
        tiny,
        student=replace(tiny.student, **dict.fromkeys(kinds, 0.1)),
        teacher=Teacher(name=str(tiny_teacher), runtime="eager"),
        data=Arrays(path=str(tiny_images)),
        optim=replace(tiny.optim, epochs=2, batch_size=160),
    )


class Asked:
    """Images that note which of them were asked for, and do something at the n-th."""

    def __init__(self, images: Any, at: int = -1, do: Any = None) -> None:
        self.images, self.asked, self.at, self.do = images, [], at, do

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        self.asked.append(index)
        if len(self.asked) == self.at:
            self.do()
        return self.images[index]


def run(recipe: Recipe, out: Path, *, overlap: bool, accumulate: int = 1, saved=None, at: int = -1, do=None, **how):
    """Weights, the lines of metrics.jsonl and how many images were asked for; what `do` raises ends the run early."""
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=accumulate)
    plan = preflight.check(recipe, accumulate=accumulate)
    console, layers = Console(main=False), plan.objective.teacher_layers
    teacher = None if saved else make_teacher(recipe, accelerator, console, layers=layers, head=None)
    if saved:
        plan = saved.shown_in(plan)
    images = Asked(plan.train, at, do)
    options = RunOptions(log_every_steps=1, checkpoint_every_steps=3, overlap=overlap)
    out.mkdir(exist_ok=True)
    weights = {}
    try:
        student = train(
            replace(plan, train=images), teacher, accelerator, out, options, console, workers=0, saved=saved, **how
        )
        weights = student.state_dict()
    except (Interrupted, OSError):
        pass
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return weights, [{k: v for k, v in line.items() if k != "seconds"} for line in lines], len(images.asked)


def assert_same(one, other) -> None:
    assert one[1] == other[1]
    assert one[0].keys() == other[0].keys()
    assert all(torch.equal(one[0][name], other[0][name]) for name in one[0])


@pytest.fixture(scope="module")
def plain(recipe, tmp_path_factory):
    """The run without looking ahead, by accumulation steps."""
    folder = tmp_path_factory.mktemp("plain")
    return {n: run(recipe, folder / str(n), overlap=False, accumulate=n) for n in (1, 2)}


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_run_that_looks_ahead_has_the_same_bits_and_asks_for_no_more_images(recipe, plain, tmp_path, accumulate):
    ahead = run(recipe, tmp_path / "run", overlap=True, accumulate=accumulate)
    assert_same(ahead, plain[accumulate])
    assert len([line for line in ahead[1] if "loss" in line]) == 8
    assert ahead[2] == plain[accumulate][2] == 8 * 160


def test_what_went_on_from_a_checkpoint_has_the_same_bits(recipe, plain, tmp_path):
    run(recipe, tmp_path / "run", overlap=True, accumulate=2)
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step_000000008")
    resumed = run(recipe, tmp_path / "run", overlap=True, accumulate=2)
    assert_same(resumed, plain[2])
    assert resumed[2] == 2 * 160  # after step 6


@pytest.mark.parametrize("overlap", [False, True])
def test_a_signal_ends_a_run_after_a_whole_step_and_it_goes_on_to_the_same_bits(recipe, plain, tmp_path, overlap):
    out = tmp_path / "run"
    # As the first image of step 5 is loaded: before the step is taken, or while the one before it is not over.
    told = lambda: os.kill(os.getpid(), signal.SIGTERM)  # noqa: E731
    with Signals() as signals:
        stopped = run(recipe, out, overlap=overlap, accumulate=2, at=4 * 160 + 1, do=told, signals=signals)
    steps = [line["step"] for line in stopped[1] if "loss" in line]
    assert steps == list(range(1, 5 if overlap else 6))
    assert (out / "checkpoints" / f"step_{steps[-1]:09d}").is_dir()
    assert stopped[2] == len(steps) * 160 + (80 if overlap else 0)  # one micro-batch ahead, and no more
    assert_same(run(recipe, out, overlap=overlap, accumulate=2), plain[2])


def test_a_replay_and_a_rehearsal_ask_for_no_image_behind_their_last_step(recipe, plain, tmp_path):
    stopped = run(recipe, tmp_path / "run", overlap=True, accumulate=2, stop_step=3)
    assert stopped[1] == plain[2][1][:3]
    assert stopped[2] == 3 * 160


@pytest.mark.parametrize("overlap", [False, True])
def test_an_image_that_fails_ends_the_run_after_the_steps_before_it(recipe, plain, tmp_path, overlap):
    def fail() -> None:
        raise OSError("the disk is gone")

    failed = run(recipe, tmp_path / "run", overlap=overlap, at=3 * 160 + 1, do=fail)
    assert failed[1] == plain[1][1][:3]
    assert (tmp_path / "run" / "checkpoints" / "step_000000003").is_dir()


def test_saved_outputs_read_ahead_have_the_same_bits(recipe, tmp_path):
    losses = {name: recipe.losses[name] for name in ("labels", "hard", "dist")}
    of_logits = replace(recipe, losses=losses)
    save(of_logits, SaveOptions(threads=1, workers=0, out=str(tmp_path / "saved"), dtype="float32", k="all"), "saved")
    runs = []
    for overlap in (False, True):
        folder = tmp_path / "saved"
        outputs = SavedOutputs(folder, checked(folder, preflight.check(of_logits)), CPU, verify=True)
        runs.append(run(of_logits, tmp_path / f"run{overlap}", overlap=overlap, saved=outputs))
    assert_same(*runs)


class Noisy(torch.nn.Module):
    """A module that draws in torch's own way, even as a frozen one."""

    def __init__(self) -> None:
        super().__init__()
        self.flat, self.head = torch.nn.Flatten(), torch.nn.Linear(28 * 28, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.flat(x + torch.rand_like(x)))


@dataclass(frozen=True, kw_only=True)
class Noise:
    """A loss that draws in torch's own way."""

    weight: float = 1.0
    needs = Needs(head="class", teacher=False)

    def bind(self, student: Any, teacher: Any) -> Any:
        return lambda student, teacher, labels: (student.logits * torch.rand_like(student.logits)).square().mean()


def noisy() -> Noisy:
    return Noisy()


def test_what_draws_from_torchs_global_state_draws_the_same(recipe, tmp_path):
    losses = {"soft": SoftTargets(), "noise": Noise(), "hard": recipe.losses["hard"]}
    teacher = Custom(model=noisy, img_size=28, mean=(0.5,), std=(0.5,), runtime="eager")
    draws = replace(recipe, teacher=teacher, losses=losses)
    plain, ahead = (run(draws, tmp_path / f"run{overlap}", overlap=overlap) for overlap in (False, True))
    assert_same(plain, ahead)


class Queue:
    """A queue of work, in the face of `torch.cuda.Stream`."""

    def __init__(self) -> None:
        self.queue: list[Any] = []

    def record_event(self) -> list[bool]:
        happened: list[bool] = []
        self.queue.append(lambda: happened.append(True))
        return happened

    def wait_event(self, event: list[bool]) -> None:
        self.queue.append(event)

    def wait_stream(self, other: "Queue") -> None:
        self.wait_event(other.record_event())

    def ready(self) -> bool:
        return bool(self.queue) and self.queue[0] != []


class Device:
    """What takes its streams' work in any order that their events allow, in the face of `torch.cuda`."""

    def __init__(self) -> None:
        self.main = self._current = Queue()
        self.streams = [self.main]

    def Stream(self) -> Queue:
        self.streams.append(Queue())
        return self.streams[-1]

    def current_stream(self) -> Queue:
        return self._current

    @contextmanager
    def stream(self, stream: Queue):
        before, self._current = self._current, stream
        yield
        self._current = before

    def do(self, work: Any) -> None:
        self._current.queue.append(work)

    def work_off(self, choose: Any) -> None:
        while any(stream.queue for stream in self.streams):
            ready = [stream for stream in self.streams if stream.ready()]
            assert ready, "each stream waits for another"
            work = choose(ready).queue.pop(0)
            if callable(work):
                work()


class Steps:
    """Training steps queued on a `Device`, the teacher in each item and in evaluations; `log` is what was done."""

    def __init__(self, steps: int, evaluated: set[int]) -> None:
        self.device, self.log, self.slots, self.busy = Device(), [], {}, False
        ahead = Ahead(self.items(), steps, self.device)
        for step in range(steps):
            item = ahead.take()
            self.device.do(lambda item=item: self.log.append(f"student begins {item}"))
            self.device.do(lambda item=item: self.read(item))
            ahead.look()
            if step in evaluated:
                ahead.settle()
                self.teacher("evaluation")

    def items(self):
        for item in count():
            self.teacher(item)
            yield item

    def teacher(self, item: Any) -> None:
        def begin() -> None:
            assert not self.busy, "the teacher answers twice at once"
            self.busy = True
            # Two items' memory has to do, since nothing is made two ahead.
            self.slots[item if item == "evaluation" else item % 2] = None
            self.log.append(f"teacher begins {item}")

        def end() -> None:
            self.busy = False
            self.slots[item if item == "evaluation" else item % 2] = item

        self.device.do(begin)
        self.device.do(end)

    def read(self, item: int) -> None:
        assert self.slots[item % 2] == item, "the student reads what is not there yet, or not any more"
        self.log.append(f"student ends {item}")


@given(st.integers(1, 6), st.sets(st.integers(0, 5)), st.randoms(use_true_random=False))
def test_in_whatever_order_a_device_takes_two_streams_all_is_there_when_it_is_read(steps, evaluated, random):
    queued = Steps(steps, evaluated)
    queued.device.work_off(random.choice)
    assert [line for line in queued.log if "ends" in line] == [f"student ends {item}" for item in range(steps)]
    assert f"teacher begins {steps}" not in queued.log


def test_the_next_item_is_made_beside_the_work_on_this_one():
    queued = Steps(3, set())
    queued.device.work_off(lambda ready: ready[-1])  # the side stream where it can
    assert queued.log[:4] == ["teacher begins 0", "teacher begins 1", "student begins 0", "student ends 0"]


@given(st.lists(st.booleans(), max_size=8))
def test_items_come_in_order_whether_or_not_they_were_begun_early(looks):
    made = []
    items = (made.append(item) or item for item in count())
    ahead = Ahead(items, len(looks))
    for number, look in enumerate(looks):
        assert ahead.take() == number
        if look:
            ahead.look()
            ahead.look()
        assert len(made) == min(number + 1 + look, len(looks))


def test_every_tensor_of_a_micro_batch_is_found():
    tensors = [torch.tensor(number) for number in range(9)]
    images, labels, logits, token, embedding, one, other, index, draws = tensors
    target = Outputs(logits, token, embedding, {0: one, 7: other})
    address = Address(index=index, start=0, total=1, seed=3, draws=draws)
    item = Prepared(images=images, labels=labels, target=target, address=address, seed=1)
    assert {id(tensor) for tensor in tensors_in(item)} == {id(tensor) for tensor in tensors}
    alone = Prepared(images=images, labels=None, target=None, address=replace(address, draws=None), seed=1)
    assert [int(tensor) for tensor in tensors_in([(alone,)])] == [0, 7]


def frozen(*notes: str) -> Any:
    members = [SimpleNamespace(name=f"member{n}", runtime_note=note) for n, note in enumerate(notes)]
    return SimpleNamespace(members=members) if len(members) > 1 else members[0]


def test_only_runtimes_that_keep_to_torchs_stream_leave_the_students():
    said: list[str] = []
    gpu = torch.device("cuda")
    for teacher in (None, frozen("inductor"), frozen("eager, BatchNorm folded", "eager (it cannot be compiled)")):
        assert streams_for(teacher, gpu, said.append) is torch.cuda
    assert said == []
    assert streams_for(frozen("eager", "tensorrt"), gpu, said.append) is None
    assert streams_for(frozen("eager"), CPU, said.append) is None
    assert said == [
        "--overlap: 'member1' runs on tensorrt, which is not known to keep to a stream; it waits its turn",
        "--overlap: there are no streams on cpu, so teacher and student run one after the other",
    ]


def test_divided_teachers_do_not_run_beside_the_student():
    divided: Any = SimpleNamespace(distributed_type=DistributedType.FSDP)
    check(RunOptions(), divided)
    check(RunOptions(overlap=True), SimpleNamespace(distributed_type=DistributedType.MULTI_GPU))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"not for FSDP, .*; leave out --overlap, or use recipes/launch/one_node"):
        check(RunOptions(overlap=True), divided)


DETERMINISTIC = (
    "import runpy, sys, torch; torch.use_deterministic_algorithms(True, warn_only=True); "
    "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
)


@pytest.mark.parametrize(
    "device",
    [
        pytest.param("cpu", marks=pytest.mark.slow),
        pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")),
    ],
)
def test_the_command_gives_the_same_bits_overlapped(world, device):
    # On a GPU the student is large enough for its work to be under way when the teacher's begins.
    large = ["--student.embed-dim", "256", "--student.num-heads", "4", "--student.depth", "8"]
    options = ["--losses.crd.weight", "0", "--log-every-steps", "1", "--threads", "1", "--workers", "0"]
    options += large if device == "cuda" else []
    where = {"ACCELERATE_USE_CPU": str(device == "cpu").lower(), "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    found = []
    for overlap in ("--no-overlap", "--overlap"):
        out = world.folder / overlap.strip("-")
        done = world.run("--out", str(out), overlap, *options, launcher=("-c", DETERMINISTIC), **where)
        assert done.returncode == 0, done.stderr
        assert ("no streams on cpu" in done.stdout) == (overlap == "--overlap" and device == "cpu")
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        weights = load_file(out / "student" / "model.safetensors")
        found.append((weights, [{k: v for k, v in line.items() if k != "seconds"} for line in lines]))
    assert_same(*found)
