"""The read-out protocol: features of a flip, of crops, of stages."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from recviz.backbones import SmallResNet, resnet18
from recviz.errors import InputError
from recviz.probes.functional import Features
from recviz.probes.protocol import Hardware, Subject
from recviz.probes.readout import Reader, Readout
from recviz.runs.checkpoints import projector_start
from tests.tiny import TinyBackbone, tiny_data, tiny_trainer, tiny_vicreg


def network() -> nn.Module:
    torch.manual_seed(0)
    return resnet18(stem="cifar", width=0.125).eval()


def test_one_view_of_one_stage_is_the_backbones_own_features() -> None:
    backbone, images = network(), torch.randn(4, 3, 32, 32)
    torch.testing.assert_close(Reader(backbone, flip=False)(images), backbone(images))


def test_a_flip_is_averaged_and_changes_nothing_for_a_mirrored_image() -> None:
    backbone, images = network(), torch.randn(4, 3, 32, 32)
    expected = (backbone(images) + backbone(images.flip(3))) / 2
    torch.testing.assert_close(Reader(backbone)(images), expected)
    torch.testing.assert_close(Reader(backbone)(images.flip(3)), expected)


def test_crops_are_the_image_and_shifts_to_its_corners() -> None:
    backbone, images = network(), torch.randn(2, 3, 32, 32)
    padded = F.pad(images, [4] * 4, mode="reflect")
    shifts = [(4, 4), (0, 0), (0, 8), (8, 0), (8, 8)]
    features = [backbone(padded[:, :, y : y + 32, x : x + 32]) for y, x in shifts]
    assert torch.equal(padded[:, :, 4:36, 4:36], images)
    for crops in range(1, 6):
        found = Reader(backbone, flip=False, crops=crops)(images)
        torch.testing.assert_close(found, torch.stack(features[:crops]).mean(dim=0))


def test_stages_are_means_of_their_maps() -> None:
    backbone, images = network(), torch.randn(2, 3, 32, 32)
    found = Reader(backbone, flip=False, stages=3)(images)
    maps = backbone.layer1(backbone.relu(backbone.bn1(backbone.conv1(images))))
    second = backbone.layer2(maps)
    third = backbone.layer3(second)
    expected = torch.cat([second.mean(dim=(2, 3)), third.mean(dim=(2, 3)), backbone(images)], dim=1)
    torch.testing.assert_close(found, expected)
    assert not backbone.layer2._forward_hooks


def test_the_stages_of_a_small_resnet_end_with_its_features() -> None:
    backbone, images = SmallResNet([8, 12, 16], 24).eval(), torch.randn(2, 3, 32, 32)
    found = Reader(backbone, flip=False, stages=2)(images)
    maps = backbone.stages(backbone.stem(images))
    torch.testing.assert_close(found, torch.cat([maps.mean(dim=(2, 3)), backbone(images)], dim=1))
    assert Reader(backbone, stages=4)(images).shape == (2, 8 + 12 + 16 + 24)


def test_the_projectors_first_layer_takes_the_backbones_features(tmp_path: Path) -> None:
    module = tiny_vicreg(projector_dims=[24, 16])
    tiny_trainer(epochs=1).fit(module, datamodule=tiny_data())
    start = projector_start({"state_dict": module.state_dict()})
    module.eval()
    images = torch.randn(5, 3, 32, 32)
    found = Reader(module.backbone, flip=False, projector=start)(images)
    torch.testing.assert_close(found, module.projector[:3](module.backbone(images)))
    assert projector_start({"state_dict": tiny_vicreg(projector_dims=[24]).state_dict()}) is None


@pytest.mark.parametrize("settings", [{"crops": 6}, {"crops": 0}, {"stages": 5}, {"stages": 0}])
def test_numbers_out_of_range_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(InputError, match="1 to 5 crops and 1 to 4 stages"):
        Reader(network(), **settings)  # type: ignore[arg-type]


def test_other_backbones_have_no_stages() -> None:
    with pytest.raises(InputError, match="TinyBackbone has no stages layer1, layer2, layer3, layer4: use --stages 1"):
        Reader(TinyBackbone(), stages=2)
    assert Reader(TinyBackbone())(torch.randn(2, 3, 32, 32)).shape == (2, 16)


def test_processes_part_after_both_encodings(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    rows = Features(torch.randn(40, 8), torch.arange(40) % 2)
    monkeypatch.setattr(Readout, "encoded", lambda *args: seen.append("encoded") or [rows, rows])
    monkeypatch.setattr("recviz.probes.readout.part_company", lambda: seen.append("parted"))
    data = tiny_data()
    data.setup()
    subject = Subject(network(), data, "weights", "train", "test", None)
    result = Readout().evaluate(subject, Hardware(accelerator="cpu", devices=1))
    assert seen == ["encoded", "encoded", "parted"]
    assert result is not None
    assert {"top1", "readout/top1"} <= result.metrics.keys()


def test_the_command_shows_both_figures(recviz_command, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    import json

    probe = "probe --config quickstart.yaml --data.train_size 200 --data.val_size 60 --results r.json"
    options = "--backbone recviz.backbones.resnet18 --backbone.stem cifar --backbone.width 0.125"
    plain = recviz_command(*probe.split(), *options.split())
    rich = recviz_command(*probe.split(), *options.split(), "--protocol", "readout", "--crops", "3")
    assert (plain[0], rich[0]) == (0, 0)
    assert "read-out (flip True, crops 3, stages 2, projector False):" in rich[1]
    first, second = json.loads(Path("r.json").read_text())
    for name, value in first["metrics"].items():
        assert second["metrics"][name] == value, "the plain figures stay"
    assert set(second["metrics"]) - set(first["metrics"]) == {"readout/top1", "readout/top5", "readout/knn"}
    assert second["readout"]["feature_dim"] == 64 + 32
    code, _, err = recviz_command(*probe.split(), *options.split(), "--protocol", "readout", "--projector")
    assert code == 2
    assert "--projector needs the checkpoint of a run" in err
