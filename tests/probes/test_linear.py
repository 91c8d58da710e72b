"""Measures of frozen features: intervals, k-NN against scikit-learn, the choice of the ridge, the cache."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from recviz.errors import InputError
from recviz.probes.encoding import feature_file, load_features, save_features, weights_hash
from recviz.probes.functional import (
    Features,
    _folds,
    accuracy,
    fit_linear,
    knn_predict,
    nearest_neighbours,
)
from recviz.probes.linear import accuracies, probe_features
from recviz.probes.result import Accuracy


def clusters(n: int, d: int, classes: int, spread: float, seed: int = 0) -> Features:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, d, generator=torch.Generator().manual_seed(42))
    labels = torch.arange(n) % classes
    return Features(centres[labels] + spread * torch.randn(n, d, generator=generator), labels)


@pytest.mark.parametrize(
    ("value", "count", "low", "high"),
    [(0.5, 100, 0.4038, 0.5962), (0.0, 10, 0.0, 0.2775), (1.0, 10, 0.7225, 1.0), (0.9, 1000, 0.8799, 0.9171)],
)
def test_intervals_are_wilsons(value: float, count: int, low: float, high: float) -> None:
    share = Accuracy.of(value, count)
    assert share.value == value
    assert share.low == pytest.approx(low, abs=1e-4)
    assert share.high == pytest.approx(high, abs=1e-4)


def test_accuracies_on_numbers_worked_by_hand() -> None:
    scores = torch.tensor([[3.0, 1, 2, 0, 0, 0], [0, 3, 1, 2, 0, 0], [9, 8, 7, 6, 5, 4], [0, 0, 0, 0, 1, 2]])
    found = accuracies(scores, torch.tensor([0, 2, 5, 5]))
    assert found["top1"].value == 0.5
    assert found["top5"].value == 0.75  # of [9, …, 4], the last class is not among the first five


@pytest.mark.parametrize("bank_chunk", [1, 7, 100, 65536])
def test_neighbours_are_exact_however_the_bank_is_cut(bank_chunk: int) -> None:
    queries, bank = clusters(23, 6, 4, 1.0, seed=1).features, clusters(90, 6, 4, 1.0).features
    found = nearest_neighbours(queries, bank, 9, chunk=5, bank_chunk=bank_chunk)
    exact = nn.functional.normalize(queries, dim=1) @ nn.functional.normalize(bank, dim=1).T
    expected = exact.topk(9, dim=1)
    torch.testing.assert_close(found.similarities, expected.values)
    assert torch.equal(found.indices, expected.indices)


def test_more_neighbours_than_rows_are_all_rows() -> None:
    bank = clusters(5, 3, 2, 1.0).features
    assert (
        nearest_neighbours(bank, bank, 200, bank_chunk=2).indices.sort(dim=1).values.tolist() == [[0, 1, 2, 3, 4]] * 5
    )


@pytest.mark.parametrize("k", [1, 5, 20])
def test_plain_votes_are_scikit_learns(k: int) -> None:
    neighbors = pytest.importorskip("sklearn.neighbors")
    bank, queries = clusters(200, 8, 5, 1.5), clusters(100, 8, 5, 1.5, seed=1)
    theirs = neighbors.KNeighborsClassifier(k, algorithm="brute", metric="cosine").fit(bank.features, bank.labels)
    ours = knn_predict(queries.features, bank.features, bank.labels, 5, k, temperature=None).argmax(dim=1)
    assert torch.equal(ours, torch.from_numpy(theirs.predict(queries.features.numpy())))


@pytest.mark.parametrize("counts", [[20, 20, 20], [2, 30, 1], [1, 1, 2]])
def test_folds_are_stratified_and_never_hold_out_all_of_a_class(counts: list[int]) -> None:
    labels = torch.repeat_interleave(torch.arange(3), torch.tensor(counts))[torch.randperm(sum(counts))]
    fold = _folds(labels)
    for label, count in enumerate(counts):
        if count == 1:
            assert fold[labels == label].tolist() == [-1]
            continue
        shares = fold[labels == label].bincount(minlength=3)
        assert shares.sum() == count
        assert shares.max() - shares.min() <= 1
        assert shares.max() < count
    assert torch.equal(fold, _folds(labels))


def test_the_penalty_is_chosen_by_held_out_samples() -> None:
    # many columns of noise beside few of signal: without a strong penalty, the probe learns the noise
    train, test = (clusters(600, 4, 3, 0.8, seed=seed) for seed in (1, 2))
    noise = [3 * torch.randn(600, 300, generator=torch.Generator().manual_seed(seed)) for seed in (3, 4)]
    wide = [Features(torch.cat([f.features, n], dim=1), f.labels) for f, n in zip((train, test), noise, strict=True)]
    chosen = fit_linear(*wide[0], 3)
    weak = fit_linear(*wide[0], 3, l2=1e-5)
    assert chosen.l2 > 1e-5
    assert accuracy(chosen(wide[1].features), test.labels) > accuracy(weak(wide[1].features), test.labels) + 0.02
    again = fit_linear(*wide[0], 3, l2=chosen.l2)  # and is then fitted to all
    assert accuracy(again(wide[1].features), test.labels) == pytest.approx(
        accuracy(chosen(wide[1].features), test.labels), abs=0.03
    )


def test_no_penalty_can_be_chosen_from_one_sample_a_class() -> None:
    with pytest.raises(InputError, match="needs a class with two samples, got 4 classes of one sample"):
        fit_linear(torch.randn(4, 3), torch.arange(4), 4)


def test_a_frozen_probe_measures_every_way_and_repeats_itself() -> None:
    train, test = clusters(300, 8, 4, 1.0), clusters(200, 8, 4, 1.0, seed=1)
    result = probe_features(train, test, 4)
    nearest = {"knn/k=20, T=0.07", "knn/k=20, plain", "knn/k=200, T=0.07", "knn/k=200, plain"}
    assert set(result.metrics) == {"top1", "top5", *nearest}
    assert all(0.5 < result.number(name) <= 1 for name in result.metrics)
    again = probe_features(train, test, 4)
    assert (result.metrics, result.table, result.about) == (again.metrics, again.table, again.about)
    assert result.about["converged"]
    assert torch.equal(result.state["head.weight"], again.state["head.weight"])
    shuffled = Features(test.features, test.labels.roll(1))
    other = probe_features(train, shuffled, 4)
    assert other.number("top1") < 0.3
    assert other.about["l2"] == result.about["l2"]  # the test split decides nothing


def test_the_classifier_to_save_is_the_one_that_was_measured() -> None:
    labels = torch.arange(400) % 4
    rows = torch.randn(400, 6) + 3 * torch.eye(4, 6)[labels] + 1e6 * torch.randn(6)  # means far from 0
    train, test = Features(rows[:300], labels[:300]), Features(rows[300:], labels[300:])
    result = probe_features(train, test, 4)
    state = {name.removeprefix("head."): value for name, value in result.state.items()}
    head = nn.Linear(6, 4, dtype=state["weight"].dtype)
    head.load_state_dict(state)
    right = (head(test.features.to(head.weight.dtype)).argmax(dim=1) == test.labels).float().mean()
    assert result.number("top1") > 0.8
    assert float(right) == pytest.approx(result.number("top1"))


def test_features_that_are_not_finite_are_not_scored() -> None:
    train, test = clusters(100, 4, 3, 1.0), clusters(50, 4, 3, 1.0, seed=1)
    test.features[::2, 1] = float("nan")
    with pytest.raises(InputError, match="got non-finite ones for 25 of 50 test images"):
        probe_features(train, test, 3)


# The cache


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "recviz/features"


def test_the_cache_gives_back_what_it_was_given_and_knows_other_keys(cache: Path) -> None:
    features, key = clusters(9, 3, 2, 1.0), {"weights": "w", "data": "d", "precision": "32"}
    path = feature_file(**key)
    assert load_features(path) is None
    save_features(path, features)
    found = load_features(path)
    assert found is not None
    assert torch.equal(found.features, features.features)
    assert torch.equal(found.labels, features.labels)
    for change in ({"weights": "x"}, {"data": "x"}, {"precision": "x"}):
        assert load_features(feature_file(**{**key, **change})) is None
    assert [p.suffix for p in cache.iterdir()] == [".safetensors"]  # no part is left


@pytest.mark.parametrize("content", [b"", b"hello", None])
def test_a_damaged_file_is_as_none(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "a.safetensors"
    save_features(path, clusters(9, 3, 2, 1.0))
    path.write_bytes(path.read_bytes()[:100] if content is None else content)
    assert load_features(path) is None


def test_a_cache_that_cannot_be_written_costs_a_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("in the way")
    save_features(tmp_path / "file/features/a.safetensors", clusters(9, 3, 2, 1.0))
    assert "features are not cached" in caplog.text


def test_the_oldest_features_make_room_for_new_ones(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.safetensors" for i in range(4)]
    for age, path in zip((30, 20, 10, 0), paths, strict=True):
        rows = Features(torch.zeros(100, 25), torch.zeros(100, dtype=torch.int64))
        save_features(path, rows, limit_gb=25e-6)  # for two files of 10 kB
        os.utime(path, (time.time() - age,) * 2)
    assert [load_features(path) is not None for path in paths] == [False, False, True, True]


def test_a_hash_is_of_every_weight_and_of_the_architecture() -> None:
    def module(stride: int = 1) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 4, 3, stride=stride), nn.BatchNorm2d(4))

    first = weights_hash(module())
    assert first == weights_hash(module())
    assert first != weights_hash(module(stride=2))  # the same weights, used otherwise
    for name in module().state_dict():
        other = module()
        tensor: Tensor = other.state_dict()[name]
        tensor.view(-1)[0] += 1
        assert weights_hash(other) != first, name
