"""Bad input to every command: what is typed, and what the one line must say. Paths are those of `bad_world`."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import NamedTuple

import torch

import recviz.cli
from tests.datasets import make_flat, make_folder, make_splits


class Bad(NamedTuple):
    """A command line that cannot work."""

    args: str
    said: str
    environment: dict[str, str] | None = None


QUICK = "fit --config quickstart.yaml --trainer.max_epochs 1"
MUON = "Muon cannot train this model" if hasattr(torch.optim, "Muon") else "torch.optim has no 'Muon'"
SMALL = (
    f"{QUICK} --data.train_size 64 --data.val_size 32 --data.batch_size 16 --model.projector_dims [32,32] "
    "--model.backbone.width 0.125 --trainer.callbacks null --model.warmup_epochs 0"
)
NEIGHBOURS = "neighbours --ckpt_path run --images flat --query flat/000.png"
PROBE_OTHER = "probe --backbone recviz.backbones.resnet18"
BORING = "lightning.pytorch.demos.boring_classes.BoringDataModule"
FOLDER = "fit --config folder.yaml --trainer.accelerator cpu --data.num_workers 0"
PROBE = "probe --ckpt_path run/checkpoints/last.ckpt"
PACKED = f"{FOLDER} --data.batch_size 4 --data recviz.PackedDataModule --data.root"

CASES = {
    "": {
        "no such command": Bad("fti", "'fti' is not a command of recviz; did you mean recviz fit?"),
        "an option first": Bad("--config x.yaml", "did you mean recviz fit --config x.yaml?"),
    },
    "recipes": {
        "none": Bad("fit --config cifar1000.yaml", "no recipe cifar1000.yaml"),
        "no name": Bad("fit --config", "--config needs a value"),
        "a folder": Bad("fit --config photos", "photos is a folder"),
        "not YAML": Bad("fit --config broken.yaml", "broken.yaml"),
        "not text": Bad("fit --config binary.yaml", "binary.yaml"),
        "a list": Bad("fit --config list.yaml", "list.yaml"),
        "empty": Bad("fit --config nothing.yaml", "nothing.yaml"),
        "no model": Bad("fit --config no-model.yaml", "model"),
        "an unknown key": Bad("fit --config unknown.yaml", "modle"),
        "an unknown key inside": Bad(f"{QUICK} --config inside.yaml", "max_epoks"),
        "a study": Bad("fit --config study-smoke.yaml", "is a study"),
        "micro-batches of nothing": Bad(f"{QUICK} --micro_batch_size 0", "micro_batch_size"),
        "text for a number": Bad(f"{QUICK} --config text.yaml", "base_lr"),
        "a number for a class": Bad(f"{QUICK} --config number.yaml", "model"),
        "no recipe at all": Bad("fit", "quickstart (two minutes on a CPU"),
    },
    "options of fit": {
        "unknown trainer key": Bad(f"{QUICK} --trainer.max_epoch 3", "did you mean --trainer.max_epochs"),
        "unknown model key": Bad(f"{QUICK} --model.base_lrr 3", "did you mean --model.base_lr"),
        "unknown data key": Bad(f"{QUICK} --data.batchsize 3", "did you mean --data.batch_size"),
        "unknown option": Bad(f"{QUICK} --run_dri x", "did you mean --run_dir"),
        "a word too many": Bad(f"{QUICK} now", "now"),
        "no value": Bad(f"{QUICK} --model.base_lr", "--model.base_lr needs a value"),
        "unknown class": Bad(f"{QUICK} --data CIFAR1DataModule", "did you mean CIFAR10DataModule"),
        "unknown method": Bad(f"{QUICK} --model VICRegg", "did you mean VICReg"),
        "a module for a class": Bad(f"{QUICK} --model recviz.methods", "recviz.methods"),
        "another kind of class": Bad(f"{QUICK} --model torch.nn.Linear", "Linear"),
        "a class for data that is none": Bad(f"{QUICK} --data recviz.VICReg", "VICReg"),
        "not a number": Bad(f"{QUICK} --model.base_lr high", "base_lr"),
        "NaN": Bad(f"{QUICK} --model.base_lr nan", "base_lr"),
        "infinity": Bad(f"{QUICK} --model.base_lr inf", "base_lr"),
        "a negative rate": Bad(f"{QUICK} --model.base_lr=-1", "base_lr"),
        "a negative weight": Bad(f"{QUICK} --model.variance_weight -1", "variance_weight must be"),
        "negative warm-up": Bad(f"{QUICK} --model.warmup_epochs=-2", "warmup_epochs"),
        "a probability above one": Bad(f"{QUICK} --data.views.a.flip 3", "must be a probability in 0..1, got 3"),
        "no size": Bad(f"{QUICK} --data.views.size 0", "size"),
        "a huge size": Bad(f"{QUICK} --data.views.size 1000000", "size"),
        "a scale of crops backwards": Bad(f"{QUICK} --data.views.a.scale [0.9,0.1]", "scale"),
        "an even blur": Bad(f"{QUICK} --data.views.a.blur 2.5", "blur"),
        "no width": Bad(f"{QUICK} --model.backbone.width 0", "width must leave at least one channel"),
        "unknown stem": Bad(f"{QUICK} --model.backbone.stem cifra", "stem"),
        "no projector": Bad(f"{QUICK} --model.projector_dims []", "projector_dims"),
        "a projector of nothing": Bad(f"{QUICK} --model.projector_dims [0]", "projector_dims"),
        "a negative projector": Bad(f"{QUICK} --model.projector_dims [16,-4]", "projector_dims"),
        "a backbone that is no module": Bad(f"{QUICK} --model.backbone os.system", "os.system"),
        "a backbone that is not there": Bad(f"{QUICK} --model.backbone recviz.backbones.resnet19", "resnet19"),
        "a backbone of no package": Bad(f"{QUICK} --model.backbone nowhere.Net", "nowhere.Net"),
        "an optimiser that is none": Bad(f"{QUICK} --model.optimizer os.system", "os.system"),
        "an optimiser of another kind": Bad(f"{QUICK} --model.optimizer torch.nn.Linear", "Linear"),
        "negative momentum": Bad(f"{QUICK} --model.optimizer recviz.LARS --model.optimizer.momentum=-1", "momentum"),
        "one sample per process": Bad(f"{QUICK} --data.batch_size 1", "batch_size must be at least 2 per process"),
        "batch beyond the data": Bad(f"{QUICK} --data.batch_size 9999", "lower data.batch_size"),
        "no share of the data": Bad(f"{QUICK} --data.fraction 0", "fraction must be above 0"),
        "more than the data": Bad(f"{QUICK} --data.fraction 1.5", "fraction must be above 0"),
        "class out of range": Bad(f"{QUICK} --data.classes 5-12", "classes must be from 0 to 9, got 10"),
        "classes that are no list": Bad(f"{QUICK} --data.classes a-b", "classes must look like"),
        "a class twice": Bad(f"{QUICK} --data.classes 1,1", "each class once"),
        "no classes": Bad(f"{QUICK} --data.classes []", "classes must name at least one"),
        "k of zero": Bad(f"{QUICK} --probe.k 0", "OnlineProbe needs positive k"),
        "a temperature of zero": Bad(f"{QUICK} --probe.temperature 0", "temperature"),
        "no end": Bad(f"{QUICK} --trainer.max_epochs -1", "set trainer.max_epochs"),
        "accumulation": Bad(f"{QUICK} --trainer.accumulate_grad_batches 2", "statistic of the batch"),
        "probe data that are not there": Bad(f"{QUICK} --config probe.yaml", "nowhere is not a folder"),
        "a checkpoint every 0 epochs": Bad(f"{QUICK} --keep_every_n_epochs=-1", "keep_every_n_epochs"),
        "no time for a rank": Bad(f"{QUICK} --rank_timeout 0", "rank_timeout"),
        "workers below none": Bad(f"{QUICK} --data.num_workers=-1", "num_workers"),
        "a bad seed": Bad(f"{QUICK} --seed_everything=-5", "seed"),
        "a seed that is text": Bad(f"{QUICK} --seed_everything five", "seed"),
        "a run folder that exists": Bad(f"{QUICK} --run_dir taken", "the run folder taken exists"),
        "a run folder in a file": Bad(f"{QUICK} --run_dir text.ckpt/run", "text.ckpt/run"),
        "a callback that is none": Bad(f"{QUICK} --trainer.callbacks os.system", "os.system"),
    },
    "hardware": {
        "a device that is not there": Bad(f"{QUICK} --trainer.accelerator tpu", "tpu is not on this machine"),
        "a GPU that is not there": Bad(f"{QUICK} --trainer.accelerator gpu", "use auto or cpu"),
        "no such accelerator": Bad(f"{QUICK} --trainer.accelerator foo", "foo"),
        "no such strategy": Bad(f"{QUICK} --trainer.strategy foo", "foo"),
        "no such precision": Bad(f"{QUICK} --trainer.precision 8-bit", "precision"),
        "no devices": Bad(f"{QUICK} --trainer.accelerator cpu --trainer.devices 0", "devices"),
        "devices that are no number": Bad(f"{QUICK} --trainer.accelerator cpu --trainer.devices many", "devices"),
        "half precision throughout": Bad(f"{QUICK} --trainer.precision bf16-true", "bf16-mixed"),
    },
    "environment": {
        "a number of processes that is none": Bad(QUICK, "WORLD_SIZE", {"WORLD_SIZE": "two"}),
        "SLURM without a number of cores": Bad(
            f"{FOLDER} --data.root photos --data.num_workers null --data.batch_size 4", "SLURM_CPUS_PER_TASK",
            {"SLURM_CPUS_PER_TASK": "x"},
        ),
        "a rank without its job": Bad(QUICK, "LOCAL_RANK", {"LOCAL_RANK": "seven"}),
    },
    "images": {
        "missing root": Bad(f"{FOLDER} --data.root nowhere", "nowhere is not a folder"),
        "a file as root": Bad(f"{FOLDER} --data.root text.ckpt", "text.ckpt is not a folder"),
        "root without images": Bad(f"{FOLDER} --data.root empty", "empty holds no images"),
        "mixed root": Bad(f"{FOLDER} --data.root mixed", "holds both images"),
        "unreadable image": Bad(f"{FOLDER} --data.root torn --data.memory_size 32", "torn/class0/torn.png"),
        "splits of other classes": Bad(f"{FOLDER} --data.root unlike", "the splits need the same classes"),
        "a list that is not there": Bad(f"{FOLDER} --data.root splits --data.train_list none.txt", "none.txt"),
        "a list of nothing here": Bad(
            f"{FOLDER} --data.root splits --data.train_list strange.txt", "nowhere/x.png matches 0 images"
        ),
        "an exclusion that is not there": Bad(f"{FOLDER} --data.root photos --data.exclude none.txt", "none.txt"),
        "no CIFAR and no download": Bad(
            "fit --config cifar10.yaml --data.root empty --data.download false", "no CIFAR10 in empty"
        ),
        "no ImageNet": Bad("fit --config imagenet100.yaml --data.root empty", "empty"),
        "no packed dataset": Bad(f"{PACKED} photos", "photos"),
        "no such packed dataset": Bad(f"{PACKED} nowhere", "nowhere"),
        "a manifest that is torn": Bad(f"{PACKED} packed-torn", "packed-torn"),
        "a manifest of later days": Bad(f"{PACKED} packed-later", "packed-later"),
        "a packed dataset without a shard": Bad(f"{PACKED} packed-lacking", "packed-lacking"),
        "a split that was not packed": Bad(f"{PACKED} packed --data.classes 7", "classes"),
        "no such Hugging Face data": Bad(
            f"{FOLDER} --data recviz.HuggingFaceDataModule --data.path ./nowhere", "nowhere"
        ),
    },
    "checkpoints": {
        "none": Bad(f"{QUICK} --ckpt_path none.ckpt", "no checkpoint at none.ckpt"),
        "a folder": Bad(f"{QUICK} --ckpt_path photos", "photos"),
        "text": Bad(f"{QUICK} --ckpt_path text.ckpt", "text.ckpt is not a checkpoint"),
        "nothing": Bad(f"{QUICK} --ckpt_path empty.ckpt", "empty.ckpt is not a checkpoint"),
        "cut short": Bad(f"{QUICK} --ckpt_path torn.ckpt", "torn.ckpt is not a checkpoint"),
        "of other things": Bad(f"{QUICK} --ckpt_path list.ckpt", "list.ckpt is not a checkpoint"),
        "of another architecture": Bad(f"{QUICK} --ckpt_path other.ckpt", "other.ckpt is of another architecture"),
        "no run to go on with": Bad("fit --resume nowhere", "no config.yaml"),
        "a resume without a name": Bad("fit --resume", "--resume needs a run folder"),
        "a resume elsewhere": Bad("fit --resume run --run_dir other", "leave out --run_dir"),
        "a resume of another checkpoint": Bad("fit --resume run --ckpt_path text.ckpt", "leave out --ckpt_path"),
        "a resume with another rate": Bad("fit --resume run --model.base_lr 9", "model.base_lr 0.3 → 9"),
        "a resume for longer": Bad("fit --resume run --trainer.max_epochs 9", "--allow_changes true"),
        "a resume of damaged settings": Bad("fit --resume run-torn", "run-torn"),
    },
    "probe": {
        "no checkpoint": Bad("probe --ckpt_path none.ckpt", "no checkpoint at none.ckpt"),
        "a checkpoint of others": Bad("probe --ckpt_path other.ckpt", "was not written by recviz fit"),
        "a damaged checkpoint": Bad("probe --ckpt_path torn.ckpt", "torn.ckpt"),
        "two backbones": Bad(f"{PROBE} --backbone recviz.backbones.resnet18", "give it or --backbone, not both"),
        "a backbone without data": Bad("probe --backbone recviz.backbones.resnet18", "needs data to probe it on"),
        "a backbone that is no module": Bad("probe --backbone os.system --config cifar10.yaml", "os.system"),
        "weights that are not there": Bad(
            f"{PROBE_OTHER} --backbone.weights none.pth --config quickstart.yaml", "none.pth"
        ),
        "unknown protocol": Bad(f"{PROBE} --protocol best", "protocol"),
        "a setting of another protocol": Bad(f"{PROBE} --epochs 3", "--epochs is not a setting of --protocol linear"),
        "no epochs": Bad(f"{PROBE} --protocol official --epochs 0", "--epochs must be at least 1"),
        "a negative rate": Bad(f"{PROBE} --protocol official --epochs 1 --head_lr=-1", "learning rates"),
        "images without labels": Bad(f"{PROBE} --data.root flat", "a probe needs labelled images"),
        "an unknown option": Bad(f"{PROBE} --protocl linear", "did you mean --protocol"),
        "results that are something else": Bad(f"{PROBE} --results list.json", "list.json"),
        "results in a file": Bad(f"{PROBE} --results text.ckpt/results.json", "text.ckpt"),
        "a classifier under another ending": Bad(f"{PROBE} --save probe.pth", "--save must end in .ckpt"),
        "unknown precision": Bad(f"{PROBE} --trainer.precision 64-true", "64-true"),
        "a GPU that is not there": Bad(f"{PROBE} --trainer.accelerator gpu", "gpu"),
        "a recipe without data": Bad(f"{PROBE} --config wandb.yaml", "says nothing of data"),
    },
    "check and pack": {
        "no folder": Bad("check", "recviz check: the following arguments are required: dir"),
        "not a folder": Bad("check nowhere", "nowhere"),
        "no images": Bad("check empty", "empty holds no images"),
        "no threads": Bad("check photos --num_workers 0", "--num_workers must be at least 1"),
        "an output in no folder": Bad("check photos --out nowhere/bad.txt", "nowhere/bad.txt"),
        "one folder": Bad("pack photos", "required: dst"),
        "into itself": Bad("pack photos photos/packed", "lies in photos"),
        "nothing": Bad("pack empty packed2", "empty holds no images"),
        "no size": Bad("pack photos packed2 --size 0", "--size must be at least 1"),
        "a quality beyond 100": Bad("pack photos packed2 --quality 101", "--quality must be in 1..100"),
        "over another packed dataset": Bad("pack flat packed", "packed"),
        "over something else": Bad("pack photos taken2", "taken2"),
        "a broken image": Bad("pack torn packed2", "torn.png"),
    },
    "compare": {
        "nothing": Bad("compare", "required: runs"),
        "no run": Bad("compare nowhere", "nowhere"),
        "a folder that is no run": Bad("compare photos", "photos"),
        "no page": Bad("compare run --out report.pdf", "--out must end in .html"),
        "results that are something else": Bad("compare list.json", "list.json"),
        "results that are text": Bad("compare text.json", "text.json"),
        "a page in no folder that can be": Bad("compare run --out text.ckpt/a.html", "text.ckpt/a.html"),
    },
    "study": {
        "nothing": Bad("study", "--config needs the name of a study"),
        "not there": Bad("study --config none.yaml", "no recipe none.yaml"),
        "a recipe": Bad("study --config quickstart.yaml", "is not a study"),
        "an empty grid": Bad("study --config study-empty.yaml", "is not a study"),
        "a name that is a path": Bad("study --config study-path.yaml", "is not a study"),
        "a base that is not there": Bad("study --config study-base.yaml", "no recipe none.yaml"),
        "no jobs": Bad("study --config study-smoke.yaml --jobs 0", "--jobs must be at least 1"),
        "an unknown launcher": Bad("study --config study-smoke.yaml --launcher cloud", "launcher"),
        "an unknown option": Bad("study --config study-smoke.yaml --job 2", "--job"),
        "a folder in a file": Bad("study --config study-smoke.yaml --folder text.ckpt/s", "text.ckpt/s"),
    },
    "taking away": {
        "export of nothing": Bad("export --ckpt_path nowhere", "nowhere"),
        "export in an unknown form": Bad("export --ckpt_path run --format tflite", "format"),
        "export under another ending": Bad("export --ckpt_path run --format onnx --out a.pt", "must end in .onnx"),
        "export of others": Bad("export --ckpt_path other.ckpt", "was not written by recviz fit"),
        "export into a file": Bad("export --ckpt_path run --out text.ckpt/a.safetensors", "text.ckpt"),
        "export to timm of a narrow network": Bad("export --ckpt_path run --format timm --out t", "another network"),
        "embed without a run": Bad("embed --ckpt_path nowhere --images photos", "nowhere"),
        "embed of two things": Bad("embed --ckpt_path run --images flat --data recviz.PatternsDataModule", "not both"),
        "embed of no images": Bad("embed --ckpt_path run --images empty", "empty holds no images"),
        "embed of fewer than none": Bad("embed --ckpt_path run --images photos --limit=-1", "--limit"),
        "embed into a file": Bad("embed --ckpt_path run --images photos --out text.ckpt", "text.ckpt"),
        "embed of two images": Bad("embed --ckpt_path run --images two", "at least 3 images"),
        "neighbours of nothing": Bad("neighbours --ckpt_path run --images photos", "query"),
        "neighbours of no image": Bad("neighbours --ckpt_path run --images photos --query none.jpg", "none.jpg"),
        "neighbours of text": Bad("neighbours --ckpt_path run --images photos --query text.ckpt", "text.ckpt"),
        "no neighbours": Bad(f"{NEIGHBOURS} --k 0", "--k must be"),
        "neighbours in a PDF": Bad(f"{NEIGHBOURS} --out a.pdf", "--out"),
        "predict without a classifier": Bad("predict photos", "ckpt_path"),
        "predict by a run": Bad("predict photos --ckpt_path run/checkpoints/last.ckpt", "holds no classifier"),
        "predict by text": Bad("predict photos --ckpt_path text.ckpt", "text.ckpt is not a checkpoint"),
        "predict of no folder": Bad("predict nowhere --ckpt_path probe.ckpt", "nowhere"),
        "predict of no images": Bad("predict empty --ckpt_path probe.ckpt", "empty holds no images"),
        "predict of broken images only": Bad("predict all-torn --ckpt_path probe.ckpt", "none of 2 images can be read"),
        "predict into a folder": Bad("predict photos --ckpt_path probe.ckpt --out taken", "taken is a folder"),
        "views under another ending": Bad("views --config quickstart.yaml --out views.gif", "--out must end in .png"),
        "no views": Bad("views --config quickstart.yaml --rows 0", "--rows must be at least 1"),
        "views of others' data": Bad(f"views --config quickstart.yaml --data {BORING}", "needs data of recviz"),
    },
    "hints at commands and recipes": {
        "American spelling": Bad("neighbors --k 3", "did you mean recviz neighbours?"),
        "another program's word": Bad("train --config cifar10.yaml", "did you mean recviz fit?"),
        "a word for probe": Bad("evaluate run", "did you mean recviz probe?"),
        "a word for embed": Bad("extract run", "did you mean recviz embed?"),
        "a recipe for a command": Bad("cifar10.yaml", "did you mean recviz fit --config cifar10.yaml?"),
        "nothing like it": Bad("qqqq", "there is: fit, probe"),
        "letters swapped": Bad("fit --config cifra10", "did you mean cifar10.yaml?"),
        "capitals": Bad("fit --config QuickStart", "did you mean quickstart.yaml?"),
        "a recipe without --config": Bad("fit cifar10.yaml", "a recipe is given by --config: --config cifar10.yaml"),
        "its bare name": Bad("fit cifar10", "a recipe is given by --config: --config cifar10"),
        "no recipe for views": Bad("views", "recviz views needs --config"),
    },
    "hints at options": {
        "lr": Bad(f"{QUICK} --lr 1", "did you mean --model.base_lr?"),
        "lr without a recipe": Bad("fit --lr 1", "did you mean --model.base_lr?"),
        "batch_size": Bad(f"{QUICK} --batch_size 1", "did you mean --data.batch_size?"),
        "batch size with a dash": Bad(f"{QUICK} --batch-size 1", "did you mean --data.batch_size?"),
        "epochs": Bad(f"{QUICK} --epochs 1", "did you mean --trainer.max_epochs?"),
        "max_epochs": Bad(f"{QUICK} --max_epochs=1", "did you mean --trainer.max_epochs?"),
        "gpus": Bad(f"{QUICK} --gpus 1", "did you mean --trainer.devices?"),
        "data_dir": Bad("fit --config folder.yaml --data_dir x", "did you mean --data.root?"),
        "root": Bad("fit --config folder.yaml --root x", "did you mean --data.root?"),
        "workers": Bad("fit --config folder.yaml --workers 1", "did you mean --data.num_workers?"),
        "seed": Bad(f"{QUICK} --seed 1", "did you mean --seed_everything?"),
        "output": Bad(f"{QUICK} --output x", "did you mean --run_dir?"),
        "ckpt": Bad(f"{QUICK} --ckpt x", "did you mean --ckpt_path?"),
        "a word of others, misspelt": Bad(f"{QUICK} --chekpoint x", "did you mean --ckpt_path?"),
        "precision": Bad(f"{QUICK} --precision 16", "did you mean --trainer.precision?"),
        "image size": Bad(f"{QUICK} --img_size 16", "did you mean --data.views.size?"),
        "weight decay": Bad(f"{QUICK} --wd 1", "did you mean --model.optimizer.weight_decay?"),
        "one dash": Bad(f"{QUICK} -b 1", "did you mean --data.batch_size?"),
        "a wrong group": Bad(f"{QUICK} --trainer.batch_size 1", "did you mean --data.batch_size?"),
        "within a group": Bad(f"{QUICK} --probe.kind x", "did you mean --probe.k?"),
        "of a nested class": Bad(f"{QUICK} --data.views.flipp 1", "--data.views"),
        "lr of a probe": Bad("probe --lr 1", "did you mean --head_lr?"),
        "weights of predict": Bad("predict flat --weights x", "did you mean --ckpt_path?"),
        "folder of embed": Bad("embed --folder flat", "did you mean --images?"),
        "output of compare": Bad("compare run --output x", "did you mean --out?"),
        "output of views": Bad("views --config quickstart.yaml --output x", "did you mean --out?"),
        "output of export": Bad("export --ckpt_path run --output x", "did you mean --out?"),
        "workers of check": Bad("check photos --workers 1", "did you mean --num_workers?"),
        "workers of pack": Bad("pack photos x --workers 1", "did you mean --num_workers?"),
        "a checkpoint of neighbours": Bad("neighbours --ckpt run", "did you mean --ckpt_path?"),
        "workers of a study": Bad("study --config study-smoke.yaml --workers 1", "did you mean --data.num_workers?"),
        "lr of a study": Bad("study --config study-smoke.yaml --lr 1", "did you mean --model.base_lr?"),
        "a study's setting that is none": Bad("study --config study-smoke.yaml --data.foo 1", "no option --data.foo"),
        "a run folder of a study": Bad("study --config study-smoke.yaml --run_dir x", "--run_dir is the study's own"),
        "one option of fit without a value": Bad(f"{QUICK} --compile", "--compile needs a value"),
        "a misspelt key of a recipe": Bad("fit --config unknown.yaml", "did you mean model?"),
    },
    "hints at values": {
        "capitals of a method": Bad(f"{QUICK} --model VICreg", "did you mean VICReg?"),
        "a backbone": Bad(f"{QUICK} --model.backbone recviz.backbones.resnet51", "mean recviz.backbones.resnet5"),
        "an optimiser": Bad(f"{QUICK} --model.optimizer torch.optim.AdamW2", "did you mean torch.optim.AdamW?"),
        "a strategy that splits weights": Bad(f"{QUICK} --trainer.strategy deepspeed", "use ddp"),
        "a strategy": Bad(f"{QUICK} --trainer.strategy dpp", "choices: auto, ddp"),
        "an accelerator": Bad(f"{QUICK} --trainer.accelerator gpuu", "did you mean gpu?"),
        "a precision": Bad(f"{QUICK} --trainer.precision bf16mixed", "did you mean bf16-mixed?"),
        "auto": Bad(f"{QUICK} --trainer.precision aut", "did you mean auto?"),
        "another, where auto is right": Bad(f"{QUICK} --trainer.precision auto --model.base_lr x", "base_lr"),
        "a format": Bad("export --ckpt_path run --format onn", "choose from"),
        "a launcher": Bad("study --config study-smoke.yaml --launcher slrum", "choose from"),
        "a callback": Bad(f"{QUICK} --trainer.callbacks EarlyStoping", "did you mean EarlyStopping?"),
        "two kinds of number": Bad(f"{QUICK} --seed_everything five", "five"),
    },
    "each command's own arguments": {
        "pack of no folder": Bad("pack nowhere packed2", "nowhere is not a folder"),
        "pack of a file": Bad("pack text.ckpt packed2", "text.ckpt is not a folder"),
        "pack into a file": Bad("pack flat text.ckpt", "cannot write to text.ckpt"),
        "check of two folders": Bad("check photos flat", "recviz check: unrecognized arguments: flat"),
        "predict of nothing": Bad("predict --ckpt_path probe.ckpt", "arguments are required: folder"),
        "embed with a word": Bad("embed flat --ckpt_path run", "recviz embed: unrecognized arguments: flat"),
        "predict of a file": Bad("predict flat/000.png --ckpt_path probe.ckpt", "flat/000.png"),
        "neighbours in a file": Bad("neighbours --images text.ckpt --query flat/000.png --ckpt_path run", "text.ckpt"),
        "probe of a folder": Bad("probe --ckpt_path photos", "photos"),
        "export of settings": Bad("export --ckpt_path run/config.yaml", "run/config.yaml is not a checkpoint"),
    },
    "optimisers and metrics": {
        "Muon": Bad(f"{SMALL} --model.optimizer torch.optim.Muon", MUON),
        "SparseAdam": Bad(f"{SMALL} --model.optimizer torch.optim.SparseAdam", "SparseAdam requires sparse gradients"),
        "LBFGS": Bad(f"{SMALL} --model.optimizer torch.optim.LBFGS", "LBFGS"),
        "settings that it refuses": Bad(
            f"{SMALL} --model.optimizer torch.optim.Adam --model.optimizer.betas [2,3]", "Adam cannot train this model"
        ),
        "one of the user's": Bad(
            f"{SMALL} --model.optimizer tests.cli.faulty.RefusingOptimizer", "parameters must be sorted"
        ),
        "its learning rate": Bad(f"{SMALL} --model.optimizer.lr 1", "model.optimizer"),
        "EarlyStopping": Bad(
            f"{SMALL} --trainer.callbacks EarlyStopping --trainer.callbacks.monitor val_loss",
            "EarlyStopping monitors 'val_loss', which this run does not log; it logs train/total"
        ),
        "a misspelt metric": Bad(
            f"{SMALL} --trainer.callbacks EarlyStopping --trainer.callbacks.monitor train/totl",
            "did you mean train/total?"
        ),
        "ModelCheckpoint": Bad(
            f"{SMALL} --trainer.callbacks ModelCheckpoint --trainer.callbacks.monitor val_acc",
            "ModelCheckpoint monitors 'val_acc'"
        ),
        "two validation loaders": Bad(f"{SMALL} --data tests.cli.faulty.TwoLoaders", "2 validation loaders"),
    },
    "classes of the user": {
        "a value that a backbone refuses": Bad(
            f"{QUICK} --model.backbone tests.cli.faulty.RefusesItsValue", "RefusesItsValue: depth must be even, got 3"
        ),
        "a value that a callback refuses": Bad(
            f"{QUICK} --trainer.callbacks tests.cli.faulty.RefusingCallback", "RefusingCallback: every must be even"
        ),
        "a file that a callback needs": Bad(f"{QUICK} --trainer.callbacks tests.cli.faulty.ReadsAFile", "nowhere.txt"),
        "data that are refused": Bad(f"{QUICK} --data tests.cli.faulty.RefusesItsData", "split must be sorted"),
        "a package that is not there": Bad(
            f"{QUICK} --model.backbone tests.cli.needs_a_package.Net", "pip install a_package_that_nobody_has"
        ),
        "a logger without its package": Bad(
            f"{QUICK} --trainer.logger lightning.pytorch.loggers.CometLogger", "pip install comet_ml"
        ),
        "a model that timm lacks": Bad(
            f"{QUICK} --model.backbone timm.create_model --model.backbone.model_name resnet10tt", "mean resnet10t?"
        ),
        "weights that torchvision lacks": Bad(
            f"{QUICK} --model.backbone torchvision.models.resnet18 --model.backbone.weights FOO", "IMAGENET1K_V1"
        ),
    },
}  # fmt: skip


def bad_world(root: Path) -> None:
    """Fill the working folder `root` with what the cases name: a run, its probe, and all kinds of broken things."""
    photos, run = str(root / "photos"), root / "run"
    make_folder(root / "photos", classes=2, per_class=12)
    make_flat(root / "flat", 6)
    make_flat(root / "two", 2)
    for name in ("empty", "taken", "taken2"):
        (root / name).mkdir()
    (root / "taken2/notes.txt").write_text("mine")
    make_folder(root / "mixed", classes=2, per_class=3)
    shutil.copy(root / "flat/000.png", root / "mixed/loose.png")
    make_splits(root / "unlike", classes=2)
    make_splits(root / "splits", classes=2)
    (root / "unlike/val/class0").rename(root / "unlike/val/other")
    make_folder(root / "torn", classes=2, per_class=4)
    (root / "torn/class0/000.png").rename(root / "torn/class0/torn.png")
    (root / "torn/class0/torn.png").write_bytes((root / "flat/000.png").read_bytes()[:60])
    (root / "all-torn").mkdir()
    for name in ("a.png", "b.png"):
        shutil.copy(root / "torn/class0/torn.png", root / "all-torn" / name)

    small = "--data.views.size 32 --data.batch_size 6 --data.num_workers 0 --model.projector_dims [16,16] "
    small += (
        "--model.backbone.stem cifar --model.backbone.width 0.125 --trainer.max_epochs 1 --trainer.accelerator cpu "
    )
    small += "--trainer.precision 32-true"
    assert (
        recviz.cli.main([*f"fit --config folder.yaml {small}".split(), "--data.root", photos, "--run_dir", str(run)])
        == 0
    )
    last = str(run / "checkpoints/last.ckpt")
    assert recviz.cli.main(["probe", "--ckpt_path", last, "--save", str(root / "probe.ckpt"), "--no-cache"]) == 0
    assert recviz.cli.main(["pack", photos, str(root / "packed"), "--size", "32"]) == 0
    shutil.copytree(run, root / "run-torn")
    (root / "run-torn/config.yaml").write_text("model: [")
    for name in ("torn", "later", "lacking"):
        shutil.copytree(root / "packed", root / f"packed-{name}")
    manifest = root / "packed/manifest.json"
    (root / "packed-torn/manifest.json").write_text(manifest.read_text()[:40])
    (root / "packed-later/manifest.json").write_text(json.dumps({**json.loads(manifest.read_text()), "format": 999}))
    next((root / "packed-lacking").glob("*.tar")).unlink()

    texts = {
        "text.ckpt": "hello", "text.json": "hello", "list.json": '{"a": 1}', "strange.txt": "nowhere/x.png\n",
        "broken.yaml": "model: [1,\ndata: {", "list.yaml": "- 1\n- 2\n", "nothing.yaml": "",
        "no-model.yaml": "seed_everything: 1\n",
        "unknown.yaml": "modle: recviz.VICReg\n", "inside.yaml": "trainer: {max_epoks: 3}\n",
        "text.yaml": "model: {init_args: {base_lr: high}}\n", "number.yaml": "model: 5\n",
        "probe.yaml": "probe: {data: {class_path: recviz.ImageFolderDataModule, init_args: {root: nowhere}}}\n",
        "study-empty.yaml": "base: quickstart.yaml\ngrid: {}\n",
        "study-path.yaml": "base: quickstart.yaml\ngrid: {a: {../../x: {}}}\n",
        "study-base.yaml": "base: none.yaml\ngrid: {a: {x: {}}}\n",
    }  # fmt: skip
    for name, text in texts.items():
        (root / name).write_text(text)
    (root / "binary.yaml").write_bytes(bytes(range(256)))
    (root / "empty.ckpt").write_bytes(b"")
    (root / "torn.ckpt").write_bytes(Path(last).read_bytes()[:2000])
    torch.save({"state_dict": {"backbone.conv1.weight": torch.zeros(1)}}, root / "other.ckpt")
    torch.save([1, 2], root / "list.ckpt")
    assert zipfile.is_zipfile(last)
