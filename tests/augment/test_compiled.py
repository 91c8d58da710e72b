"""Views by torch.compile: equal to the ones made step by step, for any batch, with a fall-back."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from recviz.augment import View, ViewGroup, Views, compiled
from recviz.augment.view import UNIFORMS
from recviz.methods.compiling import compiler_error

BUSY = View(flip=0.5, jitter=0.5, grayscale=0.5, blur=0.5, solarize=0.5)
SHARP = View(scale=(0.2, 1.0), jitter=0.8, solarize=0.1)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pair(a: View, b: View, **settings: Any) -> tuple[Views, Views]:
    return Views(16, a, b, compiled=False, **settings), Views(16, a, b, compiled=True, **settings)


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    compiled._programs.cache_clear()
    compiled._broken.clear()
    yield
    compiled._programs.cache_clear()
    compiled._broken.clear()


@pytest.fixture
def interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The programs as they are written, without the wait for a compiler."""
    monkeypatch.setattr(torch, "compile", lambda function: function)


@pytest.fixture
def compiler() -> None:
    """A fresh one; without any, the test is skipped."""
    reason = compiler_error(torch.device("cpu"))
    if reason:
        pytest.skip(f"torch.compile does not work here: {reason}")
    torch._dynamo.reset()


@pytest.fixture
def made_of_chosen_images(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images each blur was of."""
    counts: list[int] = []
    blur = compiled._blur_chosen

    def counting(view: View, images: Tensor, plan: compiled.Plan) -> Tensor:
        counts.append(int(plan.blur.sum()))
        return blur(view, images, plan)

    monkeypatch.setattr(compiled, "_blur_chosen", counting)
    return counts


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize(
    "images",
    [
        noise(37, 3, 20, 24),
        noise(37, 1, 20, 20),
        noise(2, 3, 9, 7),
        noise(37, 3, 20, 20) / 255,
        list(noise(2, 37, 3, 16, 16)),
        list(noise(2, 37, 3, 16, 16) / 255),
    ],
    ids=["colour", "grey", "two small", "float", "crops", "float crops"],
)
@pytest.mark.parametrize(
    ("a", "b"),
    [
        (BUSY, SHARP),
        (View(blur=1.0), View(flip=1, jitter=0, grayscale=0)),
        (replace(BUSY, vertical_flip=0.5, rotate90=0.5), View(vertical_flip=1, rotate90=1)),
    ],
)
def test_programs_make_the_views_that_steps_make(images: Tensor | list[Tensor], a: View, b: View) -> None:
    stepwise, programmed = pair(a, b)
    before = copy.deepcopy(images)
    expected, views = stepwise(images, seeded()), programmed(images, seeded())
    for ours, theirs in zip(views, expected, strict=True):
        assert ours.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    assert all(map(torch.equal, images, before))


@pytest.mark.usefixtures("interpreted")
def test_the_program_without_branches_blurs_the_chosen_too() -> None:
    images = noise(20, 3, 24, 24)
    stepwise, _ = pair(BUSY, BUSY)
    uniforms = torch.rand(20, UNIFORMS, generator=seeded())
    plan = compiled._plan(BUSY, (24, 24), uniforms)
    whole = compiled._whole(BUSY, 16, images, plan, stepwise.mean, stepwise.std)
    assert 3 < plan.blur.sum() < 17
    torch.testing.assert_close(whole, stepwise(images, seeded())[0], rtol=0, atol=1e-4)


@pytest.mark.usefixtures("interpreted")
def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    images, (_, programmed) = noise(37, 3, 20, 20), pair(BUSY, SHARP)
    expected = programmed(images, seeded())
    for block in (1, 5 * 3 * 16 * 16):
        monkeypatch.setattr(compiled, "_CPU_BLOCK", block)
        for ours, theirs in zip(programmed(images, seeded()), expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.usefixtures("interpreted")
def test_on_a_cpu_only_the_chosen_images_are_blurred(made_of_chosen_images: list[int]) -> None:
    pair(BUSY, SHARP)[1](noise(40, 3, 16, 16), seeded())
    assert 8 < sum(made_of_chosen_images) < 32


@pytest.mark.usefixtures("interpreted")
def test_small_views_are_programs_of_their_own() -> None:
    stepwise, programmed = pair(BUSY, SHARP, groups=[ViewGroup(2, 8)])
    images = [noise(6, 3, size, size, seed=place) for place, size in enumerate((16, 16, 8, 8))]
    for source in (noise(6, 3, 20, 20), images):
        expected, views = stepwise(source, seeded()), programmed(source, seeded())
        assert [view.shape[2] for view in views] == [16, 16, 8, 8]
        for ours, theirs in zip(views, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("n", [0, 1])
def test_batches_too_small_for_a_program_are_made_step_by_step(n: int) -> None:
    stepwise, programmed = pair(BUSY, SHARP)
    images = noise(n, 3, 20, 20)
    assert torch.equal(stepwise(images, seeded())[0], programmed(images, seeded())[0])
    assert compiled._programs.cache_info().currsize == 0


def failing(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def call(*args: object) -> Tensor:
        raise RuntimeError("no C++ compiler\nand much more")

    return call


def test_without_a_compiler_the_steps_are_taken_and_one_line_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch, "compile", failing)
    stepwise, programmed = pair(BUSY, SHARP)
    images = noise(8, 3, 20, 20)
    expected = stepwise(images, seeded())
    with caplog.at_level(logging.WARNING, "recviz"):
        for _ in range(2):
            for ours, theirs in zip(programmed(images, seeded()), expected, strict=True):
                assert torch.equal(ours, theirs)
    [line] = [record.getMessage() for record in caplog.records if "not compiled" in record.getMessage()]
    assert line == "views are not compiled, since torch.compile fails: no C++ compiler"


def test_nothing_is_compiled_on_a_cpu_unless_asked_for() -> None:
    Views(16)(noise(4, 3, 20, 20))
    Views(16, compiled=False)(noise(4, 3, 20, 20))
    assert compiled._programs.cache_info().currsize == 0


@pytest.mark.slow
@pytest.mark.usefixtures("compiler")
def test_compiled_programs_make_the_same_views_of_any_batch_without_compiling_again() -> None:
    stepwise, programmed = pair(BUSY, SHARP)
    programmed(noise(32, 3, 20, 20), seeded())
    with torch._dynamo.config.patch(error_on_recompile=True):
        for n in (32, 7, 2, 33):
            images = noise(n, 3, 20, 20, seed=n)
            for ours, theirs in zip(programmed(images, seeded()), stepwise(images, seeded()), strict=True):
                assert ours.is_contiguous(memory_format=torch.channels_last)
                torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    assert not compiled._broken


@pytest.mark.slow
@pytest.mark.usefixtures("compiler")
def test_the_program_of_a_gpu_compiles_for_any_batch() -> None:
    stepwise, _ = pair(BUSY, BUSY)
    plan, whole = torch.compile(partial(compiled._plan, BUSY)), torch.compile(partial(compiled._whole, BUSY, 16))
    for n in (20, 7, 33):
        with torch._dynamo.config.patch(error_on_recompile=n != 20):
            images, uniforms = noise(n, 3, 24, 24), torch.rand(n, UNIFORMS, generator=seeded())
            decided = plan((24, 24), compiled._any_batch(uniforms))
            rows = compiled.Plan._make(map(compiled._any_batch, decided))
            view = whole(compiled._any_batch(images), rows, stepwise.mean, stepwise.std)
        torch.testing.assert_close(view, stepwise(images, seeded())[0], rtol=0, atol=1e-4)


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("crops", [False, True])
def test_nothing_waits_for_the_device(crops: bool) -> None:
    # Tensors without data: reading a value, or a shape that depends on one, raises.
    _, programmed = pair(BUSY, SHARP)
    images = torch.empty(6, 3, *((16, 16) if crops else (20, 24)), dtype=torch.uint8, device="meta")
    views = programmed.to("meta")([images] * 2 if crops else images)
    assert views[0].shape == views[1].shape == (6, 3, 16, 16)
    assert not compiled._broken


@pytest.mark.gpu
@pytest.mark.filterwarnings("default:.*:DeprecationWarning", "default:TensorFloat32:UserWarning")  # of the compiler
def test_on_a_gpu_programs_make_the_views_that_steps_make_and_nothing_waits() -> None:
    stepwise, programmed = (views.to("cuda") for views in pair(BUSY, SHARP))
    images = noise(64, 3, 32, 32).to("cuda")
    programmed(images)  # compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        views, expected = (which(images, torch.Generator("cuda").manual_seed(0)) for which in (programmed, stepwise))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for ours, theirs in zip(views, expected, strict=True):
        assert ours.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    assert not compiled._broken


@pytest.mark.usefixtures("interpreted")
def test_settings_may_be_lists() -> None:
    view = View(scale=[0.2, 1.0], ratio=[0.8, 1.2], blur=0.5, blur_sigma=[0.1, 1.0])  # type: ignore[arg-type]
    pair(view, view)[1](noise(4, 3, 20, 20))
    assert not compiled._broken


def test_a_full_device_is_not_taken_for_a_missing_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> Tensor:
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(compiled, "_run", full)
    with pytest.raises(torch.OutOfMemoryError):
        pair(BUSY, SHARP)[1](noise(4, 3, 20, 20))
    assert not compiled._broken
