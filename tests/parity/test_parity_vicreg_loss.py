"""VICRegLoss against the terms and gradients that the authors' code gave, in float32."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from recviz import VICRegLoss

RECORDED = load_file(Path(__file__).parent / "reference" / "vicreg_loss.safetensors")
CASES = sorted({key.split(".")[0] for key in RECORDED})


def test_every_kind_and_both_gram_forms_are_kept() -> None:
    assert {case.split("_")[1] for case in CASES} == {"unit", "wide", "flat"}
    assert {"257x32_unit", "64x512_unit", "8x128_wide", "2x4_flat"} <= set(CASES)
    assert len(CASES) == 10


@pytest.mark.parametrize("case", CASES)
def test_terms(case: str) -> None:
    a, b, recorded = (RECORDED[f"{case}.{name}"] for name in ("a", "b", "terms"))
    terms = VICRegLoss()(a, b)
    # float32 sums in another order: 1e-5 relative; the flat cases' covariance is 1e-9, hence the absolute 1e-12
    torch.testing.assert_close(torch.stack(terms), recorded, rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_gradients_of_the_total(case: str) -> None:
    a, b = (RECORDED[f"{case}.{name}"].clone().requires_grad_() for name in ("a", "b"))
    VICRegLoss()(a, b).total.backward()
    for name, z in (("grad_a", a), ("grad_b", b)):
        recorded = RECORDED[f"{case}.{name}"]
        scale = recorded.abs().max().item()
        assert z.grad is not None
        # 1e-5 of the largest element: the flat cases divide rounding errors by a standard deviation of 0.01
        torch.testing.assert_close(z.grad, recorded, rtol=1e-5, atol=1e-5 * scale)
