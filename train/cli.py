"""The command line of the training: parse, call, print. Commands import what is heavy."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from imgprep import __version__, console
from imgprep.console import CONTEXT, ErrorGroup, json_option, print_json, quiet_option, summary
from imgprep.dataset.format import SPLITS
from imgprep.errors import EXIT_CODES
from imgprep.wording import plain, readable_bytes
from train.options import (
    FILE,
    FOLDER,
    cache_options,
    dataset_argument,
    device_option,
    fit_options,
    paper_options,
    preset_options,
    settings_of,
)
from train.program import command, program_name

if TYPE_CHECKING:
    from train.show.weights import ExportedWeights

SHOWN_CODES = (0, 1, 2, 4)
EPILOG = "Exit codes: " + "; ".join(f"{code} {EXIT_CODES[code]}" for code in SHOWN_CODES) + "."


@click.group(cls=ErrorGroup, context_settings=CONTEXT, epilog=EPILOG)
@click.version_option(__version__, prog_name="train")
def cli() -> None:
    """Train AlexNet on the shards of ``imgprep build-shards``.

    \b
      tools/train fit DATASET --out RUN             train, or resume where the run stopped
      tools/train evaluate RUN/best.pt DATASET      top-1 and top-5 error
      tools/train export RUN/best.pt --out FILE     the network alone
      tools/train figures RUN                       filters and learning curves
      tools/train report RUN --html FILE            a page about the run, with photographs
      tools/train preview DATASET -o sheet.png      what the network gets to see
      tools/train paper DATASET --out DIR           the paper's tables and figures from your runs
    """


@cli.command()
@dataset_argument
@fit_options
def fit(dataset: str, **given: Any) -> None:
    """Train on DATASET, a folder or URL that imgprep built, or resume the run in --out.

    \b
    Examples:
      tools/train fit /data/imagenet-256 --out runs/first --preset source-2012
      tools/train fit /data/imagenet-256 --out runs/first --lr 0.001    (resume, at another rate)
      tools/train fit s3://bucket/imagenet-256 --out runs/first --cache /scratch/shards
      torchrun --nproc-per-node 4 --no-python imgprep-train fit DATASET --out RUN --parallel data
    """
    from train.errors import DivergedError, PeerLostError, RunStoppedError
    from train.run.fit import run
    from train.run.job import FitRequest, prepare
    from train.run.ranks import end_with_launcher, run_ranks

    request = FitRequest(
        dataset=dataset,
        out=given["out"],
        preset=given["preset_name"],
        config_file=given["config_file"],
        flags=settings_of(given),
        processes=given["processes"],
    )
    job = prepare(request)
    if given["dry_run"]:
        from train.run.timing import time_steps

        timing = time_steps(job)
        if given["as_json"]:
            print_json({**job.budget.to_json(), **timing.to_json()})
        else:
            click.echo(f"{job.summary(verbose=given['verbose'])}\n{timing.render()}")
        return
    if given["verify"] and job.world.is_main:
        _verify(dataset)
    if not job.world.launched and job.placement.processes > 1:
        sys.exit(run_ranks(_without_verify(sys.argv[1:]), job.placement.processes))
    end_with_launcher(os.environ)
    output = StderrOutput(quiet=given["quiet"] or not job.world.is_main)
    try:
        outcome = run(job, output, allow_reshard=given["allow_reshard"], verbose=given["verbose"])
    except (DivergedError, PeerLostError, RunStoppedError) as exc:
        if job.world.is_main:
            raise
        sys.exit(exc.exit_code)  # the main process prints the message
    if job.world.is_main:
        with summary():
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
@click.option("--per-class", is_flag=True, help="Also print the error of each class.")
@json_option
def evaluate(checkpoints: tuple[Path, ...], dataset: str, **given: Any) -> None:
    """Measure CHECKPOINTS on DATASET: of several, each and the average, like the paper's ensembles.

    The centre crop and the ten views are those of the paper; class probabilities are averaged
    over views and networks. Errors are printed in per cent; --json gives fractions.
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
        StderrOutput(quiet=False).warn,
    )
    if given["as_json"]:
        print_json(evaluation.to_json(per_class=given["per_class"]))
    else:
        click.echo(evaluation.render(per_class=given["per_class"]))


@cli.command()
@click.argument("checkpoint", type=FILE)
@click.option("--out", type=FILE, required=True,
              help="File to write: .pt, .onnx or .safetensors.")  # fmt: skip
@click.option("--format", "kind", type=click.Choice(["pt", "onnx", "safetensors"]),
              help="What to write [default: by the name of the file].")  # fmt: skip
@click.option("--dataset", metavar="DATASET",
              help="safetensors: measure the errors for the card on this dataset [default: the "
                   "place that the run noted].")  # fmt: skip
@click.option("--split", type=click.Choice(SPLITS), default="val", show_default=True,
              help="safetensors: split to measure on.")  # fmt: skip
@device_option
@cache_options
@json_option
def export(checkpoint: Path, out: Path, **given: Any) -> None:
    """Write the network of CHECKPOINT alone.

    .pt is a plain state dict, .onnx a graph for any runtime. With .safetensors come a card
    (errors by centre crop and ten views, fingerprint, settings, SHA-256) and a program in plain
    torch that loads the weights; a network that is no better than chance is not exported.
    """
    from train.show.export import export_checkpoint, with_format

    out, kind = with_format(out, given["kind"])
    if kind == "safetensors":
        found = _export_weights(checkpoint, out, given)
        with summary():
            print_json(found.to_json()) if given["as_json"] else click.echo(found.render())
        return
    written = export_checkpoint(checkpoint, out)
    with summary():
        print_json({kind: str(written)}) if given["as_json"] else click.echo(written)


@cli.command()
@click.argument("runs", nargs=-1, required=True, type=FOLDER)
@click.option("--out", type=FILE, metavar="FILE",
              help="Chart of several runs, without .png or .svg [default: compared].")  # fmt: skip
def figures(runs: tuple[Path, ...], out: Path | None) -> None:
    """Draw the first-layer filters by column and the learning curves into each of RUNS.

    Several runs are also drawn into one chart, named by their folders.
    """
    from train.show.figures import draw_comparison, draw_run

    drawn = [path for run in runs for path in draw_run(run)]
    if len(runs) > 1:
        drawn += draw_comparison(runs, out or Path("compared"))
    with summary():
        for path in drawn:
            click.echo(path)


@cli.command()
@click.argument("dataset")
@click.option("-o", "--out", type=FILE, required=True, metavar="FILE", help="PNG file to write.")
@preset_options
@click.option("--seed", type=int, metavar="N", help="Seed of the run; also picks the records.")
@click.option("--epoch", type=click.IntRange(min=0), default=0, show_default=True, metavar="N",
              help="The first epoch to show.")  # fmt: skip
@click.option("--draws", type=click.IntRange(1, 64), default=4, show_default=True, metavar="N",
              help="Epochs to show from --epoch on, one per column.")  # fmt: skip
@click.option("--images", type=click.IntRange(1, 256), default=6, show_default=True, metavar="N",
              help="Records to show, one per row.")  # fmt: skip
@cache_options
@json_option
def preview(dataset: str, **given: Any) -> None:
    """Draw records of DATASET as the network gets to see them: crops, mirror images, noise.

    Each row shows a record as stored, and then as each epoch of a run with these settings and
    this seed feeds it to the network.
    """
    from train.settings import read_toml, resolve
    from train.show.preview import TrainerSheetOptions, write_preview

    flags = settings_of(given)
    file = read_toml(given["config_file"]) if given["config_file"] else {}
    drawn = write_preview(
        dataset,
        resolve(given["preset_name"], file, flags),
        given["out"],
        TrainerSheetOptions(
            first_epoch=given["epoch"], images=given["images"], draws=given["draws"]
        ),
    )
    with summary():
        print_json(drawn.to_json()) if given["as_json"] else click.echo(given["out"])


@cli.command()
@click.argument("run", type=FOLDER)
@click.option("--html", type=FILE, required=True, metavar="FILE", help="HTML file to write.")
@click.option("--dataset", metavar="DATASET",
              help="The run's dataset [default: the place that the run noted].")  # fmt: skip
@click.option("--split", type=click.Choice(SPLITS), default="val", show_default=True)
@device_option
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, metavar="N",
              help="Picks the photographs.")  # fmt: skip
@cache_options
@click.option("--sample", type=click.IntRange(min=1), default=2000, show_default=True, metavar="N",
              help="Training photographs to search for neighbours.")  # fmt: skip
@json_option
@quiet_option
def report(run: Path, html: Path, **given: Any) -> None:
    """Write a page about RUN: curves, filters, confusion, photographs with their best labels and
    nearest neighbours. It is one file that needs no network access. RUN may still be training.
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
    output = StderrOutput(quiet=given["quiet"])
    found = make_report(request, output.line)
    page_bytes = write_report_page(found, html)
    output.line(f"wrote {html}: {readable_bytes(page_bytes)}")
    with summary():
        print_json(found.to_json()) if given["as_json"] else click.echo(html)


@cli.command()
@dataset_argument
@paper_options
def paper(dataset: str, **given: Any) -> None:
    """Make the paper's tables and figures from runs on DATASET, on one page with what they show.

    The runs are plain fit commands; those that are already in --out are taken, and one that was
    interrupted resumes.

    \b
    Examples:
      tools/train paper /data/photos --out paper --dry-run
      tools/train paper /data/photos --out paper --only fig3,lrn --seeds 5
      tools/train paper /data/imagenet-256 --out paper --scale full --cifar cifar-10-binary.tar.gz
    """
    from train.paper.command import PaperRequest, make_paper, prepare
    from train.paper.estimate import estimate
    from train.paper.plan import dotted
    from train.paper.prepare import Sources

    output = StderrOutput(quiet=given["quiet"])
    request = PaperRequest(
        sources=Sources(dataset=dataset, cifar=given["cifar"]),
        out=given["out"],
        scale=given["scale"],
        only=tuple(name for name in (given["only"] or "").split(",") if name),
        seeds=given["seeds"],
        overrides=dotted(settings_of(given)),
    )
    prepared = prepare(request, output.line)
    if given["dry_run"]:
        expected = estimate(prepared)
        print_json(expected.to_json()) if given["as_json"] else click.echo(expected.render())
        return
    outcome = make_paper(prepared, output.line)
    with summary():
        if given["as_json"]:
            print_json(outcome.results.to_json())
        else:
            click.echo(outcome.render())
    outcome.check()


class StderrOutput:
    """Prints progress and warnings on stderr."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet

    def line(self, text: str) -> None:
        """Print a line of progress; the same on a terminal and in a file."""
        if not self._quiet:
            click.echo(plain(text), err=True)

    def warn(self, text: str) -> None:
        """Print a warning, with --quiet too."""
        click.echo(plain(f"{program_name()}: warning: {text}"), err=True)


def _export_weights(checkpoint: Path, out: Path, given: Mapping[str, Any]) -> ExportedWeights:
    from train.show.measure import MeasureOptions
    from train.show.run_state import dataset_of, read_run
    from train.show.weights import export_weights

    dataset = given["dataset"] or dataset_of(read_run(checkpoint.parent), None)
    options = MeasureOptions(
        split=given["split"],
        device=given["device"] or "auto",
        cache_folder=given["cache"],
        cache_gib=given["cache_gib"],
    )
    return export_weights(checkpoint, out, dataset, options, StderrOutput(quiet=False).warn)


def _verify(dataset: str) -> None:
    from imgprep.errors import DamageError
    from imgprep.processors import processors
    from imgprep.verify.dataset import verify

    report = verify(dataset, decode=True, jobs=processors(), advanced=lambda done: None)
    click.echo(report.render(), err=True)
    if report.exit_code:
        raise DamageError(
            f"{dataset}: damaged: repair it as the lines above say, then run the same command again"
        )


def _without_verify(arguments: list[str]) -> list[str]:
    return [argument for argument in arguments if argument != "--verify"]


def main() -> None:
    """Entry point of ``imgprep-train``, ``tools/train`` and ``python -m train``."""
    for each in (cli, *cli.commands.values()):  # the examples show the command that was used
        each.help = (each.help or "").replace("tools/train", command())
    console.run(cli, program_name())
