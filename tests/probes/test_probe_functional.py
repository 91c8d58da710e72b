"""The linear probe, k-NN and the extraction of features."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recviz import CIFAR100DataModule
from recviz.backbones import resnet18
from recviz.errors import InputError
from recviz.probes import logistic, storage
from recviz.probes.functional import L2_PATH, Features, accuracy, extract_features, fit_linear, knn_predict


def clusters(n: int, d: int, classes: int, spread: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """n points around `classes` centres, columns of very different scale and mean."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, d, generator=torch.Generator().manual_seed(42))
    labels = torch.arange(n) % classes
    points = centres[labels] + spread * torch.randn(n, d, generator=generator)
    return points * torch.logspace(-2, 2, d) + torch.linspace(-3, 3, d), labels


def objective(logits: Tensor, labels: Tensor, weight: Tensor, l2: float) -> float:
    return float(F.cross_entropy(logits.double(), labels) + l2 / 2 * weight.double().square().sum())


def check_against_scikit_learn(train: Features, test: Features, classes: int, l2: float) -> None:
    """The objective of a tightly converged LogisticRegression on StandardScaler's columns, and its predictions."""
    linear_model, preprocessing = (pytest.importorskip(f"sklearn.{name}") for name in ("linear_model", "preprocessing"))
    ours = fit_linear(train.features, train.labels, classes, l2=l2)
    assert ours.converged
    scaler = preprocessing.StandardScaler().fit(train.features.double())
    x, test_x = (torch.from_numpy(scaler.transform(part.features.double())) for part in (train, test))
    # scikit-learn minimises C · Σ loss + ‖W‖² / 2
    theirs = linear_model.LogisticRegression(
        C=1 / (l2 * len(x)), tol=1e-9, max_iter=2000, solver="newton-cg" if x.shape[1] < 20 else "lbfgs"
    ).fit(x, train.labels)
    least = objective(torch.from_numpy(theirs.decision_function(x)), train.labels, torch.from_numpy(theirs.coef_), l2)
    scale = torch.from_numpy(scaler.scale_)
    logits = train.features.double() @ ours.weight + ours.bias
    assert objective(logits, train.labels, ours.weight * scale[:, None], l2) <= least * (1 + 1e-6)
    same = ours(test.features).argmax(dim=1) == torch.from_numpy(theirs.predict(test_x.numpy()))
    assert same.float().mean() >= 0.995


@pytest.mark.parametrize("l2", L2_PATH)
def test_linear_probe_is_scikit_learns(l2: float) -> None:
    train, test = (Features(*clusters(300, 10, classes=4, spread=1.5, seed=seed)) for seed in (0, 1))
    check_against_scikit_learn(train, test, 4, l2)


@pytest.mark.parametrize("l2", L2_PATH)
def test_linear_probe_of_fewer_samples_than_features_is_scikit_learns(l2: float) -> None:
    train, test = (Features(*clusters(60, 200, classes=4, spread=1.5, seed=seed)) for seed in (0, 1))
    check_against_scikit_learn(train, test, 4, l2)


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("l2", L2_PATH)
@pytest.mark.parametrize("what", ["untrained", "pixels"])
def test_linear_probe_is_scikit_learns_on_real_features(what: str, l2: float) -> None:
    data = CIFAR100DataModule(str(Path(os.environ["RECVIZ_DATA"]) / "cifar100"))
    data.prepare_data()
    data.setup("validate")
    assert data.train is not None
    assert data.val is not None
    torch.manual_seed(0)
    network = resnet18(stem="cifar", width=0.25)
    encode = network if what == "untrained" else lambda images: images[:, :, ::4, ::4].flatten(1)
    parts = []
    for split in (data.train, data.val):
        some = split.subset(torch.randperm(len(split.images), generator=torch.Generator().manual_seed(0))[:2000])
        parts.append(extract_features(encode, data.clean_dataloader(some), data.preparation))
    check_against_scikit_learn(*parts, 100, l2)


def odd_features(kind: str, features: Tensor, train: bool) -> Tensor:
    """The features made hard to standardise, in a way that changes no accuracy of scikit-learn's probe."""
    column = torch.full((len(features), 1), 0.1)
    noise = 0.01 * torch.randn(len(features), 1, generator=torch.Generator().manual_seed(5))
    return {
        "a constant column that varies in test": torch.cat([features, column if train else column + noise], dim=1),
        "a column of 0": torch.cat([features, 0 * column], dim=1),
        "a column of 1e30 and -1e30": torch.cat([features, 1e30 * noise.sign()], dim=1),
        "times 1e-7": features * 1e-7,
        "times 1e-30": features * 1e-30,
        "times 1e30": features * 1e30,
        "a mean of 1e6": (features.double() + 1e6).float(),
        "float16": features.half(),
        "bfloat16": features.bfloat16(),
        "float64 with a mean of 1e9": features.double() + 1e9,
    }[kind]


KINDS = [
    "a constant column that varies in test", "a column of 0", "a column of 1e30 and -1e30", "times 1e-7", "times 1e-30",
    "times 1e30", "a mean of 1e6", "float16", "bfloat16", "float64 with a mean of 1e9",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_standardisation_is_scikit_learns_whatever_the_scale(kind: str) -> None:
    pipeline, linear_model, preprocessing = (
        pytest.importorskip(f"sklearn.{name}") for name in ("pipeline", "linear_model", "preprocessing")
    )
    parts = [Features(*clusters(300, 10, classes=4, spread=1.5, seed=seed)) for seed in (0, 1)]
    scale = torch.logspace(2, -2, 10)  # of columns alike, so that every type and offset keeps their digits
    train, test = (odd_features(kind, part.features * scale, i == 0) for i, part in enumerate(parts))
    theirs = pipeline.make_pipeline(
        preprocessing.StandardScaler(), linear_model.LogisticRegression(C=1 / (1e-3 * 300), tol=1e-8, max_iter=1000)
    ).fit(train.double(), parts[0].labels)
    ours = fit_linear(train, parts[0].labels, 4, l2=1e-3)
    assert ours.converged
    expected = float(theirs.score(test.double(), parts[1].labels))
    assert expected > 0.5
    assert accuracy(ours(test), parts[1].labels) == pytest.approx(expected, abs=0.007)


def test_a_probe_of_one_sample_and_of_equal_samples() -> None:
    one = fit_linear(torch.tensor([[3.0, 1.0]]), torch.tensor([1]), 3, l2=0.1)
    assert one(torch.randn(5, 2)).argmax(dim=1).tolist() == [1] * 5
    equal = fit_linear(torch.ones(6, 2), torch.tensor([0, 1, 1, 2, 1, 1]), 3, l2=0.1)
    expected = torch.tensor([1 / 6, 4 / 6, 1 / 6]).log()
    torch.testing.assert_close(equal(torch.ones(1, 2)).log_softmax(dim=1)[0], expected, rtol=1e-3, atol=1e-3)


def test_a_probe_that_did_not_converge_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recviz.probes.logistic._STEPS", 1)
    assert not fit_linear(*clusters(300, 10, classes=4, spread=1.5), 4, l2=1e-4).converged


@pytest.mark.parametrize("l2", [0, -1.0, [], [0.1, 0.0]])
def test_penalties_that_are_not_positive_are_refused(l2: float) -> None:
    with pytest.raises(InputError, match="L2 penalty above 0"):
        fit_linear(*clusters(30, 4, classes=2, spread=1.0), 2, l2=l2)


def test_linear_probe_separates_what_is_separable() -> None:
    features, labels = clusters(200, 16, classes=5, spread=0.1)
    classifier = fit_linear(features, labels, 5)
    assert classifier.weight.shape == (16, 5)
    assert classifier.bias.shape == (5,)
    assert accuracy(classifier(features), labels) == 1
    test, test_labels = clusters(200, 16, classes=5, spread=0.1, seed=1)
    assert accuracy(classifier(test), test_labels) == 1


def test_linear_probe_works_with_more_columns_than_rows() -> None:
    features, labels = clusters(20, 64, classes=2, spread=1.0)
    assert accuracy(fit_linear(features, labels, 2)(features), labels) == 1


def test_linear_probe_of_a_class_without_samples() -> None:
    features, labels = clusters(60, 8, classes=3, spread=0.1)
    scores = fit_linear(features, labels, 5)(features)
    assert scores.shape == (60, 5)
    assert scores.isfinite().all()
    assert accuracy(scores, labels) == 1


@pytest.mark.parametrize("constant", [0.0, 1.0, 1000.0])
def test_linear_probe_ignores_a_constant_feature(constant: float) -> None:
    features, labels = clusters(200, 6, classes=3, spread=0.8)
    padded = torch.cat([features, torch.full((200, 1), constant)], dim=1)
    plain, other = fit_linear(features, labels, 3), fit_linear(padded, labels, 3)
    torch.testing.assert_close(
        other(padded).log_softmax(dim=1), plain(features).log_softmax(dim=1), rtol=1e-2, atol=1e-2
    )


def test_linear_probe_is_deterministic_and_leaves_its_input_alone() -> None:
    features, labels = clusters(100, 6, classes=3, spread=0.5)
    before = features.clone()
    state = torch.get_rng_state()
    first = fit_linear(features, labels, 3)
    torch.manual_seed(1)
    second = fit_linear(features, labels, 3)
    torch.set_rng_state(state)
    assert torch.equal(first.weight, second.weight)
    assert torch.equal(first.bias, second.bias)
    assert torch.equal(features, before)
    assert not first.weight.requires_grad
    assert not first.bias.requires_grad


def test_linear_probe_under_no_grad_autocast_and_low_precision() -> None:
    features, labels = clusters(100, 6, classes=3, spread=0.5)
    expected = fit_linear(features, labels, 3)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(fit_linear(features, labels, 3).weight, expected.weight)
    half = features.bfloat16()
    assert torch.equal(fit_linear(half, labels, 3).weight, fit_linear(half.float(), labels, 3).weight)


BAD_FEATURES: dict[str, tuple[Tensor, Tensor, str]] = {
    "3-d": (torch.zeros(4, 2, 2), torch.zeros(4, dtype=torch.int64), r"\(4, 2, 2\)"),
    "other rows": (torch.zeros(4, 2), torch.zeros(3, dtype=torch.int64), r"\(4, 2\).*\(3,\)"),
    "none": (torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64), r"\(0, 2\)"),
    "NaN": (torch.tensor([[1.0], [math.nan]]), torch.tensor([0, 1]), "NaN"),
    "infinite": (torch.tensor([[1.0], [math.inf]]), torch.tensor([0, 1]), "Inf"),
    "a label above": (torch.tensor([[1.0], [2.0]]), torch.tensor([0, 3]), "3"),
    "a label below": (torch.tensor([[1.0], [2.0]]), torch.tensor([0, -1]), "-1"),
}


@pytest.mark.parametrize("case", BAD_FEATURES)
def test_bad_features_are_shown(case: str) -> None:
    features, labels, shown = BAD_FEATURES[case]
    with pytest.raises(InputError, match=shown):
        fit_linear(features, labels, 3)


def knn_by_loop(queries: Tensor, bank: Tensor, labels: Tensor, classes: int, k: int, temperature: float) -> Tensor:
    """Votes exp(cos / T) of the k nearest, one pair at a time, up to one factor for all."""
    scores = torch.zeros(len(queries), classes, dtype=torch.float64)
    for q, query in enumerate(queries.double()):
        similar = [(float(query @ row / (query.norm() * row.norm())), i) for i, row in enumerate(bank.double())]
        for similarity, i in sorted(similar, reverse=True)[:k]:
            scores[q, labels[i]] += math.exp((similarity - 1) / temperature)
    return scores


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (5, 0.07), (20, 0.5), (1000, 1.0)])
def test_knn_is_the_brute_force_loop(k: int, temperature: float) -> None:
    bank, labels = clusters(40, 6, classes=3, spread=1.0)
    queries, _ = clusters(17, 6, classes=3, spread=1.0, seed=1)
    scores = knn_predict(queries, bank, labels, 3, k=k, temperature=temperature, chunk=5)
    expected = knn_by_loop(queries, bank, labels, 3, k, temperature)
    torch.testing.assert_close(scores.double(), expected, rtol=1e-4, atol=1e-9)


def test_knn_finds_itself_whatever_the_length_of_rows() -> None:
    bank = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(50)
    scores = knn_predict(7.5 * bank, bank, labels, 50, k=1)
    assert torch.equal(scores.argmax(dim=1), labels)
    assert torch.equal((scores > 0).sum(dim=1), torch.ones(50, dtype=torch.int64))


def test_knn_at_a_low_temperature_is_finite_and_follows_the_nearest() -> None:
    bank = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.1, 1.0]])
    scores = knn_predict(torch.tensor([[1.0, 0.05]]), bank, torch.tensor([0, 1, 1]), 2, k=3, temperature=1e-3)
    assert scores.isfinite().all()
    assert scores.argmax() == 0


def test_knn_chunks_change_nothing() -> None:
    bank, labels = clusters(30, 5, classes=2, spread=1.0)
    whole = knn_predict(bank, bank, labels, 2)
    torch.testing.assert_close(knn_predict(bank, bank, labels, 2, chunk=1), whole)
    assert knn_predict(bank[:0], bank, labels, 2).shape == (0, 2)


def test_knn_refuses_an_empty_bank_and_bad_settings() -> None:
    rows, labels = torch.ones(3, 2), torch.zeros(3, dtype=torch.int64)
    with pytest.raises(InputError, match="bank"):
        knn_predict(rows, rows[:0], labels[:0], 2)
    with pytest.raises(InputError, match="k=0"):
        knn_predict(rows, rows, labels, 2, k=0)
    with pytest.raises(InputError, match=r"temperature=0\.0"):
        knn_predict(rows, rows, labels, 2, temperature=0.0)


def test_accuracy() -> None:
    scores = torch.tensor([[0.9, 0.1, 0.0], [0.2, 0.5, 0.3], [0.3, 0.5, 0.2], [0.0, 0.1, 0.9]])
    labels = torch.tensor([0, 2, 2, 2])
    assert accuracy(scores, labels) == 0.5
    assert accuracy(scores, labels, top=2) == 0.75
    assert accuracy(scores, labels, top=9) == 1.0


class Backbone(nn.Module):
    """Has BatchNorm and dropout, which training mode would show."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.9), nn.AdaptiveAvgPool2d(1))

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images).flatten(1)


def batches() -> list[tuple[Tensor, Tensor, Any]]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (10, 3, 8, 8), generator=generator, dtype=torch.uint8)
    return list(zip(images.split(4), torch.arange(10).split(4), [None] * 3, strict=True))


def scaled(images: Tensor) -> Tensor:
    return images.float() / 255


def test_features_are_those_of_eval_mode_in_the_order_of_the_data() -> None:
    torch.manual_seed(0)
    backbone = Backbone()
    result = extract_features(backbone, batches(), scaled)
    assert result.features.shape == (10, 4)
    assert result.features.dtype == torch.float32
    assert result.labels.tolist() == list(range(10))
    assert not result.features.requires_grad
    backbone.eval()
    for i, images in enumerate(torch.cat([batch[0] for batch in batches()])):
        torch.testing.assert_close(result.features[i], backbone(scaled(images[None]))[0])


def test_modes_and_buffers_of_every_submodule_are_put_back() -> None:
    backbone = Backbone()
    backbone.train()
    backbone.layers[1].eval()  # a frozen BatchNorm within a training backbone
    modes = [module.training for module in backbone.modules()]
    buffers = {name: buffer.clone() for name, buffer in backbone.named_buffers()}
    extract_features(backbone, batches(), scaled)
    assert [module.training for module in backbone.modules()] == modes
    assert len(set(modes)) == 2
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in backbone.named_buffers())


def test_modes_are_put_back_after_a_failure() -> None:
    backbone = Backbone()

    def fail(images: Tensor) -> Tensor:
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        extract_features(backbone, batches(), fail)
    assert all(module.training for module in backbone.modules())


def test_a_plain_function_and_low_precision_features() -> None:
    result = extract_features(lambda images: images.mean(dim=(2, 3)).bfloat16(), batches(), scaled)
    assert result.features.shape == (10, 3)
    assert result.features.dtype == torch.float32


def test_features_without_labels_or_of_another_shape_are_refused() -> None:
    with pytest.raises(InputError, match="labels"):
        extract_features(Backbone(), [(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), None)], scaled)
    with pytest.raises(InputError, match=r"\[4, 4, 6, 6\]"):
        extract_features(nn.Conv2d(3, 4, 3), batches(), scaled)
    with pytest.raises(InputError, match="a tuple"):
        extract_features(lambda images: (images, images), batches(), scaled)  # type: ignore[arg-type, return-value]
    with pytest.raises(InputError, match="no images"):
        extract_features(Backbone(), [], scaled)


@pytest.mark.parametrize("kind", [RuntimeError, ValueError, AssertionError, torch.OutOfMemoryError])
def test_what_a_backbone_raises_keeps_its_type(kind: type[Exception]) -> None:
    def fail(images: Tensor) -> Tensor:
        raise kind("CUDA error")

    with pytest.raises(kind, match=r"^CUDA error$") as error:
        extract_features(fail, batches(), scaled)
    assert not isinstance(error.value, InputError)


def test_large_features_are_mapped_from_files_and_give_the_same_classifier(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With the limit at 0: x in a nameless file, folds by rows, probabilities in half precision."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    features, labels = clusters(9_000, 20, 7, 3.0)
    expected = fit_linear(features, labels, 7)
    for module in (logistic, storage):
        monkeypatch.setattr(module, "LARGE", 0)
    found = fit_linear(features, labels, 7)
    assert (found.l2, found.converged) == (expected.l2, True)
    torch.testing.assert_close(found.weight, expected.weight, rtol=2e-3, atol=2e-3 * float(expected.weight.abs().max()))
    assert torch.equal(found(features).argmax(dim=1), expected(features).argmax(dim=1))
    rows = storage.rows_like((10, 3), torch.device("cpu"))
    rows.copy_(torch.arange(30.0).view(10, 3))
    assert float(rows.sum()) == 435
    assert list((tmp_path / "recviz" / "scratch").iterdir()) == []


def test_features_of_a_known_number_of_images_are_stored_once() -> None:
    batches = [(torch.full((n, 3, 4, 4), n, dtype=torch.uint8), torch.arange(n)) for n in (3, 2)]
    for count in (None, 5, 8):
        found = extract_features(lambda images: images.float().mean(dim=(2, 3)), batches, nn.Identity(), count=count)
        assert found.features[:, 0].tolist() == [3, 3, 3, 2, 2]
        assert found.labels.tolist() == [0, 1, 2, 0, 1]
