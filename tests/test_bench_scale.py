"""The scaling benchmark: its table follows from the figures that it measured."""

from __future__ import annotations

import json
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import REPOSITORY
from tests.test_measuring_tools import tool


@pytest.fixture(scope="module")
def bench() -> Any:
    before = list(sys.path)
    path = REPOSITORY / "tools" / "bench_scale.py"
    spec = spec_from_file_location("bench_scale", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules["bench_scale"] = module  # dataclasses look up their own module
    spec.loader.exec_module(module)
    sys.path[:] = before
    return module


@given(rate=st.floats(1, 1e4), start=st.floats(0, 60), small=st.integers(1, 500))
def test_fit_recovers_rate_and_start(bench: Any, rate: float, start: float, small: int) -> None:
    sizes = (small, 5 * small)
    found = bench.fit(*((images, start + images / rate) for images in sizes))
    assert found.images_per_second == pytest.approx(rate, rel=1e-4)
    assert found.start_seconds == pytest.approx(start, rel=1e-4, abs=1e-4)


def test_the_table_is_computed_from_the_saved_figures(tmp_path: Path) -> None:
    def build(jobs: int, images: int) -> dict[str, Any]:
        return {"timings": {"build_seconds": 2.0 + images / (400 * jobs)}}

    data = {
        "date": "2026-01-01",
        "hardware": {"cpu": "x", "cores_used": [0, 1], "cores": 2, "memory_gib": 1.0,
                     "kernel": "1", "python": "3"},
        "photos": {"images": 5000, "distinct": 300, "mean_bytes": 1e5, "mean_megapixels": 0.2},
        "sizes": [1000, 5000],
        "rounds": 1,
        "builds": {
            f"{runner} {jobs} {images}": [build(jobs, images)]
            for runner in ("local", "ray") for jobs in (1, 2) for images in (1000, 5000)
        },
    }  # fmt: skip
    file = tmp_path / "figures.json"
    file.write_text(json.dumps(data))
    text = tool("bench_scale", "--table", file)
    assert "| ray | 2 | 800 (606-606) | 2.0 | 100% |" in text
