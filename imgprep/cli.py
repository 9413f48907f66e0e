"""The command line: parse, call, print. Each command imports heavy modules when it runs."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from imgprep import __version__, console
from imgprep.console import (
    CONTEXT,
    ErrorGroup,
    json_option,
    options,
    print_json,
    quiet_option,
    summary,
)
from imgprep.errors import EXIT_CODES, EXIT_FAILED, ImgprepError
from imgprep.progress_lines import ProgressLines
from imgprep.source_options import source_options, take_of
from imgprep.spec import (
    ENCODINGS,
    EXIF_POLICIES,
    FILTERS,
    ON_ERRORS,
    SHAPES,
    SOLVERS,
    SUBSAMPLINGS,
    BuildSpec,
    ImageSpec,
)
from imgprep.wording import plain, readable_bytes

if TYPE_CHECKING:
    from imgprep.spec import Solver

IMAGE, BUILD = ImageSpec(), BuildSpec()
"""Their fields are the defaults of the options."""
EPILOG = "Exit codes: " + "; ".join(f"{code} {text}" for code, text in EXIT_CODES.items()) + "."


@click.group(cls=ErrorGroup, context_settings=CONTEXT, epilog=EPILOG)
@click.version_option(__version__, prog_name="imgprep")
def cli() -> None:
    """Prepare ImageNet once: shards, the mean image and the RGB PCA of the training set.

    \b
      imgprep scan SOURCE               list what SOURCE holds
      imgprep build-shards SOURCE DEST  build the dataset
      imgprep stats DEST                print the RGB PCA
      imgprep verify DEST --decode      check every file and record
      imgprep preview DEST -o FILE.png  draw some records
      imgprep doctor                    check this machine
    """


source_argument = click.argument("source")
dest_argument = click.argument("dest", type=click.Path())


def _jobs_option(help_text: str) -> Callable[..., Any]:
    return click.option(
        "-j", "--jobs", type=click.IntRange(min=1), show_default="processors", help=help_text
    )


@cli.command()
@source_argument
@source_options
@click.option(
    "--checksum", is_flag=True, help="Compare the archives of ILSVRC2012 with the published MD5s."
)
@json_option
@quiet_option
def scan(source: str, checksum: bool, as_json: bool, quiet: bool, **given: Any) -> None:
    """List what SOURCE, a folder or URL, holds: layout, classes, counts, bytes, problems.

    Exit code 3 if a build would stop at what the scan found.

    \b
    Examples:
      imgprep scan /data/ilsvrc2012
      imgprep scan s3://bucket/ilsvrc2012 --checksum
      imgprep scan /data/ilsvrc2012 --classes imagenet-100
    """
    from imgprep.sources.checksums import checksum_archives
    from imgprep.sources.scan import scan_source
    from imgprep.sources.scan_report import ScanReport

    say = ProgressLines(quiet)
    take = take_of(given)
    found = scan_source(source, **given, take=take, progress=say.scanning)
    say.end_line()
    report = ScanReport.from_scan(found, given["split"])
    checks = checksum_archives(source, progress=say.hashing) if checksum else []
    say.end_line()
    if as_json:
        print_json({**report.to_json(), "checksums": [asdict(check) for check in checks]})
    else:
        click.echo(plain(report.render()))
        for check in checks:
            click.echo(check.render())
    if any(not check.ok for check in checks):
        raise SystemExit(EXIT_FAILED)
    raise SystemExit(report.exit_code)


_SPEC_OPTIONS = options(
    click.option("--size", "size_px", type=int, default=IMAGE.size_px, show_default=True,
                 metavar="PX", help="Side of a record; the short side is resized to it."),
    click.option("--shape", type=click.Choice(SHAPES), default=IMAGE.shape, show_default=True,
                 help="square: the central square; rectangle: the whole image, up to 8:1; adm: "
                      "the square that image generators are trained on."),
    click.option("--filter", "filter_name", type=click.Choice(FILTERS), default=IMAGE.filter,
                 show_default=True,
                 help="area: area averaging to shrink, bicubic to enlarge, as in the 2012 code."),
    click.option("--encoding", type=click.Choice(ENCODINGS), default=IMAGE.encoding,
                 show_default=True, help="Encoding of a record; raw is uint8 in .npy."),
    click.option("--quality", type=int, default=IMAGE.quality, show_default=True,
                 help="JPEG quality."),
    click.option("--subsampling", type=click.Choice(SUBSAMPLINGS), default=IMAGE.subsampling,
                 show_default=True, help="JPEG chroma subsampling."),
    click.option("--exif", type=click.Choice(EXIF_POLICIES), default=IMAGE.exif,
                 show_default=True, help="Whether to rotate images by their EXIF orientation."),
    click.option("--max-megapixels", type=int, default=IMAGE.max_megapixels, show_default=True,
                 help="Reject images whose header states more (decompression bombs)."),
    click.option("--shard-images", type=int, metavar="N",
                 help="Largest number of images in a shard [default: 1000; fewer for small sets]."),
    click.option("--seed", type=int, default=BUILD.seed, show_default=True,
                 help="Seed of the global shuffle."),
    click.option("--limit", type=int, metavar="N",
                 help="Use only N images of each split (a seeded sample)."),
)  # fmt: skip


def _runner_name(_: click.Context, param: click.Parameter, value: str) -> str:
    from imgprep.runners.choose import check_runner

    try:
        return check_runner(value)
    except ImgprepError as exc:
        raise click.BadParameter(str(exc), param=param) from exc


_RUN_OPTIONS = options(
    _jobs_option("Worker processes; with --runner ray, shards at a time."),
    click.option("--runner", callback=_runner_name, default="local", show_default=True,
                 metavar="local|ray|ray://HEAD:PORT",
                 help="What runs the shards: processes here, or a Ray cluster (imgprep[ray])."),
    click.option("--on-error", type=click.Choice(ON_ERRORS), default="fail",
                 show_default=True, help="Fail on bad images, or skip them (exit code 3)."),
    click.option("--max-errors", type=int, metavar="N",
                 help="Stop after N bad images [default: 100 for fail, no limit for skip]."),
    click.option("--label-order", metavar="HASH",
                 help="Confirm the classes and their order by the hash that imgprep scan prints."),
    click.option("--dry-run", is_flag=True,
                 help="Encode a seeded sample, print expected disk space and time; write nothing."),
    click.option("--force", is_flag=True,
                 help="Discard what imgprep has built in DEST, and start over."),
    json_option,
    quiet_option,
)  # fmt: skip


@cli.command("build-shards")
@source_argument
@dest_argument
@source_options
@_SPEC_OPTIONS
@_RUN_OPTIONS
def build_shards(source: str, dest: str, **given: Any) -> None:
    """Build verified shards, the mean image and the RGB PCA from SOURCE into DEST.

    After an interruption, run the same command again to resume. SOURCE and DEST may be URLs
    (s3://bucket/folder).

    \b
    Examples:
      imgprep build-shards /data/ilsvrc2012 /data/imagenet-256 --dry-run
      imgprep build-shards /data/ilsvrc2012 /data/imagenet-256
      imgprep build-shards /data/ilsvrc2012 /data/imagenet-100 --classes imagenet-100
      imgprep build-shards photos out --encoding png --on-error skip
      imgprep build-shards s3://bucket/ilsvrc2012 /data/imagenet-256
    """
    from imgprep.build.job import build, dry_run
    from imgprep.build.options import BuildOptions

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stop like Ctrl-C
    image = ImageSpec(
        filter=given["filter_name"],
        **{name: given[name] for name in ("size_px", "shape", "encoding", "quality",
                                            "subsampling", "exif", "max_megapixels")},
    )  # fmt: skip
    names = ("split", "shard_images", "seed", "limit")
    spec = BuildSpec(image=image, **{name: given[name] for name in names})
    run_names = ("jobs", "runner", "on_error", "max_errors", "force", "layout", "label_order")
    run = BuildOptions(**{name: given[name] for name in run_names}, take=take_of(given, spec.seed))
    say = ProgressLines(given["quiet"])
    _warn_of_pillow()
    if given["dry_run"]:
        estimate = dry_run(source, dest, spec, run, say)
        print_json(estimate.to_json()) if given["as_json"] else click.echo(estimate.render())
        return
    try:
        outcome = build(source, dest, spec, run, say)
    finally:
        say.end_meter()
    with summary():
        if given["as_json"]:
            print_json({"dest": dest, **outcome.to_json()})
        else:
            click.echo(outcome.render())
    raise SystemExit(outcome.report.exit_code)


def _warn_of_pillow() -> None:
    """Print a line if the installed Pillow is not the one that imgprep needs, or is damaged."""
    from imgprep.image.pillowcheck import find_pillow

    installed = find_pillow()
    if installed.problem:
        text = f"imgprep: warning: {installed}: {installed.why}; imgprep doctor says what to do"
        click.echo(text, err=True)


@cli.command()
@dest_argument
@click.option("--solver", type=click.Choice(SOLVERS), default=SOLVERS[0],
              show_default=True, help="How to compute the PCA.")  # fmt: skip
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="Also write a page with charts and pictures to FILE.")  # fmt: skip
@json_option
def stats(dest: str, solver: Solver, html: Path | None, as_json: bool) -> None:
    """Print the RGB PCA of the training set, compared with published values."""
    if html is not None:
        from imgprep.pages.stats_page import write_stats_page

        report, page_bytes = write_stats_page(dest, html, solver)
        click.echo(f"wrote {html}: {readable_bytes(page_bytes)}", err=True)
    else:
        from imgprep.colour.stats import moments_of, stats_report
        from imgprep.dataset.index import load_index

        index = load_index(dest)
        report = stats_report(moments_of(index), solver, index.shape)
    print_json(report.to_json()) if as_json else click.echo(report.render())


@cli.command()
@dest_argument
@click.option("--decode", is_flag=True, help="Also decode every record.")
@_jobs_option("Worker processes.")
@json_option
@quiet_option
def verify(dest: str, decode: bool, jobs: int | None, as_json: bool, quiet: bool) -> None:
    """Check DEST: hashes, counts, DALI index, labels, statistics; with --decode, also pixels."""
    from imgprep.dataset.index import load_index
    from imgprep.progress import Meter
    from imgprep.verify.dataset import verify as verify_dataset

    try:
        total = sum(split.records for split in load_index(dest).splits.values())
    except ImgprepError:
        total = 0  # verify reports what is wrong
    meter = Meter(sys.stderr, "verify", total, "records", "records", quiet=quiet)
    report = verify_dataset(dest, decode=decode, jobs=jobs, advanced=meter.advance)
    meter.finish()
    with summary():
        print_json(report.to_json()) if as_json else click.echo(plain(report.render()))
    raise SystemExit(report.exit_code)


@cli.command()
@dest_argument
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path, dir_okay=False),
              metavar="FILE", help="The sheet to write, a PNG; not in DEST.")  # fmt: skip
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True,
              help="Selects classes and records; also the seed of the augmentation.")  # fmt: skip
@click.option("--classes", type=click.IntRange(1, 1000), default=8, show_default=True, metavar="N",
              help="Classes to show, one per row.")  # fmt: skip
@click.option("--records", type=click.IntRange(1, 100), default=8, show_default=True, metavar="N",
              help="Records to show of each class.")  # fmt: skip
@json_option
def preview(dest: str, out: Path, as_json: bool, **given: int) -> None:
    """Draw records of DEST by class, and some as AlexNet sees them: crops, flips, noise.

    The second part needs the training packages (imgprep[train]); without them only records are
    drawn.
    """
    from imgprep.pages.preview import PreviewOptions, write_preview

    drawn = write_preview(dest, out, PreviewOptions(**given))
    if drawn.trainer_missing is not None:
        click.echo(f"imgprep: the network's view was not drawn: {drawn.trainer_missing}", err=True)
    with summary():
        print_json(drawn.to_json()) if as_json else click.echo(out)


@cli.command()
@click.option(
    "--dest",
    metavar="DEST",
    help="Where you will build; the speed of its disk is measured [default: current folder].",
)
@click.option("--quick", is_flag=True, help="Do not measure speed.")
@json_option
def doctor(dest: str | None, quick: bool, as_json: bool) -> None:
    """Check this machine: packages, processors, GPUs, disk, images per second.

    Exit code 1 if something must be fixed; prints how. Leaves no files behind.
    """  # fmt: skip
    from imgprep.doctor import examine
    from imgprep.doctor.render import render

    report = examine(dest, quick=quick)
    print_json(report.to_json()) if as_json else click.echo(render(report))
    raise SystemExit(report.exit_code)


def main() -> None:
    """Entry point of the ``imgprep`` command."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # the workers already use all processors
    console.run(cli, "imgprep")


__all__ = ["cli", "main"]
