"""Scenarios and splits: what is forgotten, retained, used to stop and used to report."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unlearn import ImageSet, Scenario, Split, make_split
from unlearn.data import make_dataset


def dataset(train_labels, test_labels, classes=None):
    sets = [
        ImageSet(np.zeros((len(labels), 2, 2, 1), np.uint8), np.asarray(labels, np.int64))
        for labels in (train_labels, test_labels)
    ]
    return make_dataset("toy", *sets, num_classes=classes or int(max(max(train_labels), max(test_labels))) + 1)


def shuffled(classes=4, each=10, test_each=6, seed=0):
    random = np.random.default_rng(seed)
    return dataset(
        random.permutation(np.repeat(range(classes), each)), random.permutation(np.repeat(range(classes), test_each))
    )


SCENARIOS = {
    "samples": Scenario(per_class=3),
    "samples at random": Scenario(per_class=3, select="random"),
    "classes": Scenario(kind="classes", classes=(2, 0)),
    "poison": Scenario(kind="poison", count=9),
    "incremental": Scenario(kind="incremental", step=2, steps=4),
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_split_adds_up(name):
    data = shuffled()
    split = make_split(data, SCENARIOS[name], seed=5)
    n = len(data.train)
    assert np.array_equal(np.sort(np.r_[split.forget, split.retain]), np.arange(n))
    assert np.array_equal(np.sort(np.concatenate(split.steps)), split.forget)
    assert len(np.intersect1d(split.val, split.test)) == 0
    expected = np.flatnonzero(~np.isin(data.test.labels, split.forget_classes))
    assert np.array_equal(np.sort(np.r_[split.val, split.test]), expected)
    for array in split.to_arrays().values():
        assert array.dtype == np.int64
    for rows in (split.forget, split.retain, split.val, split.test, *split.steps):
        assert np.array_equal(rows, np.sort(rows))


@pytest.mark.parametrize("name", SCENARIOS)
def test_splits_survive_arrays_and_name_themselves(name):
    data = shuffled()
    split = make_split(data, SCENARIOS[name], seed=5)
    again = Split.from_arrays({key: array.copy() for key, array in split.to_arrays().items()})
    assert again.digest == split.digest == make_split(data, SCENARIOS[name], seed=5).digest
    assert again.forget_classes == split.forget_classes
    assert [step.tolist() for step in again.steps] == [step.tolist() for step in split.steps]
    assert make_split(data, SCENARIOS[name], seed=6).digest != split.digest  # the test halves at the least


def test_samples_are_the_first_of_each_class():
    labels = [0, 1, 1, 0, 1, 0, 0, 1]
    split = make_split(dataset(labels, [0, 0, 1, 1]), Scenario(per_class=2), seed=0)
    assert split.forget.tolist() == [0, 1, 2, 3]
    assert split.labels.tolist() == labels


def test_random_selection_follows_the_seed_and_the_classes():
    data = shuffled(each=50)
    scenario = Scenario(per_class=5, select="random")
    first, second = (make_split(data, scenario, seed).forget for seed in (0, 1))
    assert not np.array_equal(first, second)
    assert np.bincount(data.train.labels[first]).tolist() == [5] * 4


def test_the_test_halves_do_not_depend_on_the_scenario():
    data = shuffled()
    whole = make_split(data, Scenario(per_class=1), 3)
    removal = make_split(data, Scenario(kind="classes", classes=(1,)), 3)
    keep = data.test.labels != 1
    assert removal.val.tolist() == [row for row in whole.val if keep[row]]
    assert removal.test.tolist() == [row for row in whole.test if keep[row]]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=8, max_size=60), st.integers(0, 2**40))
def test_halves_are_balanced_class_by_class_and_overall(labels, seed):
    data = dataset([0, 1, 2, 3] * 3, labels, classes=4)
    split = make_split(data, Scenario(per_class=1), seed)
    assert abs(len(split.val) - len(split.test)) <= 1
    for label in range(4):
        counts = [int((data.test.labels[half] == label).sum()) for half in (split.val, split.test)]
        assert abs(counts[0] - counts[1]) <= 1


def test_poison_swaps_labels_between_paired_classes_only():
    data = shuffled(classes=6)
    split = make_split(data, Scenario(kind="poison", count=20), seed=1)
    changed = np.flatnonzero(split.labels != data.train.labels)
    assert np.array_equal(changed, split.forget)
    assert np.array_equal(changed, split.poisoned)
    pair = {}
    for row in changed:
        old, new = data.train.labels[row], split.labels[row]
        assert pair.setdefault(old, new) == new
        assert pair.setdefault(new, old) == old
    assert len(pair) == 6
    assert sorted(np.bincount(data.train.labels[changed])) == [3, 3, 3, 3, 4, 4]
    for label in range(6):  # and they are the first of their class
        rows = np.flatnonzero(data.train.labels == label)
        assert np.array_equal(np.intersect1d(rows, changed), rows[: np.isin(rows, changed).sum()])


def test_poison_leaves_an_odd_class_clean():
    data = shuffled(classes=5)
    split = make_split(data, Scenario(kind="poison", count=8), seed=1)
    assert sorted(np.bincount(data.train.labels[split.poisoned], minlength=5)) == [0, 2, 2, 2, 2]


def test_incremental_steps_follow_one_another():
    data = dataset([0] * 6 + [1] * 6, [0, 1, 0, 1])
    split = make_split(data, Scenario(kind="incremental", step=2, steps=3 - 1), seed=0)
    assert [step.tolist() for step in split.steps] == [[0, 1, 6, 7], [2, 3, 8, 9]]
    alone = make_split(data, Scenario(per_class=4), seed=0)
    assert np.array_equal(alone.forget, split.forget)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "sample"}, "scenario.kind: 'sample' .* did you mean 'samples'"),
        ({}, "scenario.per_class: None"),
        ({"per_class": 0}, "scenario.per_class: 0"),
        ({"per_class": True}, "scenario.per_class: True"),
        ({"per_class": 2, "count": 3}, "scenario.count: 3 has no meaning for kind 'samples'"),
        ({"per_class": 2, "select": "last"}, "scenario.select: 'last'"),
        ({"per_class": 2, "classes": [1]}, "scenario.classes: .* has no meaning"),
        ({"kind": "classes"}, r"scenario.classes: \[\]"),
        ({"kind": "classes", "classes": [1, 1]}, "each once"),
        ({"kind": "classes", "classes": [-1]}, "scenario.classes: -1"),
        ({"kind": "incremental", "step": 2}, "scenario.steps: None"),
        ({"kind": "poison"}, "scenario.count: None"),
    ],
)
def test_scenarios_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message) as error:
        Scenario(**settings)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("scenario", "message"),
    [
        (Scenario(per_class=11), "scenario.per_class: 11 takes 11 samples .* has only 10; allowed are 1 to 10"),
        (Scenario(per_class=10), "all 40 training images would be forgotten"),
        (Scenario(kind="incremental", step=3, steps=4), "scenario.steps: 4 takes 12 .* allowed are 1 to 3"),
        (Scenario(kind="classes", classes=(4,)), "scenario.classes: 4 is no class of toy; allowed are 0 to 3"),
        (Scenario(kind="classes", classes=(0, 1, 2, 3)), "all 40 training images"),
        (Scenario(kind="poison", count=41), "scenario.count: 41 takes 11 .* allowed are 1 to 40"),
        (Scenario(kind="incremental", step=11, steps=1), "takes 11 .* too few images; raise dataset.limit.train"),
    ],
)
def test_scenarios_that_ask_too_much_of_the_data_are_refused(scenario, message):
    with pytest.raises(ValueError, match=message) as error:
        make_split(shuffled(), scenario, 0)
    assert "\n" not in str(error.value)


def test_classes_by_number_and_by_name_are_the_same():
    """Names from strings are sorted as texts, so the class named 10 is not the tenth."""
    dataset = dataclasses.replace(shuffled(), class_names=("1", "10", "2", "cat"))
    by_number = make_split(dataset, Scenario(kind="classes", classes=(1, 3)), 0)
    by_name = make_split(dataset, Scenario(kind="classes", classes=("cat", "10")), 0)
    assert by_name.forget_classes == by_number.forget_classes == (1, 3)
    np.testing.assert_array_equal(by_name.forget, by_number.forget)
    assert by_number.notes == ("classes to forget: 1 (10), 3 (cat)",)
    with pytest.raises(ValueError, match=r"'cut' is no class of toy; .* names such as '1'; did you mean 'cat'\?"):
        make_split(dataset, Scenario(kind="classes", classes=("cut",)), 0)
    with pytest.raises(ValueError, match=r"\['cat', 3\] is not allowed; give each class once"):
        make_split(dataset, Scenario(kind="classes", classes=("cat", 3)), 0)


def test_classes_that_are_named_by_their_numbers_need_no_note():
    assert make_split(shuffled(), Scenario(kind="classes", classes=(1,)), 0).notes == ()
