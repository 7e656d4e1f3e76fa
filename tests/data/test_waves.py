"""The made series: what they are, and that they are the same everywhere."""

import math

import torch

from every import every
from tutelage.data.load import load_data
from tutelage.data.settings import DataSettings
from tutelage.data.waves import NOISE, WAVE_CLASSES, waves
from tutelage.system.random import derive, uniform


def test_made_series_are_of_two_channels_four_classes_and_unlike_lengths():
    data = load_data(DataSettings("waves"))
    assert (data.classes, data.shape) == (WAVE_CLASSES, (2, 64))
    assert [len(source.ids) for source in (data.train, data.validation, data.test)] == [270, 30, 150]
    assert data.train.labels.bincount().tolist() == [68, 67, 67, 68]
    (batch,) = data.train.batches([torch.arange(270)], draw=None)
    lengths = batch.inputs[""]["mask"].sum(1)
    assert (int(lengths.min()), int(lengths.max())) == (40, 64)
    assert data.digest == load_data(DataSettings("waves"), seed=7).digest


def test_each_class_has_its_form_under_the_noise():
    made = waves("TRAIN", 4)
    for number, wave in enumerate(made):
        ids = torch.tensor([number])
        spread, frequency, start = uniform(derive("waves", "TRAIN"), ids, 3)[0].double().tolist()
        assert wave.shape == (2, 40 + int(spread * 25))
        noise = uniform(derive("noise of waves", "TRAIN"), ids, 2 * 64 * 12).double().view(2, 64, 12).sum(-1) - 6
        for channel in range(2):
            for step in range(wave.shape[1]):
                turn = (1 + frequency) / 16 * step * (0.4 + 1.2 * step / 64 if number == 3 else 1) + start - channel / 4
                form = {0: math.sin(2 * math.pi * turn), 1: 1.0 if turn % 1 < 0.5 else -1.0, 2: 2 * (turn % 1) - 1,
                        3: math.sin(2 * math.pi * turn)}[number]
                assert abs(float(wave[channel, step]) - form - NOISE * float(noise[channel, step])) < 1e-6


def test_the_noise_is_as_large_as_it_says():
    noise = torch.cat([square.flatten().abs() - 1 for square in waves("TRAIN", 300)[1::4]])
    assert 0.5 < float(noise.square().mean().sqrt()) < 0.7
    assert every(len(wave) == 2 for wave in waves("TEST", 3))


def test_the_numbers_are_those_of_every_machine():
    found = [round(value, 3) for value in waves("TRAIN", 1)[0][0, :4].tolist()]
    assert found == [-0.646, -0.192, -0.23, -0.723]
