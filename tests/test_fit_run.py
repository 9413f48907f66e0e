"""A run from the command line: it trains, validates and saves; then evaluate, export, figures."""

from __future__ import annotations

import json
import math
import re
import tomllib
from pathlib import Path

import pytest
import torch

from tests.training import SMALL, STEPS_PER_EPOCH, fit, rows, train, weights
from train.settings import resolve

EPOCHS = 6
EPOCHS_OF_SMALL = 12


@pytest.fixture(scope="module")
def run(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "run"
    ran = fit(built, out, "--epochs", EPOCHS, "--json")
    result = json.loads(ran.out)
    assert result["epochs"] == EPOCHS
    assert result["steps"] == EPOCHS * STEPS_PER_EPOCH
    return out


def test_the_loss_falls_below_chance(run: Path) -> None:
    losses = [float(row["loss"]) for row in rows(run / "steps.csv")]
    assert len(losses) == EPOCHS * STEPS_PER_EPOCH
    assert sum(losses[-6:]) / 6 < math.log(4) - 0.1  # 4 classes


def test_every_epoch_is_validated_and_the_best_is_kept(run: Path) -> None:
    epochs = rows(run / "epochs.csv")
    assert [int(row["epoch"]) for row in epochs] == list(range(1, EPOCHS + 1))
    best = torch.load(run / "best.pt", weights_only=True)["best"]
    assert best["top1_error"] == pytest.approx(min(float(row["top1_error"]) for row in epochs))
    assert len(list(run.glob("epoch_*.pt"))) == 3  # keep_checkpoints


def test_the_resolved_settings_are_in_the_run_folder(run: Path) -> None:
    config = resolve(None, tomllib.loads((run / "config.toml").read_text()), {})
    assert config.preset == "source-2010"
    assert config.optim.epochs == EPOCHS
    assert config.net.width_divisor == 16


@pytest.mark.parametrize("views", [1, 10])
def test_evaluate_gives_errors_as_fractions_in_json(run: Path, built: Path, views: int) -> None:
    ran = train("evaluate", run / "best.pt", built, "--views", views, "--json", "--device", "cpu")
    assert ran.code == 0, ran.err
    assert ran.json["count"] == 24
    assert 0 <= ran.json["top5_error"] <= ran.json["top1_error"] <= 1
    if views == 1:  # what the loop measured
        best = torch.load(run / "best.pt", weights_only=True)["best"]
        assert ran.json["top1_error"] == best["top1_error"]


def test_several_checkpoints_are_measured_one_by_one_and_averaged(
    run: Path, built: Path, tmp_path: Path
) -> None:
    """Also a network of another architecture, crop size and mean."""
    other = tmp_path / "other"
    fit(built, other, "--steps", 1, "--set", "net.architecture=cifar4", "--set",
        "input.crop_px=64", "--set", "input.mean=channel")  # fmt: skip
    paths = (run / "best.pt", other / "last.pt", run / "last.pt")
    ran = train("evaluate", *paths, built, "--device", "cpu")
    assert ran.code == 0, ran.err
    *alone, average = ran.out.splitlines()
    assert [line.split(": ")[0] for line in alone] == [str(path) for path in paths]
    assert "(24 images, centre crop, 3 networks averaged)" in average
    found = train("evaluate", *paths, built, "--device", "cpu", "--json").json
    assert (found["count"], found["networks"]) == (24, 3)
    for path, one in zip(paths, found["each"], strict=True):
        assert one.pop("name") == str(path)
        assert one == train("evaluate", path, built, "--device", "cpu", "--json").json


def test_a_finished_run_has_nothing_to_do(run: Path, built: Path) -> None:
    before = (run / "steps.csv").read_bytes()
    ran = fit(built, run, "--epochs", EPOCHS)
    assert f"{EPOCHS} epochs are done" in ran.out
    assert (run / "steps.csv").read_bytes() == before


def test_the_export_is_a_plain_state_dict(run: Path, tmp_path: Path) -> None:
    ran = train("export", run / "last.pt", "--out", tmp_path / "net.pt")
    assert ran.code == 0, ran.err
    state = torch.load(tmp_path / "net.pt", weights_only=True)
    assert state["conv1.weight"].shape == (6, 3, 11, 11)  # 96 filters / 16


def test_figures_of_a_run(run: Path) -> None:
    ran = train("figures", run)
    assert ran.code == 0, ran.err
    for name in ran.out.split():
        assert Path(name).stat().st_size > 0


def test_a_warm_start_copies_the_layers_that_fit(run: Path, built: Path, tmp_path: Path) -> None:
    """The other network has other classes, so all layers except fc8 are copied, as in 2012."""
    ran = fit(built, tmp_path / "run", "--classes", 7, "--steps", 1, "--lr", 0,
              "--warm-start", run / "last.pt")  # fmt: skip
    assert "newly initialised: fc8.weight, fc8.bias" in ran.err
    ours, theirs = weights(tmp_path / "run" / "last.pt"), weights(run / "last.pt")
    assert torch.equal(ours["model.conv1.weight"], theirs["model.conv1.weight"])
    assert len(ours["model.fc8.bias"]) == 7


def test_a_net_with_a_sixth_convolution_is_fine_tuned_on_fewer_classes(
    built: Path, tmp_path: Path
) -> None:
    """Pre-trained on 7 classes, fine-tuned on the 4 of the set, as the paper did (section 6.1)."""
    conv6 = ("--set", "net.architecture=conv6")
    fit(built, tmp_path / "more", "--classes", 7, "--steps", 2, *conv6)
    ran = fit(built, tmp_path / "fewer", "--steps", 1, "--lr", 0, *conv6,
              "--warm-start", tmp_path / "more" / "last.pt")  # fmt: skip
    assert "newly initialised: fc8.weight, fc8.bias" in ran.err
    ours, theirs = (weights(tmp_path / name / "last.pt") for name in ("fewer", "more"))
    for name in ("conv1", "conv6", "fc7"):
        assert torch.equal(ours[f"model.{name}.weight"], theirs[f"model.{name}.weight"])
    assert (len(ours["model.fc8.bias"]), len(theirs["model.fc8.bias"])) == (4, 7)
    assert train("evaluate", tmp_path / "fewer" / "last.pt", built, "--device", "cpu").code == 0


def test_images_of_float16_train_without_autocast(built: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    fit(built, out, "--steps", 2, "--set", "input.dtype=float16")
    assert all(math.isfinite(float(row["loss"])) for row in rows(out / "steps.csv"))


def test_bfloat16_with_the_papers_initial_weights_warns_when_a_run_starts(
    built: Path, tmp_path: Path
) -> None:
    weak = ("--precision", "bf16", "--set", "net.init_sd_conv345=0.01")
    ran = train("fit", built, "--out", tmp_path / "run", *SMALL, "--steps", 1, *weak)
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        assert ran.code == 2
        assert "precision bf16" in ran.err
        return
    assert ran.code == 0, ran.err
    assert "warning: bfloat16 is too coarse for these initial weights" in ran.err
    assert "too coarse" not in fit(built, tmp_path / "run", "--steps", 2, *weak).err


def test_a_dry_run_prints_the_size_and_writes_nothing(built: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    ran = train("fit", built, "--out", out, *SMALL, "--parallel", "columns", "--dry-run", "--json")
    assert ran.code == 0, ran.err
    assert not out.exists()
    budget = ran.json
    assert budget["ranks"] == [{"local_rank": 0, "devices": ["cpu", "cpu"]}]
    assert (budget["steps_per_epoch"], budget["batch_images"]) == (STEPS_PER_EPOCH, 16)
    assert budget["link_bytes_per_step"] > 0
    expected = EPOCHS_OF_SMALL * STEPS_PER_EPOCH * budget["step_seconds"]
    assert 0 < budget["run_seconds"] == pytest.approx(expected)
    assert budget["data_step_seconds"] > 0


def test_a_run_prints_a_short_summary_and_all_settings_with_verbose(
    built: Path, tmp_path: Path
) -> None:
    command = ("fit", built, "--out", tmp_path / "run", *SMALL, "--dry-run")
    short, long = train(*command), train(*command, "--verbose")
    assert len(short.out.splitlines()) <= 12
    assert f"settings  kept in {tmp_path / 'run' / 'config.toml'}" in short.out
    all_settings, _, rest = long.out.partition("dataset   ")
    assert len(rest.splitlines()) == len(short.out.splitlines())
    settings = resolve(None, tomllib.loads(all_settings), {})
    assert settings.net.width_divisor == 16


def test_a_dry_run_in_columns_compares_them_with_two_processes(built: Path, tmp_path: Path) -> None:
    command = ("fit", built, "--out", tmp_path / "run", *SMALL, "--dry-run")
    columns = train(*command, "--parallel", "columns")
    found = re.search(
        r"^columns   (\d+\.\d\d) times as long per step as --parallel data", columns.out, re.M
    )
    assert found, columns.out
    assert float(found[1]) > 0
    alone = train(*command, "--parallel", "none", "--json").json
    assert alone["data_step_seconds"] is None


def test_a_dry_run_says_what_it_timed(built: Path, tmp_path: Path) -> None:
    ran = train("fit", built, "--out", tmp_path / "run", *SMALL, "--dry-run")
    time = ran.out.splitlines()[-1]
    assert re.fullmatch(
        r"time      about [\d:]+ \(h:mm:ss\), \d+ ms per step, if input keeps up; "
        r"timed: \d+ updates? of 16 images in \d+\.\d s, without input and other processes",
        time,
    )


def test_the_default_preset_is_the_one_that_learns_soonest(built: Path, tmp_path: Path) -> None:
    config = ("--device", "cpu", "--set", "net.width_divisor=16", "--dry-run", "--json")
    ran = train("fit", built, "--out", tmp_path / "run", *config)
    assert ran.json["preset"] == "source-2012"


def test_a_batch_larger_than_the_dataset_is_the_whole_dataset(built: Path, tmp_path: Path) -> None:
    ran = fit(built, tmp_path / "run", "--batch-size", 10**12, "--epochs", 1)
    assert "batch     96 images per update" in ran.err
    assert [int(row["images"]) for row in rows(tmp_path / "run" / "steps.csv")] == [96]


def test_errors_per_class_have_names(run: Path, built: Path) -> None:
    command = ("evaluate", run / "last.pt", built, "--device", "cpu", "--per-class")
    names = [each["name"] for each in json.loads((built / "labels.json").read_text())["classes"]]
    assert [row["name"] for row in train(*command, "--json").json["per_class"]] == names
    lines = train(*command).out.splitlines()[1:]
    assert all(name in line for name, line in zip(names, lines, strict=True))


def test_columns_send_as_many_bytes_as_in_the_paper(built: Path, tmp_path: Path) -> None:
    ran = train(
        "fit", built, "--out", tmp_path / "run", "--device", "cpu", "--parallel", "columns",
        "--classes", 1000, "--dry-run", "--json",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert ran.json["parameters"] == 60_965_224
    assert ran.json["link_bytes_per_step"] == 128 * 468_992
