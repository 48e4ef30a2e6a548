"""Data of the studies of latent action models."""

import lattok
from benchmarks.quality.lam_runs import joined
from lattok.samples import FramePairs, PairLabels
from tests.conftest import write_dataset


def test_pairs_of_two_datasets_have_the_labels_of_the_first(tmp_path):
    one, other = (
        FramePairs(
            lattok.open_dataset(write_dataset(tmp_path / name, lengths)), 2, labels=PairLabels(labelled_fraction=1.0)
        )
        for name, lengths in (("one", [12, 9]), ("other", [10]))
    )
    both = joined(one, other)
    assert len(both) == len(one) + len(other)
    assert both.labelled.tolist() == [True] * len(one) + [False] * len(other)
    for which, place, pair in ((one, 3, 3), (other, 5, len(one) + 5)):
        expected, found = which.batch([place]), both.batch([pair])
        assert (found.frames == expected.frames).all()
    assert (both.batch([3]).actions == one.batch([3]).actions).all()
    assert not both.actions[len(one) :].any()
    assert len(set(both.episode_of.tolist())) == 3
