"""The authors' protocols on several processes: batches, and weights of one process."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recviz import LinearProbe
from recviz.data.sampler import EpochBatches
from recviz.distributed import gather_rows
from tests.ddp.processes import run_on_processes


class Flat(nn.Module):
    feature_dim = 12

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)


def _epoch(rank: int, count: int, batch: int) -> tuple[Tensor, list[list[int]]]:
    """The head after an epoch of SGD on random images, and the samples of each global batch."""
    torch.manual_seed(0)
    images, labels = torch.randn(count, 3, 2, 2), torch.arange(count) % 3
    module = LinearProbe(Flat(), 3, head_lr=0.5)
    module.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
    optimizer = torch.optim.SGD(module.head.parameters(), lr=0.5)
    batches = []
    for indices, *_ in EpochBatches(count, batch, seed=1):
        optimizer.zero_grad()
        module.training_step((images[indices], labels[indices]), 0).backward()
        if torch.distributed.is_initialized():  # the mean of the gradients
            for p in module.head.parameters():
                torch.distributed.all_reduce(p.grad, op=torch.distributed.ReduceOp.SUM)
                p.grad /= torch.distributed.get_world_size()
        optimizer.step()
        batches.append(sorted(gather_rows(indices).tolist()))
    return torch.cat([module.head.weight.detach().flatten(), module.head.bias.detach()]), batches


CASES = [(50, 16), (47, 15), (33, 16), (7, 256)]


def _epochs(rank: int) -> list[tuple[Tensor, list[list[int]]]]:
    return [_epoch(rank, *case) for case in CASES]


def test_two_processes_give_the_classifier_of_one() -> None:
    by_process = run_on_processes(_epochs, 2, timeout=240)
    for (count, batch), *both in zip(CASES, *by_process, strict=True):
        weights, batches = _epoch(0, count, batch)
        assert sorted(index for part in batches for index in part) == list(range(count))
        assert [len(part) for part in batches] == [min(batch, count - start) for start in range(0, count, batch)]
        if count % batch == 1:  # a last batch of fewer samples than processes
            assert all(theirs == batches[:-1] for _, theirs in both)
            continue
        for other, theirs in both:
            assert theirs == batches
            torch.testing.assert_close(other, weights)
