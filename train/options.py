"""Options that commands of the training share, and the settings that flags override."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import click

from imgprep.console import json_option, options, quiet_option
from train.config import Device, FloatType, Parallel, Precision, ScheduleKind
from train.presets import DEFAULT_PRESET, PRESETS

PAPER_SCALES = ("small", "medium", "full")
FOLDER = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)

# Flags and the settings that they override; only flags that are given count.
FLAGS = {
    "batch_size": "optim.batch_images",
    "epochs": "optim.epochs",
    "lr": "optim.lr",
    "momentum": "optim.momentum",
    "weight_decay": "optim.weight_decay",
    "schedule": "optim.schedule",
    "accumulate": "optim.accumulate",
    "steps": "steps",
    "warm_start": "warm_start",
    "seed": "seed",
    "parallel": "parallel",
    "device": "device",
    "precision": "precision",
    "amp": "amp",
    "deterministic": "deterministic",
    "threads": "input.threads",
    "cache": "input.cache_folder",
    "cache_gib": "input.cache_gib",
    "checkpoint_every": "checkpoint_every_steps",
    "log_every": "log_every_steps",
}

dataset_argument = click.argument("dataset")
cache_options = options(
    click.option("--cache", metavar="DIR",
                 help="Cache the shards of a dataset at a URL in this folder [default: "
                      "$IMGPREP_CACHE, or imgprep in ~/.cache]."),
    click.option("--cache-gib", type=float, metavar="N",
                 help="Largest size of the cache, in GiB [default: 100]."),
)  # fmt: skip
device_option = click.option(
    "--device",
    type=click.Choice(get_args(Device)),
    help="Where to compute [default: auto: GPUs if there are any].",
)
preset_options = options(
    click.option("--preset", "preset_name", type=click.Choice(list(PRESETS)),
                 help=f"Settings to start from [default: {DEFAULT_PRESET}]."),
    click.option("--config", "config_file", type=FILE, metavar="FILE",
                 help="TOML file of settings that override the preset; flags override both."),
    click.option("--set", "assignments", multiple=True, metavar="SETTING=VALUE",
                 help="Any other setting, such as optim.lr_factor=0.5; can be repeated."),
)  # fmt: skip
fit_options = options(
    click.option("--out", type=FOLDER, required=True, metavar="RUN",
                 help="Folder of the run; the same command with the same folder resumes it."),
    preset_options,
    click.option("--parallel", type=click.Choice(get_args(Parallel)),
                 help="none: one device; columns: one column on each of two devices; data: a copy "
                      "of the network on each [default: auto: columns on two GPUs if the network "
                      "has two columns; else data with several processes or GPUs; else none]."),
    device_option,
    click.option("--processes", type=click.IntRange(min=1), metavar="N",
                 help="Processes on this machine [default: 1; with data, one per GPU, or two on a "
                      "CPU]."),
    click.option("--batch-size", type=int, metavar="N",
                 help="Images per update, over all processes [default: 128]."),
    click.option("--accumulate", type=int, metavar="N",
                 help="Compute each batch in N parts, to save memory."),
    click.option("--epochs", type=int, metavar="N",
                 help="Length of the run [default: the preset's, 90 to 93]."),
    click.option("--steps", type=int, metavar="N", help="Stop after N updates."),
    click.option("--lr", type=float, metavar="X",
                 help="Learning rate; for a resumed run, the rate from now on [default: 0.01]."),
    click.option("--momentum", type=float, metavar="X",
                 help="Momentum of the update [default: 0.9]."),
    click.option("--weight-decay", "--wd", "weight_decay", type=float, metavar="X",
                 help="Weight decay [default: 0.0005]."),
    click.option("--schedule", type=click.Choice(get_args(ScheduleKind)),
                 help="How the learning rate falls [default: the preset's]."),
    click.option("--warm-start", metavar="CHECKPOINT",
                 help="Start a new run from these weights, where the layers fit."),
    click.option("--classes", default="auto", show_default=True, metavar="N",
                 help="Outputs of the network; auto: the number of classes in the dataset."),
    click.option("--seed", type=int, metavar="N",
                 help="Seed of weights, order, crops, noise and dropout [default: 0]."),
    click.option("--precision", type=click.Choice(get_args(Precision)),
                 help="Arithmetic: float32 (never TF32), tf32 (TF32 for convolutions and matrix "
                      "products), or bf16 and fp16 (16 bits, by autocast) [default: tf32 on a "
                      "GPU, float32 on a CPU]."),
    click.option("--amp", type=click.Choice(get_args(FloatType)), hidden=True,
                 help="Older name of --precision."),
    click.option("--deterministic/--no-deterministic", default=None,
                 help="Give the same bits in every run on a GPU too, at some cost in speed."),
    click.option("--threads", "-j", type=int, metavar="N",
                 help="Decoding threads per process [default: its share of the processors, beside "
                      "a GPU at most 8]."),
    cache_options,
    click.option("--checkpoint-every", type=int, metavar="STEPS",
                 help="Also save after every STEPS updates [default: after each epoch]."),
    click.option("--log-every", type=int, metavar="STEPS",
                 help="Print and log a line every STEPS updates [default: 20]."),
    click.option("--allow-reshard", is_flag=True,
                 help="Resume with another number of processes than before."),
    click.option("--verify", is_flag=True, help="Verify the whole dataset first."),
    click.option("--dry-run", is_flag=True,
                 help="Print the size of the run and the time to expect, and stop."),
    json_option,
    quiet_option,
    click.option("-v", "--verbose", is_flag=True, help="Also print all settings."),
)  # fmt: skip

paper_options = options(
    click.option("--out", type=FOLDER, required=True, metavar="DIR",
                 help="Folder of the runs and the page; the same command resumes."),
    click.option("--scale", type=click.Choice(PAPER_SCALES), default="small", show_default=True,
                 help="small: narrow nets at 96 px, minutes to an hour; medium: the full net on "
                      "some ten classes; full: ILSVRC, days."),
    click.option("--only", metavar="ITEMS",
                 help="Only these items, with commas between them, such as fig3,lrn,appendix."),
    click.option("--seeds", type=click.IntRange(min=1), metavar="N",
                 help="Runs of each kind, with different seeds [default: 3; 1 with --scale full]."),
    click.option("--cifar", type=FILE, metavar="ARCHIVE",
                 help="Official CIFAR-10 archive, for figure 1 [default: DATASET at 32 px]."),
    device_option,
    click.option("--set", "assignments", multiple=True, metavar="SETTING=VALUE",
                 help="A setting of every run, such as optim.epochs=20; can be repeated."),
    click.option("--dry-run", is_flag=True,
                 help="Make the datasets, print the runs, the time and the disk for checkpoints, "
                      "and stop."),
    json_option,
    quiet_option,
)  # fmt: skip


def settings_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """The nested settings that the options ``given`` state.

    Raises:
        ConfigError, click.BadParameter: an option cannot be understood.
    """
    from train.settings import from_assignments, merge

    settings = from_assignments(given["assignments"])
    for flag, setting in FLAGS.items():
        if given.get(flag) is not None:
            value: Any = given[flag]
            for part in reversed(setting.split(".")):
                value = {part: value}
            settings = merge(settings, value)
    if given.get("classes", "auto") != "auto":
        if not given["classes"].isdigit():
            raise click.BadParameter("expected a number or auto", param_hint="--classes")
        settings = merge(settings, {"net": {"classes": int(given["classes"])}})
    return settings
