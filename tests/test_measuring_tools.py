"""The tools that measure a dataset print figures that agree with a build."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from imgprep.dataset.index import load_index
from tests.conftest import REPOSITORY


def tool(name: str, *arguments: object) -> str:
    program = [sys.executable, str(REPOSITORY / "tools" / f"{name}.py")]
    ran = subprocess.run(
        [*program, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_sizes_agree_with_a_build(mini: Path, built: Path) -> None:
    rows = re.findall(r"^\| `(.+?)` \| ([\d,]+) \| ([\d,]+) \|", tool("sizes", mini), re.MULTILINE)
    sizes = {name: (int(i.replace(",", "")), int(r.replace(",", ""))) for name, i, r in rows}
    assert len(sizes) == 6
    assert sizes["--encoding raw"][0] == 128 + 256 * 256 * 3
    splits = load_index(built).splits
    records = sum(split.records for split in splits.values())
    shards = [built / shard.name for split in splits.values() for shard in split.shards]
    ends = 10_240 * len(shards)  # each tar is padded to this length, with at least two blocks
    written = sum(path.stat().st_size + path.with_suffix(".idx").stat().st_size for path in shards)
    expected = records * sizes["--encoding jpeg --quality 95 --subsampling 420"][1]
    # The mean is rounded; an index line is shorter for the first members of a shard.
    assert -records * 8 < written - expected < ends + 2 * 512 * len(shards)


def test_the_interval_contains_the_stored_deviation_and_is_repeatable(built: Path) -> None:
    printed = tool("pca_interval", built, "--draws", 200)
    assert printed == tool("pca_interval", built, "--draws", 200)
    assert printed.startswith("96 training records, 200 draws")
    rows = re.findall(r"^PC\d +([\d.]+) +95 % ([\d.]+)-([\d.]+)$", printed, re.MULTILINE)
    stored, low, high = np.array(rows, dtype=float).T
    eigenvalues = json.loads((built / "rgb_pca.json").read_text())["eigenvalues"]
    np.testing.assert_allclose(stored, np.sqrt(eigenvalues), atol=0.006)
    assert (low < high).all()
    assert low[0] < stored[0] < high[0]  # JPEG takes a little colour from the others


def test_the_time_of_the_feeding_thread_is_printed(built: Path) -> None:
    printed = tool("bench_input", built, "--python-time")
    rows = re.findall(r"^batch (\d+) +(\d+) microseconds +(\d+) calls", printed, re.MULTILINE)
    assert [row[0] for row in rows] == ["128", "512"]
    assert all(int(number) for row in rows for number in row)


@pytest.mark.parametrize("name", ["ours", "dali-alone", "torch-simplejpeg"])
def test_a_contestant_of_the_input_gives_a_rate(built: Path, tmp_path: Path, name: str) -> None:
    options = ("--preset", "paper", "--only", "ours", "--only", name, "--rounds", 1)
    out = tmp_path / "found.json"
    tool("bench_input", built, *options, "--batch", 8, "--seconds", 0.1, "--json", out)
    found = json.loads(out.read_text())["paper"]
    assert set(found) == {"ours", name}
    assert found[name]["median"] > 0


def test_a_fed_step_is_measured(built: Path, tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    narrow = ("--set", "net.width_divisor=16")
    options = ("--batch", 40, "--steps", 1, "--rounds", 1, *narrow, "--json", out)
    printed = tool("bench_fed", built, *options)
    found = json.loads(out.read_text())
    assert found["first_steps_ratio"] > 0
    assert f"{found['ratio']:.3f}" in printed


def test_the_gpu_measurements_are_rehearsed_on_the_cpu(built: Path, tmp_path: Path) -> None:
    """Nobody has a GPU at hand when the program changes: every part must run to its end here."""
    file = tmp_path / "gpu.json"
    printed = tool("bench_gpu", built, "--rehearse", "--json", file)
    report = json.loads(file.read_text())
    assert set(report["parts"]) == {"step", "fed-4", "input", "precision"}
    assert not [part for part in report["parts"].values() if "failure" in part]
    assert report["two_gpus"]["columns"]["images_per_s"] > 0
    assert tool("bench_gpu", "--table", file) == printed
    assert "| columns | 2 | float32 |" in printed
