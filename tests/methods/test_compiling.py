"""torch.compile, when asked for: where it works, and where there is no compiler."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from typing import Any

import pytest
import torch

from recviz.methods.compiling import compile_parts, compiler_error
from tests.tiny import tiny_data, tiny_trainer, tiny_vicreg


def test_compiled_parts_train_as_the_plain_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    modules = [tiny_vicreg(), tiny_vicreg()]
    plain = type(modules[1].backbone).compile

    def compile_eagerly(part: torch.nn.Module) -> None:
        calls.append(type(part).__name__)
        plain(part, backend="eager")

    monkeypatch.setattr(torch.nn.Module, "compile", compile_eagerly)
    monkeypatch.setattr("recviz.methods.compiling.compiler_error", lambda device: None)
    compile_parts(modules[1], torch.device("cpu"))
    for module in modules:
        torch.manual_seed(1)
        tiny_trainer(epochs=2).fit(module, datamodule=tiny_data())
    assert calls == ["TinyBackbone", "Sequential"]
    assert modules[1].backbone._compiled_call_impl is not None
    assert modules[0].state_dict().keys() == modules[1].state_dict().keys()
    for (name, p), q in zip(modules[0].state_dict().items(), modules[1].state_dict().values(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6, msg=name)
    assert copy.deepcopy(modules[1].state_dict())


def test_without_a_compiler_the_run_goes_on_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*args: Any, **settings: Any) -> Any:
        raise RuntimeError("No working C++ compiler\nand a long trace")

    monkeypatch.setattr(torch, "compile", broken)
    module = tiny_vicreg()
    compile_parts(module, torch.device("cpu"))
    lines = [record.getMessage() for record in caplog.records if "torch.compile" in record.getMessage()]
    assert lines == ["training without torch.compile, which does not work here: No working C++ compiler"]
    assert module.backbone._compiled_call_impl is None


@pytest.mark.slow
def test_the_compiler_itself_and_its_absence() -> None:
    """In processes of their own, because torch reads the compiler's name when it is imported."""
    ask = "import torch; from recviz.methods.compiling import compiler_error as e; print(e(torch.device('cpu')))"
    missing = subprocess.run(
        [sys.executable, "-c", ask], env={**os.environ, "CXX": "/no/such/compiler"}, capture_output=True, text=True
    )
    assert "No working C++ compiler" in missing.stdout
    if compiler_error(torch.device("cpu")) is None:
        module = tiny_vicreg()
        plain = copy.deepcopy(module)
        compile_parts(module, torch.device("cpu"))
        for run in (plain, module):
            torch.manual_seed(1)
            tiny_trainer(epochs=1).fit(run, datamodule=tiny_data())
        for p, q in zip(plain.state_dict().values(), module.state_dict().values(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-4)
