"""Pictures of a run: every filter in its place and colour; curves in both formats."""

from __future__ import annotations

import sys
import xml.etree.ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from imgprep.errors import DestinationError
from tests.checkpoints import make_checkpoint
from tests.nets import make_net
from tests.test_run_logs import write
from train.errors import CheckpointError, ConfigError
from train.run.logs import STEP_FIELDS, STEPS_CSV, RunLogs, read_rows
from train.saved import checkpoint
from train.saved.checkpoint import Position
from train.show import figures

TILE = 11 * figures.ZOOM
STRIDE = TILE + figures.GAP_PX


def drawn(weight: torch.Tensor, path: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    figures.filters_png({"conv1.weight": weight}, path)
    with Image.open(path) as picture:
        assert picture.mode == "RGB"
        return np.asarray(picture)


def corner(number: int, half: int) -> tuple[int, int]:
    """First row and column in pixels of filter ``number``; ``half`` filters in a column."""
    block, inside = divmod(number, half)
    row, column = divmod(inside, 16)
    block_px = (half // 16) * STRIDE - figures.GAP_PX + figures.SEAM_PX
    return block * block_px + row * STRIDE, column * STRIDE


def test_48_filters_of_column_a_lie_above_48_of_column_b(tmp_path: Path) -> None:
    weight = torch.zeros(96, 3, 11, 11)
    for number in range(96):
        weight[number].view(-1)[number * 3 % 363] = 1.0 if number < 48 else -1.0
    picture = drawn(weight, tmp_path / "f.png")
    assert picture.shape == (6 * TILE + 4 * 4 + 16, 16 * TILE + 15 * 4, 3)
    for number in range(96):
        y, x = corner(number, 48)
        tile = picture[y : y + TILE : 4, x : x + TILE : 4].transpose(2, 0, 1).reshape(-1)
        expected = np.full(363, 128)
        expected[number * 3 % 363] = 255 if number < 48 else 0
        assert (tile == expected).all()
    seam = picture[3 * STRIDE - 4 : 3 * STRIDE - 4 + 16]
    assert (seam == 255).all()


@pytest.mark.parametrize(
    ("settings", "px", "blocks"),
    [
        ({}, 96, 2),
        ({"leave_out": "conv3"}, 96, 2),
        ({"architecture": "one-gpu"}, 96, 1),
        ({"architecture": "cifar4"}, 32, 1),
    ],
)
def test_only_nets_of_two_columns_have_two_blocks(
    settings: dict[str, Any], px: int, blocks: int
) -> None:
    net = make_net(columns=False, image_px=px, settings=settings)
    assert len(figures.filter_blocks(net.canonical_state())) == blocks


def test_each_filter_is_scaled_by_itself_and_channels_are_colours(tmp_path: Path) -> None:
    weight = torch.zeros(96, 3, 11, 11)
    weight[0, 0] = 1e-6
    weight[1, 1], weight[1, 2] = 200.0, -100.0
    picture = drawn(weight, tmp_path / "f.png")
    assert picture[0, 0].tolist() == [255, 128, 128]
    assert picture[0, STRIDE].tolist() == [128, 255, 64]


@pytest.mark.parametrize("filters", [48, 6, 17])
def test_a_net_of_one_column_has_one_block(filters: int, tmp_path: Path) -> None:
    picture = drawn(torch.ones(filters, 3, 11, 11), tmp_path / "f.png")
    rows = -(-filters // 16)
    assert picture.shape[0] == rows * STRIDE - figures.GAP_PX


def test_a_run_gets_its_filters_and_curves(tmp_path: Path) -> None:
    logs = RunLogs(tmp_path, tensorboard=False)
    write(logs, 1, 12)
    logs.close()
    checkpoint.save(tmp_path, make_checkpoint(), keep=1)
    found = figures.draw_run(tmp_path)
    assert [path.name for path in found] == ["filters.png", "curves.png", "curves.svg"]
    with Image.open(found[1]) as picture:
        assert picture.width > 600
    root = xml.etree.ElementTree.fromstring(found[2].read_bytes())
    text = "".join(root.itertext())
    for label in ("loss", "top-1, training", "top-1, validation", "learning rate", "updates"):
        assert label in text


def test_a_run_without_a_validation_or_with_rate_0_still_has_curves(tmp_path: Path) -> None:
    logs = RunLogs(tmp_path, tensorboard=False)
    logs.step(Position(0, 1, 1), _Nan(), 0.0)
    logs.close()
    assert [path.suffix for path in figures.draw_run(tmp_path)] == [".png", ".svg"]


class _Nan:
    images = 8
    loss = float("nan")
    top1_error = top5_error = 1.0
    images_per_second = wait_ms = step_ms = 1.0


def test_long_runs_are_averaged_down(tmp_path: Path) -> None:
    rows = [{"global_step": str(k), "loss": str(k % 2)} for k in range(30_000)]
    found = figures.thinned(rows)
    assert len(found) == figures.MAX_POINTS
    assert {row["loss"] for row in found} == {0.5}
    assert sum(row["global_step"] for row in found) / len(found) == pytest.approx(29_999 / 2)
    assert figures.thinned(rows[:7]) == [{k: float(v) for k, v in row.items()} for row in rows[:7]]


def test_what_is_drawn_is_what_was_logged(tmp_path: Path) -> None:
    logs = RunLogs(tmp_path, tensorboard=False)
    write(logs, 1, 8)
    logs.close()
    datasets = figures.curves_chart(tmp_path)["vconcat"]
    losses = [
        (point["step"], point["value"])
        for point in datasets[0]["data"]["values"]
        if point["curve"] == "training"
    ]
    rows = read_rows(tmp_path / STEPS_CSV, STEP_FIELDS)
    assert losses == [(float(row["global_step"]), float(row["loss"])) for row in rows]


def test_several_runs_are_compared_by_name(tmp_path: Path) -> None:
    for name in ("paper", "source"):
        (tmp_path / name).mkdir()
        logs = RunLogs(tmp_path / name, tensorboard=False)
        write(logs, 1, 8)
        logs.close()
    found = figures.draw_comparison([tmp_path / "paper", tmp_path / "source"], tmp_path / "both")
    assert found == [tmp_path / "both.png", tmp_path / "both.svg"]
    text = "".join(xml.etree.ElementTree.parse(found[1]).getroot().itertext())
    assert "paper" in text
    assert "source" in text


def test_a_run_that_has_only_begun_has_no_curves_yet(tmp_path: Path) -> None:
    logs = RunLogs(tmp_path, tensorboard=False)
    logs.cut(Position())
    logs.close()
    assert figures.draw_curves(tmp_path, tmp_path / "curves") == []


def test_a_folder_without_a_run_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no run"):
        figures.draw_run(tmp_path)


def test_a_picture_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(DestinationError, match="cannot write the picture"):
        drawn(torch.ones(96, 3, 11, 11), tmp_path / "none" / "f.png")


def test_a_missing_package_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    with pytest.raises(ConfigError, match=r"imgprep\[figures\]"):
        figures.draw_curves(tmp_path, tmp_path / "curves")


def test_a_few_filters_leave_no_blank_beside_them(tmp_path: Path) -> None:
    picture = drawn(torch.ones(6, 3, 11, 11), tmp_path / "f.png")
    assert picture.shape[1] == 6 * TILE + 5 * figures.GAP_PX


def test_curves_show_errors_in_per_cent_the_rate_in_steps_and_whole_updates(tmp_path: Path) -> None:
    logs = RunLogs(tmp_path, tensorboard=False)
    write(logs, 1, 8)
    logs.close()
    loss, error, rate = figures.curve_panels(tmp_path)
    assert error["encoding"]["y"]["axis"]["format"] == ".0%"
    assert rate["mark"]["interpolate"] == "step-before"
    assert "interpolate" not in loss["mark"]
    for panel in (loss, error, rate):
        assert panel["encoding"]["x"]["axis"]["tickMinStep"] == 1


@pytest.mark.parametrize(("classes", "shown"), [(5, False), (6, True), (None, True)])
def test_top_5_is_drawn_only_where_there_are_more_classes(
    classes: int | None, shown: bool, tmp_path: Path
) -> None:
    logs = RunLogs(tmp_path, tensorboard=False)
    write(logs, 1, 8)
    logs.close()
    error = figures.curve_panels(tmp_path, classes)[1]
    curves = {point["curve"] for point in error["data"]["values"]}
    assert {"top-1, training", "top-1, validation"} <= curves
    assert ("top-5, training" in curves) is ("top-5, validation" in curves) is shown
