"""Trials of backbones of others: modules of torchvision and timm, a user's own, and ones that do not fit."""

from __future__ import annotations

from tests.trials.trial import QUICK, Trial

FIT = f"fit {QUICK.replace(' --model.backbone.width 0.125', '')} --run_dir r --model.backbone"
PROBE = "probe --config quickstart.yaml --data.train_size 60 --data.val_size 30 --data.batch_size 10 --backbone"
MISFITS = {
    "GivesTuple": "got a tuple in eval mode",
    "GivesDict": "got a dict",
    "GivesMap": r"got \[2, 16, 2, 2\] in eval mode; pool its maps",
    "GivesClasses": r"here \[N, 24\]; got \[2, 16\]",
    "GivesIntegers": "got torch.int64",
    "SaysNoWidth": "feature_dim",
    "OneSize": "takes images of 96×96 pixels, but not of 32×32",
}
NAMED = "torchvision.models.get_model --model.backbone.name"
TIMM = "timm.create_model --{0}.model_name"

TRIALS = {
    **{f"fit {name}": Trial(f"{FIT} tests.misfits.{name}", said, 2) for name, said in MISFITS.items()},
    **{f"probe {name}": Trial(f"{PROBE} tests.misfits.{name}", said, 2) for name, said in MISFITS.items()},
    "fit with a tuple in training": Trial(f"{FIT} tests.misfits.GivesTupleInTraining", "a tuple in train mode", 2),
    "local views that are too small": Trial(
        f"{FIT} tests.misfits.OneSize --model.backbone.size 32 --data.views.groups '[{{count: 1, size: 16}}]'",
        "takes images of 32×32 pixels, but not of 16×16", 2,
    ),
    "a transformer of timm on 32 pixels": Trial(
        f"{FIT} {TIMM.format('model.backbone')} vit_tiny_patch16_224", "takes images of 224×224 pixels", 2
    ),
    "a transformer of torchvision on 32 pixels": Trial(f"{FIT} torchvision.models.vit_b_32", "images of 224×224", 2),
    "a transformer built for 32 pixels": Trial(
        f"{FIT} {TIMM.format('model.backbone')} vit_tiny_patch16_224 --model.backbone.dict_kwargs.img_size 32"
        " --model.backbone.dict_kwargs.depth 1",
        "feature_dim 192",
    ),
    "GoogLeNet with its auxiliary classifiers": Trial(f"{FIT} torchvision.models.googlenet", "feature_dim 1024"),
    "a model of torchvision by its name": Trial(f"{FIT} {NAMED} shufflenet_v2_x0_5", "feature_dim 1024"),
    "arguments that torchvision's function gives too": Trial(
        f"{FIT} torchvision.models.swin_t", "torchvision.models.get_model with name swin_t", 2
    ),
    "a width that torchvision's function gives too": Trial(
        f"{FIT} torchvision.models.wide_resnet50_2", "torchvision.models.get_model with name wide_resnet50_2", 2
    ),
    "a block that torchvision's function gives too": Trial(
        f"{FIT} torchvision.models.shufflenet_v2_x0_5", "torchvision.models.get_model with name shufflenet_v2_x0_5", 2
    ),
    "weights of torchvision, for which its function gives arguments": Trial(
        f"{FIT} torchvision.models.googlenet --model.backbone.weights IMAGENET1K_V1", "get_model with name googlenet", 2
    ),
    "a name that torchvision does not have": Trial(f"{FIT} {NAMED} resnet81", "did you mean resnet18", 2),
    "Inception on 32 pixels": Trial(f"{PROBE} torchvision.models.inception_v3", "but not of 32×32", 2),
    "a bug in a backbone, in a probe": Trial(f"{PROBE} tests.misfits.FailsAlways", raises=RuntimeError),
    "a fault in a backbone after some batches, in a probe": Trial(
        f"{PROBE} tests.misfits.FailsLater", raises=RuntimeError
    ),
    "a bug in a backbone, in fit": Trial(f"{FIT} tests.misfits.FailsAlways", raises=RuntimeError),
    "a fault in a backbone after some batches, in fit": Trial(
        f"{FIT} tests.misfits.FailsLater --model.backbone.after 6", raises=RuntimeError
    ),
}  # fmt: skip
