"""Schedules against published values and at their edges."""

import itertools
import math
from functools import partial

import pytest

from every import every
from tutelage.graph.schedules import (
    constant,
    cosine,
    linear,
    ramp_down,
    ramp_down_exp,
    ramp_up,
    ramp_up_exp,
    step,
    window,
)

ALL = [constant, linear, cosine, step, ramp_up, ramp_up_exp, ramp_down, ramp_down_exp, window]


@pytest.mark.parametrize("schedule", ALL)
def test_gives_a_number_from_0_to_1_all_through_the_run(schedule):
    assert every(0 <= schedule(k / 100) <= 1 for k in range(101))


@pytest.mark.parametrize(("t", "expected"), [
    (0, 0.0067379470), (1, 0.0407622040), (2, 0.1652988882), (2.5, 0.2865047969), (3, 0.4493289641),
    (4, 0.8187307531), (5, 1.0), (6, 1.0), (20, 1.0),
])
def test_ramp_up_exp_is_the_mean_teachers(t, expected):
    epochs, rampup = 20, 5
    assert ramp_up_exp(t / epochs, until=rampup / epochs) == pytest.approx(expected, abs=1e-10)
    assert ramp_up_exp(t / epochs, to=30.0, until=rampup / epochs) == pytest.approx(30 * expected, abs=3e-9)


@pytest.mark.parametrize(("step", "expected"), [
    (0, 1.0), (125_000, 1.0), (137_500, 0.0439369336), (150_000, 3.7266532e-6)])
def test_ramp_down_exp_is_the_mean_teachers(step, expected):
    assert ramp_down_exp(step / 150_000, start=125_000 / 150_000) == pytest.approx(expected, rel=1e-7)
    assert ramp_down_exp(step / 150_000, value=3.0, start=1.0) == 3.0


def test_a_ramp_of_length_0_is_there_from_the_start():
    assert ramp_up_exp(0.0, until=0.0) == 1.0
    assert ramp_up(0.0, to=0.5, until=0.0) == 0.5


@pytest.mark.parametrize(("progress", "expected"), [(0.0, 0.0), (0.1, 0.25), (0.2, 0.5), (0.9, 0.5), (1.0, 0.5)])
def test_ramp_up_rises_in_a_line_and_stays(progress, expected):
    assert ramp_up(progress, to=0.5, until=0.2) == pytest.approx(expected)


@pytest.mark.parametrize(("progress", "expected"), [(0.0, 2.0), (0.5, 2.0), (0.75, 1.0), (0.9, 0.4), (1.0, 0.0)])
def test_ramp_down_stays_and_falls_in_a_line(progress, expected):
    assert ramp_down(progress, value=2.0, start=0.5) == pytest.approx(expected)


@pytest.mark.parametrize(("progress", "expected"), [
    (0.0, 0.0), (math.nextafter(0.25, 0), 0.0), (0.25, 3.0), (math.nextafter(0.5, 0), 3.0), (0.5, 0.0), (1.0, 0.0),
])
def test_window_holds_its_first_edge_and_not_its_last(progress, expected):
    assert window(progress, value=3.0, start=0.25, until=0.5) == expected


def test_windows_side_by_side_cover_every_moment_once_the_very_end_too():
    edges = [0.0, 0.2, 0.5, 0.7, 1.0]
    windows = [partial(window, start=a, until=b) for a, b in itertools.pairwise(edges)]
    assert every(sum(schedule(k / 1000) for schedule in windows) == 1 for k in range(1001))


@pytest.mark.parametrize(("progress", "expected"), [
    (0.0, 8.0), (0.29, 8.0), (0.3, 4.0), (0.6, 2.0), (0.89, 2.0), (0.9, 1.0), (1.0, 1.0)])
def test_step_falls_at_each_share(progress, expected):
    assert step(progress, factor=0.5, value=8.0) == pytest.approx(expected)


@pytest.mark.parametrize(("progress", "expected"), [
    (0.0, 3.0), (1 / 3, 2.5), (0.5, 2.0), (2 / 3, 1.5), (1.0, 1.0)])
def test_cosine_is_half_a_wave(progress, expected):
    assert cosine(progress, first=3.0, last=1.0) == pytest.approx(expected)


def test_linear_is_a_line_and_constant_does_not_move():
    assert [linear(p, first=1.0, last=5.0) for p in (0.0, 0.25, 1.0)] == [1.0, 2.0, 5.0]
    assert [linear(p) for p in (0.0, 0.25, 1.0)] == [1.0, 0.75, 0.0]
    assert {constant(k / 10, value=0.3) for k in range(11)} == {0.3}
