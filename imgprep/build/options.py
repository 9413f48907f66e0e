"""How a build is run, who hears of it, and when bad images stop it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from imgprep.runners.choose import check_runner
from imgprep.runners.runner import LOCAL
from imgprep.errors import UsageError
from imgprep.dataset.markers import Skip
from imgprep.spec import OnError
from imgprep.wording import printable

if TYPE_CHECKING:
    from imgprep.sources.manifest import SourceScan

MAX_ERRORS_DEFAULT = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildOptions:
    """How to run a build; none of it changes a byte of a finished dataset."""

    jobs: int | None = None
    """Tasks at a time; None is one for each processor of the runner."""
    on_error: OnError = "fail"
    max_errors: int | None = None
    """Bad images that stop the build; None is 100 under ``fail``, no limit under ``skip``."""
    force: bool = False
    layout: str | None = None
    runner: str = LOCAL
    """``local``, ``ray`` or ``ray://HEAD:PORT``."""

    def __post_init__(self) -> None:
        check_runner(self.runner)
        if self.jobs is not None and self.jobs < 1:
            raise UsageError(f"jobs must be at least 1, not {self.jobs}")
        if self.max_errors is not None and self.max_errors < 1:
            raise UsageError(f"max-errors must be at least 1, not {self.max_errors}")

    @property
    def bad_images_max(self) -> float:
        """Bad images after which the build stops."""
        if self.max_errors is not None:
            return self.max_errors
        return MAX_ERRORS_DEFAULT if self.on_error == "fail" else float("inf")


class Listener(Protocol):
    """Hears how a build goes on; the command line prints from it."""

    def scanning(self, images: int) -> None: ...
    def scanned(self, scan: SourceScan) -> None: ...
    def started(self, images: int, shards: int, shards_done: int) -> None: ...
    def advanced(self, done: int, bad: Sequence[Skip]) -> None: ...
    def retried(self, why: str, done: int, bad: Sequence[Skip]) -> None: ...
    def publishing(self) -> None: ...


def bad_images_message(bad: Sequence[Skip], count: int, options: BuildOptions) -> str:
    """The list of what is wrong, and the way on."""
    shown = list(bad[: options.max_errors or MAX_ERRORS_DEFAULT])
    lines = [f"{count} bad {'entry' if count == 1 else 'entries'} in the source:"]
    lines += [f"  {printable(skip.where)}: {printable(skip.cause)}" for skip in shown]
    if count > len(shown):
        lines.append(f"  … and {count - len(shown)} more")
    lines.append("Mend them, or leave them out with --on-error skip (shards that are done stay).")
    return "\n".join(lines)
