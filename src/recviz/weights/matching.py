"""Finds the weights of a backbone in a file under any prefix, and loads all of them or none."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from recviz.errors import InputError
from recviz.weights.files import read_tensors

_log = logging.getLogger(__name__)

HEADS = ("fc", "classifier", "head", "heads", "head_dist", "last_linear")
"""Names of the last layers of torchvision's and timm's models: the classifier, or a head that contains it."""

_OTHERS = ("momentum", "target", "key", "encoder_k", "student", "ema")
"""Words in the names of copies that are used only if the file has no other copy of the backbone."""


class LoadedWeights(NamedTuple):
    """Which tensors of a file were loaded."""

    prefix: str
    """Prefix of the backbone's names in the file, such as "state_dict.backbone."."""
    left_out: list[str]
    """Names in the file that were not loaded: a classifier, a projector, an optimiser's state."""


def load_backbone_weights(backbone: nn.Module, source: str | Path) -> LoadedWeights:
    """Load all weights of a backbone from a file.

    The backbone's names and shapes are searched under every prefix of the file, such as `module.`, `backbone.`,
    `model.`, `_orig_mod.`, `teacher.` or several of them, below any key such as "state_dict" or "model". If they are
    not found, two other spellings are tried: the indices of `nn.Sequential(*model.children())`, as in lightly's
    examples, and torchvision's published names of DenseNet layers. Of several copies, such as teacher and student, one
    is loaded, and a log line says which.

    The rest of the file is left out: layers with other names than the backbone's children, the classifier that
    `as_backbone` removed (fc, head.fc, classifier.2, heads.head …), and buffers that the backbone does not save. Extra
    layers within the backbone's children mean another architecture.

    Where the backbone takes other channels than colours, the first convolution of weights for colours is adapted: see
    _stem_of_colours. A log line says so.

    solo-learn's CIFAR backbones pad their first convolution by 2: use `stem="solo-learn"`.

    Args:
        backbone: changed in place; unchanged after an error.
        source: a path.

    Raises:
        InputError: a file that is missing, unreadable or without weights, or whose names or shapes do not match the
            backbone; the message names them.
    """
    found = {name.replace("_orig_mod.", ""): tensor for name, tensor in read_tensors(source).items()}  # torch.compile's
    own = backbone.state_dict()
    matches = [_match(own, {respelled(name): name for name in found}, found) for respelled in _spellings(backbone)]
    match = max(matches, key=lambda match: match.fitting)  # the first of equals: unchanged names
    lacking = [name for name in own if name not in match.names and not name.endswith("num_batches_tracked")]
    wrong = [name for name, there in match.names.items() if found[there].shape != own[name].shape]
    stem = _stem_of_colours(own, found, match, wrong)
    other, under = f"{source} is of another architecture", f" under {match.prefix!r}" if match.prefix else ""
    for name in () if stem else wrong:
        there, here = (tuple(weight.shape) for weight in (found[match.names[name]], own[name]))
        raise InputError(f"{other}: {name}{under} is {there} there and {here} here")
    if lacking:
        extra = sorted(match.under.keys() - own.keys())
        raise InputError(f"{other}: it lacks {_shown(lacking)}{under} and has {_shown(extra)}")
    beside = {name: there for name, there in match.under.items() if name not in own}
    inside = sorted(beside[name] for name in beside if not _is_beside(backbone, name, beside, found))
    if inside:
        raise InputError(f"{other}: beyond the backbone's layers it has {_shown(inside)}")
    if match.copies:
        _log.warning("%s holds the backbone %d times: taken is %r", source, 1 + len(match.copies), match.prefix)
    own.update({name: found[there] for name, there in match.names.items()})  # BatchNorm's counts may lack in a file
    for name, weight in stem.items():
        own[name] = weight
        how = "their sum" if weight.shape[1] == 1 else f"repeated and scaled by 3 / {weight.shape[1]}"
        _log.warning(
            "%s is for red, green and blue, and the backbone takes %d channels: their weights in %s are %s",
            source, weight.shape[1], name, how,
        )  # fmt: skip
    backbone.load_state_dict(own)
    left_out = sorted(found.keys() - set(match.names.values()))
    _log.info("%s: %d tensors under %r; left out: %s", source, len(match.names), match.prefix, _shown(left_out))
    return LoadedWeights(match.prefix, left_out)


def _stem_of_colours(
    own: dict[str, Tensor], found: dict[str, Tensor], match: _Match, wrong: list[str]
) -> dict[str, Tensor]:
    """The first convolution of a file for colours, for a backbone of other channels; empty if more than that differs.

    For one channel, the weights of red, green and blue are summed. For C channels, they are repeated in turn and scaled
    by 3 / C, which keeps the scale of the output.
    """
    if len(wrong) != 1:
        return {}
    there, here = found[match.names[wrong[0]]], own[wrong[0]]
    shapes = there.shape, here.shape
    if there.ndim != 4 or there.shape[1] != 3 or shapes[0][:1] + shapes[0][2:] != shapes[1][:1] + shapes[1][2:]:
        return {}
    channels = here.shape[1]
    if channels == 1:
        return {wrong[0]: there.sum(dim=1, keepdim=True)}
    return {wrong[0]: there.repeat(1, -(-channels // 3), 1, 1)[:, :channels] * (3 / channels)}


class _Match(NamedTuple):
    """The backbone's names under one prefix of a file."""

    prefix: str
    names: dict[str, str]
    """From the backbone's names to the file's."""
    under: dict[str, str]
    """From all names under the prefix (removed) to the file's."""
    fitting: tuple[int, int]
    """Numbers of matching shapes and of matching names."""
    copies: list[str]
    """Other prefixes that match equally well."""


def _match(own: dict[str, Tensor], spelled: dict[str, str], found: dict[str, Tensor]) -> _Match:
    """The prefix with the most matching shapes and names; `spelled` is from respelled names to names in the file."""
    fitting: dict[str, tuple[int, int]] = {"": (0, 0)}
    for name, there in spelled.items():
        for prefix, rest in _splits(name):
            if rest in own:
                shaped, named = fitting.get(prefix, (0, 0))
                fitting[prefix] = (shaped + (own[rest].shape == found[there].shape), named + 1)

    def rank(prefix: str) -> tuple[int, int, bool, int]:
        shaped, named = fitting[prefix]
        return -shaped, -named, any(word in prefix for word in _OTHERS), len(prefix)

    best, *others = sorted(fitting, key=rank)
    under = {name.removeprefix(best): there for name, there in spelled.items() if name.startswith(best)}
    names = {name: under[name] for name in own if name in under}
    copies = [other for other in others if fitting[other] == fitting[best] and fitting[best][0] == len(names) > 0]
    return _Match(best, names, under, fitting[best], copies)


def _splits(name: str) -> Iterator[tuple[str, str]]:
    """All splits of a dotted name into a prefix, "" or ending in a dot, and the rest."""
    yield "", name
    for dot in re.finditer(r"\.", name):
        yield name[: dot.end()], name[dot.end() :]


def _spellings(backbone: nn.Module) -> list[Callable[[str], str]]:
    """Functions that respell the names of a file; the first keeps them."""
    children = [name for name, _ in backbone.named_children()]

    def cut(name: str) -> str:
        """Replace the index of a child in Sequential(*backbone.children()) by its name."""
        parts = name.split(".")
        for i, part in enumerate(parts):
            if part.isdecimal() and part.isascii() and int(part) < len(children):
                return ".".join([*parts[:i], children[int(part)], *parts[i + 1 :]])
        return name

    def dense(name: str) -> str:
        """torchvision's published DenseNets: denselayer1.norm.1.weight becomes denselayer1.norm1.weight."""
        return re.sub(r"(denselayer\d+\.(?:norm|conv))\.(?=[12]\.)", r"\1", name)

    return [str, cut, dense]


def _is_beside(backbone: nn.Module, name: str, beside: dict[str, str], found: dict[str, Tensor]) -> bool:
    """Whether a name that only the file has lies outside the backbone's layers."""
    layer, _, _ = name.rpartition(".")
    first = name.partition(".")[0]
    children = dict(backbone.named_children())
    if first not in children:
        return not first.isdecimal() or _is_linear(layer, beside, found)  # a Sequential may be followed by a classifier
    if name in dict(backbone.named_buffers()):  # not saved
        return True
    gone = {path for path, module in backbone.named_modules() if isinstance(module, nn.Identity)}
    return first in HEADS and any(prefix.rstrip(".") in gone for prefix, _ in _splits(name))


def _is_linear(layer: str, beside: dict[str, str], found: dict[str, Tensor]) -> bool:
    parts = {name.rpartition(".")[2]: found[there].ndim for name, there in beside.items() if name.startswith(layer)}
    return parts in ({"weight": 2, "bias": 1}, {"weight": 2})


def _shown(names: list[str]) -> str:
    if not names:
        return "nothing"
    return f"{', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"
