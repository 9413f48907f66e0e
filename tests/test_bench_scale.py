"""The bench of scaling: what it says on paper follows from what it measured."""

from __future__ import annotations

import json
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import REPOSITORY
from tests.test_measuring_tools import tool

IMAGES = 1_281_167 + 50_000
SHARDS = 1282 + 50


@pytest.fixture(scope="module")
def bench() -> Any:
    before = list(sys.path)
    loader = SourceFileLoader("bench_scale", str(REPOSITORY / "tools" / "bench_scale"))
    spec = spec_from_loader("bench_scale", loader)
    assert spec is not None
    module = module_from_spec(spec)
    sys.modules["bench_scale"] = module  # dataclasses look themselves up
    loader.exec_module(module)
    sys.path[:] = before
    return module


@given(rate=st.floats(1, 1e4), start=st.floats(0, 60), small=st.integers(1, 500))
def test_rate_and_start_are_found_again(bench: Any, rate: float, start: float, small: int) -> None:
    sizes = (small, 5 * small)
    found = bench.fit(*((images, start + images / rate) for images in sizes))
    assert found.images_per_second == pytest.approx(rate, rel=1e-4)
    assert found.start_seconds == pytest.approx(start, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize(("cores", "most"), [(1, 1332), (2, 666), (16, 84), (64, 21), (1024, 2)])
def test_on_paper(bench: Any, cores: int, most: int) -> None:
    serial = bench.Serial(
        scan_seconds_per_image=1e-5, publish_seconds=2.0, publish_seconds_per_shard=0.003
    )
    paper = bench.on_paper(cores, 400.0, 7.0, serial)
    assert paper.shards_per_core == most
    assert paper.build_seconds == pytest.approx(7.0 + most * IMAGES / SHARDS / 400)
    assert paper.serial_seconds == pytest.approx(IMAGES * 1e-5 + 2.0 + SHARDS * 0.003)
    assert paper.total_seconds == paper.build_seconds + paper.serial_seconds
    assert paper.images_per_second <= cores * 400


def test_losses_that_go_on(bench: Any) -> None:
    assert bench.falling(400, 360, 1) == 400
    assert bench.falling(400, 360, 2) == pytest.approx(360)
    assert bench.falling(400, 360, 1024) == pytest.approx(400 * 0.9**10)
    assert bench.falling(400, 410, 64) == 400  # noise gives nothing


def test_the_table_is_printed_from_the_figures(tmp_path: Path) -> None:
    def build(jobs: int, images: int) -> dict[str, Any]:
        seconds = 2.0 + images / (400 * jobs)
        timings = {"build_seconds": seconds, "scan_seconds": 0.05, "publish_seconds": 2.0}
        return {"shards": images // 100, "record_bytes": 33_000.0, "timings": timings}

    data = {
        "date": "2026-01-01",
        "hardware": {"cpu": "x", "cores_used": [0, 1], "cores": 2, "memory_gib": 1.0,
                     "kernel": "1", "python": "3"},
        "photos": {"images": 5000, "distinct": 300, "mean_bytes": 1e5, "mean_megapixels": 0.2},
        "sizes": [1000, 5000],
        "rounds": 1,
        "builds": {
            f"{engine} {jobs} {images}": [build(jobs, images)]
            for engine in ("local", "ray") for jobs in (1, 2) for images in (1000, 5000)
        },
    }  # fmt: skip
    file = tmp_path / "figures.json"
    file.write_text(json.dumps(data))
    text = tool("bench_scale", "--table", file)
    assert "| ray | 2 | 800 (606-606) | 2.0 | 100% |" in text
    rows = {line.split(" |")[0]: line for line in text.splitlines()}
    # 666 shards of 999.4 images at 400 a second, and 2 seconds; 10 µs an image alone, and 2 seconds
    assert rows["| 2"].startswith("| 2 | local | 666 | 1,666 s | 15 s | 28.0 min | 799 | 80 | 26 |")
    assert "- no worker is lost" in text
