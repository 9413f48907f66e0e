"""Run the shards to build on a runner, and keep account of its reports."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

from imgprep.build.node import NodeNeeds, check_node
from imgprep.build.options import BuildOptions, ProgressListener, bad_images_message
from imgprep.build.worker import ShardResult, ShardTask, WorkerSetup, build_shard
from imgprep.dataset.markers import Marker, Skip
from imgprep.errors import BadImagesError
from imgprep.runners.choose import open_runner, runner_for
from imgprep.runners.runner import Progress, Retried, Workload


@dataclass(slots=True)
class ShardRun:
    """Builds shards and collects the ``markers`` of finished ones and the ``bad`` images."""

    setup: WorkerSetup
    needs: NodeNeeds
    options: BuildOptions
    listener: ProgressListener
    markers: dict[tuple[str, int], Marker]
    bad: list[Skip] = field(default_factory=list)
    jobs: int = 0
    """Number of shards that are built at a time."""

    def build(self, shards: list[tuple[str, int]]) -> None:
        """Build the shards, named by split and number, in any order.

        Raises:
            BadImagesError: as many images are bad as stop the build.
            ImgprepError: a task failed, or tasks can no longer be run.
        """
        name = runner_for(self.options.runner, self.setup.source, self.setup.dest)
        tasks = [ShardTask(split, number) for split, number in shards]
        load = Workload(
            work=build_shard,
            setup=self.setup,
            tasks=len(tasks),
            jobs=self.options.jobs,
            check=partial(check_node, self.needs),
        )
        with open_runner(name, load) as runner:
            self.jobs = runner.jobs
            for event in runner.run(tasks):
                self._take(event)

    def _take(self, event: Progress | Retried | ShardResult | None) -> None:
        if event is None:
            self.listener.advanced(0, ())
        elif isinstance(event, Progress):
            self.bad.extend(event.bad)
            self.listener.advanced(event.done, event.bad)
            if len(self.bad) >= self.options.bad_images_max:
                raise BadImagesError(bad_images_message(self.bad, len(self.bad), self.options))
        elif isinstance(event, Retried):
            for skip in event.bad:
                self.bad.remove(skip)
            self.listener.retried(event.why, event.done, event.bad)
        elif event.marker is not None:
            self.markers[event.task.split, event.task.number] = event.marker
