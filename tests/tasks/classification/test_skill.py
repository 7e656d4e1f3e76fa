"""What predictions say of a network: another class order, two classes exchanged, chance, one answer for everything."""

import numpy as np
import pytest
import torch
from scipy import stats

from tutelage.tasks.classification.skill import (
    CHANCE_LEVEL,
    chance,
    class_order,
    collapsed,
    first_choices,
    mark_of,
    swapped_pairs,
)


def answers(classes: int, rows: int = 512, accuracy: float = 0.8, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """First choices that are right with this probability and else any class, and the labels."""
    draw = np.random.default_rng(seed)
    labels = draw.permutation(np.arange(rows) % classes)
    return np.where(draw.random(rows) < accuracy, labels, draw.integers(0, classes, rows)), labels


@pytest.mark.parametrize("classes", [2, 5, 10, 100])
def test_an_honest_network_gains_nothing_by_another_order(classes):
    for seed in range(20):
        found = class_order(*answers(classes, accuracy=0.5, seed=seed), classes)
        assert not found.suspicious
        assert found.own >= found.other - 0.1


@pytest.mark.parametrize("classes", [5, 10, 100])
def test_outputs_shifted_by_one_class_are_seen(classes):
    choices, labels = answers(classes)
    found = class_order((choices + 1) % classes, labels, classes)
    assert found.suspicious
    assert found.own < 0.1 < 0.7 < found.other


def test_a_reversed_network_of_two_classes_is_seen():
    choices, labels = answers(2, accuracy=0.8)
    found = class_order(1 - choices, labels, 2)
    assert found.suspicious
    assert found.own == pytest.approx(np.mean([(1 - choices)[labels == c] == c for c in (0, 1)], axis=None), abs=0.01)


def test_a_class_that_nobody_says_and_one_without_images_do_no_harm():
    choices, labels = answers(10)
    choices[choices == 3], kept = 4, labels != 7
    assert not class_order(choices[kept], labels[kept], 10).suspicious


def test_the_balanced_accuracy_is_that_of_scikit_learn():
    from sklearn.metrics import balanced_accuracy_score

    choices, labels = answers(5, accuracy=0.4)
    assert class_order(choices, labels, 5).own == pytest.approx(balanced_accuracy_score(labels, choices))


def test_two_classes_taken_for_each_other_are_named():
    choices, labels = answers(10, accuracy=0.9)
    swap = np.array([0, 1, 7, 3, 4, 5, 6, 2, 8, 9])
    assert swapped_pairs(swap[choices], labels, 10) == [(2, 7)]
    assert swapped_pairs(choices, labels, 10) == []


def test_classes_of_fewer_than_four_images_are_not_judged():
    assert swapped_pairs(np.array([1, 1, 1, 0, 0, 0]), np.array([0, 0, 0, 1, 1, 1]), 2) == []


def test_chance_is_what_shuffling_the_answers_gives():
    draw = np.random.default_rng(1)
    choices, labels = draw.choice(4, 300, p=[0.7, 0.1, 0.1, 0.1]), draw.choice(4, 300, p=[0.4, 0.3, 0.2, 0.1])
    hits = np.array([(draw.permutation(choices) == labels).sum() for _ in range(20_000)])
    found = chance(choices, labels, 4)
    assert found.expected == pytest.approx(hits.mean(), rel=0.01)
    assert found.p == pytest.approx((hits >= found.hits).mean(), abs=0.02)


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_a_network_that_ignores_the_image_is_seldom_called_skilled(classes):
    """p is below the level in at most as many cases as the level says, imbalance or not."""
    said = 0
    for seed in range(300):
        draw = np.random.default_rng(seed)
        shares = draw.dirichlet(np.ones(classes))
        choices, labels = draw.choice(classes, 512, p=shares), draw.choice(classes, 512, p=shares)
        said += chance(choices, labels, classes).p < CHANCE_LEVEL
    assert said <= stats.binom.ppf(0.999, 300, CHANCE_LEVEL)


def test_a_network_that_sees_a_little_is_not_at_chance():
    assert not chance(*answers(10, accuracy=0.15), 10).ignores_the_image
    assert not chance(*answers(2, accuracy=0.3), 2).ignores_the_image


def test_one_class_for_nearly_all_images_is_seen_and_a_majority_that_is_right_is_not():
    labels = np.repeat([0, 1], [300, 200])
    favourite = np.zeros(500, dtype=int)
    assert collapsed(favourite, labels, 2) == 0
    favourite[300:304] = 1  # 4 of 200: at most 5.7 % by Clopper and Pearson
    assert stats.beta.ppf(0.99, 5, 196) > 0.05
    assert collapsed(favourite, labels, 2) is None


def test_a_network_that_knows_the_rare_class_is_not_collapsed_however_often_it_says_the_other():
    labels = np.repeat([0, 1], [950, 100])
    assert collapsed(np.where(np.arange(1050) >= 990, 1, 0), labels, 2) is None


def test_ninety_other_images_are_the_fewest_to_be_sure():
    assert collapsed(np.zeros(100, dtype=int), np.repeat([0, 1], [10, 90]), 2) == 0
    assert collapsed(np.zeros(99, dtype=int), np.repeat([0, 1], [10, 89]), 2) is None


def logits_for(choices: np.ndarray, classes: int) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.from_numpy(choices), classes).float()


def test_marks_are_words_with_numbers():
    labels = torch.arange(400) % 4
    rose = mark_of(logits_for(np.full(400, 2), 4), labels, ["daisy", "tulip", "rose", "lily"])
    assert rose == {"kind": "one class", "text": "says 'rose' for 100 % of images, of which 25 % are 'rose'"}
    draw = np.random.default_rng(0)
    guess = mark_of(logits_for(draw.integers(0, 4, 400), 4), labels, ["a", "b", "c", "d"])
    assert guess is not None
    assert guess["kind"] == "chance"
    assert guess["text"].startswith("cannot be told from a network that ignores the image (n = 400: ")


def test_a_good_network_and_too_few_images_have_no_mark():
    choices, labels = answers(4, accuracy=0.9)
    assert mark_of(logits_for(choices, 4), torch.from_numpy(labels), list("abcd")) is None
    guess, few = answers(10, rows=80, accuracy=0.0)
    assert mark_of(logits_for(guess, 10), torch.from_numpy(few), list("abcdefghij")) is None


def test_rows_without_a_label_are_left_out():
    choices, labels = first_choices(torch.eye(3), torch.tensor([0, -1, 1]))
    assert choices.tolist() == [0, 2]
    assert labels.tolist() == [0, 1]
    assert mark_of(torch.eye(3), torch.full((3,), -1), list("abc")) is None
