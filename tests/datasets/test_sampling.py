"""Stratified choices against what they promise."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecbam.datasets import sampling
from edgecbam.errors import InputError
from edgecbam.recipe import DataConfig

sizes = st.lists(st.integers(1, 60), min_size=2, max_size=12)


def labels_of(counts, seed=0):
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))


@settings(max_examples=150, deadline=None)
@given(sizes, st.floats(0, 1), st.integers(0, 2**31 - 1))
def test_a_choice_has_the_asked_size_and_proportional_classes(counts, fraction, seed):
    labels = labels_of(counts)
    count = round(fraction * len(labels))
    chosen = sampling.stratified(labels, count, seed, sampling.TEST)
    assert len(chosen) == count
    assert (np.diff(chosen) > 0).all()
    taken = np.bincount(labels[chosen], minlength=len(counts))
    assert (np.abs(taken - count * np.array(counts) / len(labels)) < 1).all()


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(2, 60), min_size=2, max_size=12), st.floats(0, 1))
def test_every_class_gets_and_keeps_its_least(counts, fraction):
    labels = labels_of(counts)
    count = round(fraction * len(labels))
    chosen = sampling.stratified(labels, count, 1, sampling.TEST, at_least=1, leave=1)
    rest = sampling.complement(len(labels), chosen)
    assert set(labels[chosen]) == set(labels[rest]) == set(range(len(counts)))
    assert sorted([*chosen, *rest]) == list(range(len(labels)))
    if len(counts) <= count <= len(labels) - len(counts):
        assert len(chosen) == count


def test_seed_and_purpose_decide_the_choice_for_ever():
    labels = np.arange(40) % 4
    first = sampling.stratified(labels, 8, 1, sampling.TEST)
    assert first.tolist() == [3, 8, 13, 18, 30, 35, 36, 37]  # written down: it must outlive versions of NumPy
    assert sampling.stratified(labels, 8, 2, sampling.TEST).tolist() != first.tolist()
    assert sampling.stratified(labels, 8, 1, sampling.VALIDATION).tolist() != first.tolist()


def test_a_subset_of_0_is_all_and_impossible_ones_are_refused():
    labels = np.arange(40) % 4
    assert sampling.subset(labels, 0, 1, sampling.TEST_SUBSET, "data.test_images").tolist() == list(range(40))
    with pytest.raises(InputError, match=r"data\.test_images = 41, but there are only 40"):
        sampling.subset(labels, 41, 1, sampling.TEST_SUBSET, "data.test_images")
    with pytest.raises(InputError, match=r"data\.test_images = 3 is too few for 4 classes: give at least 4"):
        sampling.subset(labels, 3, 1, sampling.TEST_SUBSET, "data.test_images")


@settings(max_examples=80, deadline=None)
@given(sizes, st.floats(0, 0.9))
def test_train_and_validation_are_disjoint_and_leave_no_class_out(counts, fraction):
    labels = labels_of(counts)
    train, validation = sampling.split_train(labels, DataConfig(validation_fraction=fraction))
    assert sorted([*train, *validation]) == list(range(len(labels)))
    assert set(labels[train]) == set(range(len(counts)))
    if fraction > 0 and max(counts) > 1:
        assert len(validation) >= 1
    if fraction == 0:
        assert len(validation) == 0
