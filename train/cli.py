"""The command line of the training: parse, call, print. A command imports what is heavy itself."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, get_args

import click

from imgprep import __version__, console
from imgprep.console import CONTEXT, ErrorGroup, json_option, options, print_json, quiet_option
from imgprep.dataset.format import SPLITS
from imgprep.errors import EXIT_CODES
from imgprep.wording import plain
from train.config import Device, FloatType, Parallel, ScheduleKind
from train.presets import PRESETS
from train.program import command

SHOWN_CODES = (0, 1, 2)
EPILOG = "Exit codes: " + "; ".join(f"{code} {EXIT_CODES[code]}" for code in SHOWN_CODES) + "."


@click.group(cls=ErrorGroup, context_settings=CONTEXT, epilog=EPILOG)
@click.version_option(__version__, prog_name="train")
def cli() -> None:
    """Train AlexNet from the shards of ``imgprep build-shards``.

    \b
      tools/train fit DATASET --out RUN             train, or go on where the run stopped
      tools/train evaluate RUN/best.pt DATASET      top-1 and top-5 error
      tools/train export RUN/best.pt --out FILE     the plain network
      tools/train figures RUN                       filters and learning curves
      tools/train report RUN --html FILE            a page on it, with photographs
      tools/train preview DATASET -o sheet.png      what the network gets to see
    """


FOLDER = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)
dataset_argument = click.argument("dataset")
cache_options = options(
    click.option("--cache", metavar="DIR",
                 help="Keep shards of a dataset at a URL here [default: $IMGPREP_CACHE, or "
                      "imgprep in ~/.cache]."),
    click.option("--cache-gib", type=float, metavar="N",
                 help="Size of that folder, at most [default: 100]."),
)  # fmt: skip
device_option = click.option(
    "--device",
    type=click.Choice(get_args(Device)),
    help="Where to compute [default: auto: GPUs if there are any].",
)

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
    "amp": "amp",
    "threads": "input.threads",
    "cache": "input.cache_folder",
    "cache_gib": "input.cache_gib",
    "checkpoint_every": "checkpoint_every_steps",
    "log_every": "log_every_steps",
}

_FIT_OPTIONS = options(
    click.option("--out", type=FOLDER, required=True, metavar="RUN",
                 help="Folder of the run; run again with the same one to go on."),
    click.option("--preset", "preset_name", type=click.Choice(list(PRESETS)),
                 help="Settings to begin from [default: paper]."),
    click.option("--config", "config_file", type=FILE, metavar="FILE",
                 help="TOML settings over the preset; flags come over both."),
    click.option("--set", "assignments", multiple=True, metavar="SETTING=VALUE",
                 help="Any other setting, such as optim.lr_factor=0.5; as often as you like."),
    click.option("--parallel", type=click.Choice(get_args(Parallel)),
                 help="none: one device; columns: a column on each of two; data: copies "
                      "[default: auto: columns on two GPUs, else none]."),
    device_option,
    click.option("--processes", type=click.IntRange(min=1), metavar="N",
                 help="Processes on this machine [default: one; for data, one a GPU]."),
    click.option("--batch-size", type=int, metavar="N",
                 help="Images an update, over all processes [default: 128]."),
    click.option("--accumulate", type=int, metavar="N",
                 help="Compute a batch in N parts, to save memory."),
    click.option("--epochs", type=int, metavar="N", help="[default: the preset's, 90 or 93]"),
    click.option("--steps", type=int, metavar="N", help="Stop after N updates."),
    click.option("--lr", type=float, metavar="X",
                 help="Learning rate; for a run that goes on, the rate from here [default: 0.01]."),
    click.option("--momentum", type=float, metavar="X", help="[default: 0.9]"),
    click.option("--weight-decay", "--wd", "weight_decay", type=float, metavar="X",
                 help="[default: 0.0005]"),
    click.option("--schedule", type=click.Choice(get_args(ScheduleKind)),
                 help="How the rate falls [default: the preset's]."),
    click.option("--warm-start", metavar="CHECKPOINT",
                 help="Begin a new run with these weights, where the layers fit."),
    click.option("--classes", default="auto", show_default=True, metavar="N",
                 help="Outputs of the network; auto: as the dataset has."),
    click.option("--seed", type=int, metavar="N", help="[default: 0]"),
    click.option("--amp", type=click.Choice(get_args(FloatType)),
                 help="Arithmetic under autocast [default: float32]."),
    click.option("--threads", "-j", type=int, metavar="N",
                 help="Decoding threads a process [default: its processors]."),
    cache_options,
    click.option("--checkpoint-every", type=int, metavar="STEPS",
                 help="Also save every so many updates [default: each epoch]."),
    click.option("--log-every", type=int, metavar="STEPS", help="[default: 20]"),
    click.option("--allow-reshard", is_flag=True,
                 help="Go on with another number of processes than before."),
    click.option("--verify", is_flag=True, help="Check the whole dataset first."),
    click.option("--dry-run", is_flag=True, help="Print the plan and stop."),
    json_option,
    quiet_option,
)  # fmt: skip


@cli.command()
@dataset_argument
@_FIT_OPTIONS
def fit(dataset: str, **given: Any) -> None:
    """Train on DATASET, a folder or URL that imgprep built; or go on with the run in --out.

    \b
    Examples:
      tools/train fit /data/imagenet-256 --out runs/first --preset source-2012
      tools/train fit /data/imagenet-256 --out runs/first --lr 0.001    (go on, at another rate)
      tools/train fit s3://bucket/imagenet-256 --out runs/first --cache /scratch/shards
      torchrun --nproc-per-node 4 -m train fit DATASET --out RUN --parallel data
    """
    from train.run.fit import Request, prepare, run

    request = Request(
        dataset=dataset,
        out=given["out"],
        preset=given["preset_name"],
        config_file=given["config_file"],
        flags=_settings_of(given),
        processes=given["processes"],
    )
    job = prepare(request)
    if given["dry_run"]:
        print_json(job.plan.to_json()) if given["as_json"] else click.echo(job.plan.render())
        return
    if given["verify"] and job.world.is_main:
        _verify(dataset)
    if not job.world.launched and job.placement.processes > 1:
        from train.run.launch import start_processes

        start_processes(_without_verify(sys.argv[1:]), job.placement.processes)
    say = Say(quiet=given["quiet"] or not job.world.is_main)
    outcome = run(job, say, allow_reshard=given["allow_reshard"])
    if job.world.is_main:
        if given["as_json"]:
            print_json(outcome.to_json())
        else:
            click.echo(outcome.render())


@cli.command()
@click.argument("checkpoints", nargs=-1, required=True, type=FILE)
@dataset_argument
@click.option("--views", type=click.Choice(["1", "10"]), default="1", show_default=True,
              help="1: the centre crop; 10: corners, centre and their mirror images.")  # fmt: skip
@click.option("--split", type=click.Choice(SPLITS), default="val", show_default=True)
@click.option("--batch-size", type=click.IntRange(min=1), default=64, show_default=True)
@device_option
@cache_options
@click.option("--per-class", is_flag=True, help="Also the error of each class.")
@json_option
def evaluate(checkpoints: tuple[Path, ...], dataset: str, **given: Any) -> None:
    """Measure CHECKPOINTS on DATASET; several are averaged, as the paper's ensembles were.

    Errors are fractions. The centre crop and the ten views are those of the paper; class
    probabilities are averaged over views and networks.
    """
    from train.show.measure import MeasureOptions, measure

    evaluation = measure(
        checkpoints,
        dataset,
        MeasureOptions(
            views=10 if given["views"] == "10" else 1,
            split=given["split"],
            batch_images=given["batch_size"],
            device=given["device"] or "auto",
            cache_folder=given["cache"],
            cache_gib=given["cache_gib"],
        ),
    )
    if given["as_json"]:
        print_json(evaluation.to_json(per_class=given["per_class"]))
    else:
        click.echo(evaluation.render(per_class=given["per_class"]))


@cli.command()
@click.argument("checkpoint", type=FILE)
@click.option("--out", type=FILE, required=True, help="File to write: .pt or .onnx.")
def export(checkpoint: Path, out: Path) -> None:
    """Write the network of CHECKPOINT alone: a plain state dict (.pt) or ONNX (.onnx)."""
    from train.show.export import export_checkpoint

    click.echo(export_checkpoint(checkpoint, out))


@cli.command()
@click.argument("runs", nargs=-1, required=True, type=FOLDER)
@click.option("--out", type=FILE, metavar="FILE",
              help="Chart of several runs: FILE .png and .svg [default: compared].")  # fmt: skip
def figures(runs: tuple[Path, ...], out: Path | None) -> None:
    """Draw the first-layer filters by column and the learning curves into each of RUNS.

    Several runs are also drawn into one chart, named by their folders.
    """
    from train.show.figures import draw_comparison, draw_run

    drawn = [path for run in runs for path in draw_run(run)]
    if len(runs) > 1:
        drawn += draw_comparison(runs, out or Path("compared"))
    for path in drawn:
        click.echo(path)


@cli.command()
@click.argument("dataset")
@click.option("-o", "--out", type=FILE, required=True, metavar="FILE", help="The sheet, a PNG.")
@click.option("--preset", "preset_name", type=click.Choice(list(PRESETS)),
              help="Settings to begin from [default: paper].")  # fmt: skip
@click.option("--config", "config_file", type=FILE, metavar="FILE",
              help="TOML settings over the preset, such as a run's config.toml.")  # fmt: skip
@click.option("--set", "assignments", multiple=True, metavar="SETTING=VALUE",
              help="Any other setting, such as input.crop_chunk=1.")  # fmt: skip
@click.option("--seed", type=int, metavar="N", help="The run's seed; picks the records as well.")
@click.option("--epoch", type=click.IntRange(min=0), default=0, show_default=True, metavar="N",
              help="The first epoch to show.")  # fmt: skip
@click.option("--draws", type=click.IntRange(1, 64), default=4, show_default=True, metavar="N",
              help="Epochs to show from there on, a column each.")  # fmt: skip
@click.option("--images", type=click.IntRange(1, 256), default=6, show_default=True, metavar="N",
              help="Records to show, a row each.")  # fmt: skip
@cache_options
@json_option
def preview(dataset: str, **given: Any) -> None:
    """Draw records of DATASET as the network gets to see them: crops, mirror images, noise.

    A row is a record: first as stored, then as each epoch of a run with these settings and this
    seed feeds it to the network.
    """
    from train.settings import read_toml, resolve
    from train.show.preview import TrainerSheetOptions, write_preview

    flags = _settings_of(given)
    file = read_toml(given["config_file"]) if given["config_file"] else {}
    drawn = write_preview(
        dataset,
        resolve(given["preset_name"], file, flags),
        given["out"],
        TrainerSheetOptions(
            first_epoch=given["epoch"], images=given["images"], draws=given["draws"]
        ),
    )
    print_json(drawn.to_json()) if given["as_json"] else click.echo(given["out"])


@cli.command()
@click.argument("run", type=FOLDER)
@click.option("--html", type=FILE, required=True, metavar="FILE", help="The page to write.")
@click.option("--dataset", metavar="DATASET",
              help="The run's dataset [default: where the run says it lies].")  # fmt: skip
@click.option("--split", type=click.Choice(SPLITS), default="val", show_default=True)
@device_option
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, metavar="N",
              help="Picks the photographs.")  # fmt: skip
@cache_options
@click.option("--sample", type=click.IntRange(min=1), default=2000, show_default=True, metavar="N",
              help="Training photographs that neighbours are looked for in.")  # fmt: skip
@json_option
@quiet_option
def report(run: Path, html: Path, **given: Any) -> None:
    """Write a page on RUN: curves, filters, confusion, photographs with their best labels and
    nearest neighbours. One file that needs no network; RUN may still be going on.
    """
    from train.show.report import ReportRequest, make_report
    from train.show.report_page import write_report_page

    names = ("dataset", "split", "seed", "sample", "cache_gib")
    request = ReportRequest(
        run=run,
        device=given["device"] or "auto",
        cache_folder=given["cache"],
        **{name: given[name] for name in names},
    )
    say = Say(quiet=given["quiet"])
    found = make_report(request, say.line)
    page_bytes = write_report_page(found, html)
    say.line(f"wrote {html}: {page_bytes / 2**10:,.0f} KiB")
    print_json(found.to_json()) if given["as_json"] else click.echo(html)


class Say:
    """Prints how a run goes on, on stderr."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet

    def line(self, text: str) -> None:
        """Progress: a line, whether on a terminal or not, as training logs are."""
        if not self._quiet:
            click.echo(plain(text), err=True)

    def warn(self, text: str) -> None:
        """Something that the user should know; shown even when quiet."""
        click.echo(plain(f"train: warning: {text}"), err=True)


def _settings_of(given: dict[str, Any]) -> dict[str, Any]:
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


def _verify(dataset: str) -> None:
    from imgprep.errors import DamageError
    from imgprep.processors import processors
    from imgprep.verify.dataset import verify

    report = verify(dataset, decode=True, jobs=processors(), advanced=lambda done: None)
    click.echo(report.render(), err=True)
    if report.exit_code:
        raise DamageError(f"{dataset}: damaged; mend it before training (see above)")


def _without_verify(arguments: list[str]) -> list[str]:
    return [argument for argument in arguments if argument != "--verify"]


def main() -> None:
    """Entry point of ``imgprep-train``, ``tools/train`` and ``python -m train``."""
    for each in (cli, *cli.commands.values()):  # the examples show the command that was used
        each.help = (each.help or "").replace("tools/train", command())
    console.run(cli, "train")
