import torch
from hypothesis import given
from hypothesis import strategies as st

from distill.bench.peak import peak_bytes
from distill.bench.turns import Measured, Stage, in_turns, ratio, timed

CPU = torch.device("cpu")


def stage(key: str, seconds: float, images: int = 10, paced_by: str | None = None, fewest: int = 1) -> Stage:
    """One that says that it takes so long each time."""
    return Stage(key=key, name=key, take=lambda times: seconds * times, images=images, paced_by=paced_by, fewest=fewest)


def test_rates_are_images_over_seconds_and_turns_are_as_long_as_asked():
    a, b, c = in_turns(
        [stage("a", 0.5), stage("b", 0.25, images=2), stage("c", 0.1, paced_by="a")], rounds=3, seconds=2, device=CPU
    )
    assert (a.rates, a.times) == ((20.0,) * 3, 4)
    assert (b.rates, b.times) == ((8.0,) * 3, 8)
    assert c.times == 4


def test_turns_have_as_many_times_as_their_stage_needs_at_least():
    a, b = in_turns([stage("a", 2, fewest=3), stage("b", 1, paced_by="a", fewest=5)], rounds=1, seconds=2, device=CPU)
    assert (a.times, b.times) == (3, 5)
    assert b.rates == (10.0,)


def test_a_stage_whose_pace_is_not_measured_fills_its_own_turns():
    (a,) = in_turns([stage("a", 0.5, paced_by="online")], rounds=1, seconds=3, device=CPU)
    assert a.times == 6


def test_a_stage_settles_off_the_clock_before_its_turns():
    done: list[str] = []

    def take(times: int) -> float:
        done.append(f"take {times}")
        return times

    settling = Stage(key="a", name="a", take=take, images=1, before=lambda: done.append("before"))
    in_turns([settling], rounds=2, seconds=3, device=CPU)
    turn = ["before", "take 1", "take 3"]
    assert done == ["before", "take 1", "take 1", *turn, *turn]


def test_every_other_round_goes_backwards():
    said: list[str] = []
    in_turns([stage("a", 1), stage("b", 1)], rounds=3, seconds=1, device=CPU, said=said.append)
    assert [text[-1] for text in said] == [*"ab", *"ab", *"ba", *"ab"]
    assert said[4] == "round 2 of 3: b"


def test_a_ratio_is_the_median_of_the_rounds_own_by_hand():
    # The machine was half as fast in the second round, for both: 2, 2 and 4 times as fast.
    one = Measured(key="one", name="", rates=(10.0, 5.0, 12.0), peak_bytes=None)
    other = Measured(key="other", name="", rates=(5.0, 2.5, 3.0), peak_bytes=None)
    assert ratio(one, other) == (2.0, 2.0, 4.0)


@given(st.lists(st.floats(0.1, 1e4), min_size=1, max_size=9), st.floats(0.01, 100))
def test_a_stage_is_always_as_fast_as_itself(rates, factor):
    one = Measured(key="one", name="", rates=tuple(rates), peak_bytes=None)
    other = Measured(key="other", name="", rates=tuple(rate * factor for rate in rates), peak_bytes=None)
    assert ratio(one, one) == (1.0, 1.0, 1.0)
    assert abs(ratio(other, one)[0] / factor - 1) < 1e-9


def test_time_is_taken_of_so_many_times():
    done: list[int] = []
    assert timed(lambda: done.append(1), CPU)(5) >= 0
    assert len(done) == 5


def test_the_peak_is_what_is_taken_even_when_it_is_given_back():
    def take():
        torch.ones(2**24)  # 64 MiB

    peak = peak_bytes(take, CPU)
    assert peak is None or 63 * 2**20 <= peak < 80 * 2**20
