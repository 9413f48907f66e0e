"""Build options, progress listener and bad-image policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from imgprep.dataset.markers import Skip
from imgprep.errors import UsageError
from imgprep.runners.choose import check_runner
from imgprep.runners.runner import LOCAL
from imgprep.sources.take import EVERYTHING, Take
from imgprep.spec import OnError
from imgprep.wording import counted, printable

if TYPE_CHECKING:
    from imgprep.sources.manifest import SourceScan

MAX_ERRORS_DEFAULT = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildOptions:
    """How to read the source and run a build; only ``take`` changes the finished dataset."""

    jobs: int | None = None
    """Tasks at a time; None means one for each processor of the runner."""
    on_error: OnError = "fail"
    max_errors: int | None = None
    """Bad images that stop the build; None means 100 under ``fail``, no limit under ``skip``."""
    force: bool = False
    layout: str | None = None
    take: Take = EVERYTHING
    """Which part of the source is used."""
    label_order: str | None = None
    """First digits of the hash of the classes in order, to confirm classes that are not certain."""
    runner: str = LOCAL
    """``local``, ``ray`` or ``ray://HEAD:PORT``."""

    def __post_init__(self) -> None:
        check_runner(self.runner)
        if self.jobs is not None and self.jobs < 1:
            raise UsageError(f"jobs must be at least 1; got {self.jobs}")
        if self.max_errors is not None and self.max_errors < 1:
            raise UsageError(f"max-errors must be at least 1; got {self.max_errors}")

    @property
    def bad_images_max(self) -> float:
        """Bad images after which the build stops."""
        if self.max_errors is not None:
            return self.max_errors
        return MAX_ERRORS_DEFAULT if self.on_error == "fail" else float("inf")


class ProgressListener(Protocol):
    """Receives the progress of a build; the command line prints it."""

    def scanning(self, images: int) -> None: ...
    def scanned(self, scan: SourceScan) -> None: ...
    def started(self, images: int, shards: int, shards_done: int) -> None: ...
    def advanced(self, done: int, bad: Sequence[Skip]) -> None: ...
    def retried(self, why: str, done: int, bad: Sequence[Skip]) -> None: ...
    def publishing(self) -> None: ...


def bad_images_message(bad: Sequence[Skip], count: int, options: BuildOptions) -> str:
    """The list of what is wrong, and what to do about it."""
    shown = list(bad[: options.max_errors or MAX_ERRORS_DEFAULT])
    lines = [f"{counted(count, 'bad entry', 'bad entries')} in the source:"]
    lines += [f"  {printable(skip.where)}: {printable(skip.cause)}" for skip in shown]
    if count > len(shown):
        lines.append(f"  … and {count - len(shown):,} more")
    lines.append("Fix them, or leave them out with --on-error skip; finished shards are kept.")
    return "\n".join(lines)
