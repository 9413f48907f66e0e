"""Exported weights: a program in plain torch computes what our net does, and a card says what."""

from __future__ import annotations

import hashlib
import io
import re
import shlex
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import imgprep
from tests.test_export import VARIANTS
from tests.training import fit, train
from train.config import InputConfig, NetConfig
from train.net import build_net, net_layout
from train.run.chance import is_at_chance
from train.run.metrics import TopK
from train.settings import assignments_from, from_assignments, from_json, resolve
from train.show.plain_torch import MEAN, SD, plain_program

CROP_PX = 96
MOST_LINES = 80
ALONE = """
import sys
sys.path.insert(0, {folder!r})
import torch
from {program} import load
assert not any(name.split(".")[0] in ("imgprep", "train") for name in sys.modules)
torch.save(load({weights!r})(torch.load({images!r})), {out!r})
"""


def logits_of_the_program(program: Path, weights: Path, images: torch.Tensor) -> torch.Tensor:
    """Run the program in an interpreter that knows nothing of this package."""
    folder = program.parent
    torch.save(images, folder / "images.pt")
    code = ALONE.format(
        folder=str(folder),
        program=program.stem,
        weights=str(weights),
        images=str(folder / "images.pt"),
        out=str(folder / "logits.pt"),
    )
    command = [sys.executable, "-I", "-W", "ignore", "-c", code]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    assert ran.returncode == 0, ran.stderr
    found: torch.Tensor = torch.load(folder / "logits.pt")
    return found


@pytest.mark.parametrize("settings", VARIANTS, ids=lambda each: "-".join(map(str, each)) or "paper")
def test_the_program_gives_the_logits_of_the_net(settings: dict[str, Any], tmp_path: Path) -> None:
    from safetensors.torch import save_file

    values = {"width_divisor": 16, "init_sd": 0.04, "init_sd_conv345": 0.12, **settings}
    config = NetConfig(**values)
    devices = (torch.device("cpu"),)
    net = build_net(config, classes=5, devices=devices, columns=False, seed=2, image_px=CROP_PX)
    images = torch.randint(256, (2, 3, CROP_PX, CROP_PX), dtype=torch.uint8)
    mean, sd = torch.rand(3, CROP_PX, CROP_PX) * 200, torch.tensor([50.0, 60, 70]).reshape(3, 1, 1)
    save_file({**net.canonical_state(), MEAN: mean, SD: sd}, tmp_path / "net.safetensors")
    layout = net_layout(config, classes=5, image_px=CROP_PX)
    program = plain_program(layout, config, title="A net", weights="net.safetensors")
    assert len(program.splitlines()) <= MOST_LINES
    (tmp_path / "net.py").write_text(program)
    found = logits_of_the_program(tmp_path / "net.py", tmp_path / "net.safetensors", images)
    with torch.no_grad():
        expected = net((images - mean) / sd, None)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def run(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "run"
    fit(built, out, "--epochs", 10, "--seed", 3)
    return out


def test_the_card_says_what_was_measured_and_how_to_make_it_again(
    run: Path, built: Path, tmp_path: Path
) -> None:
    ran = train("export", run / "best.pt", "--out", tmp_path / "net", "--format", "safetensors",
                "--device", "cpu", "--json")  # fmt: skip
    assert ran.code == 0, ran.err
    weights, card = tmp_path / "net.safetensors", (tmp_path / "net.md").read_text()
    assert ran.json["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert ran.json["sha256"] in card
    measured = train("evaluate", run / "best.pt", built, "--views", 10, "--device", "cpu", "--json")
    assert ran.json["ten_view_top1_error"] == measured.json["top1_error"]
    assert f"| ten views | {measured.json['top1_error']:.2%} |" in card
    saved = torch.load(run / "best.pt", weights_only=True)
    assert saved["dataset_fingerprint"] in card
    (command,) = re.findall(r"```sh\n(.+?)\n```", card, re.DOTALL)
    words = shlex.split(command.replace("\\\n", " "))
    name, epochs = (words[words.index(option) + 1] for option in ("--preset", "--epochs"))
    chosen = [words[k + 1] for k, word in enumerate(words) if word == "--set"]
    chosen.append(f"optim.epochs={epochs}")
    assert resolve(name, {}, from_assignments(tuple(chosen))) == from_json(saved["config"])


def test_the_exported_files_give_the_errors_of_the_card(
    run: Path, built: Path, tmp_path: Path
) -> None:
    """From the records' own pixels, without our loader."""
    ran = train("export", run / "best.pt", "--out", tmp_path / "net.safetensors", "--device", "cpu",
                "--json")  # fmt: skip
    assert ran.code == 0, ran.err
    records: dict[str, bytes] = {}
    for shard in built.rglob("val*.tar"):
        with tarfile.open(shard) as tar:
            records |= {each.name: tar.extractfile(each).read() for each in tar}  # type: ignore[union-attr]
    names = [name for name in records if name.endswith(".jpg")]
    px = from_json(torch.load(run / "best.pt", weights_only=True)["config"]).input.crop_px
    low = (256 - px) // 2
    pixels = [
        np.asarray(Image.open(io.BytesIO(records[name])))[low : low + px, low : low + px]
        for name in names
    ]
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()
    logits = logits_of_the_program(tmp_path / "net.py", tmp_path / "net.safetensors", images)
    labels = torch.tensor([int(records[name.replace(".jpg", ".cls")]) for name in names])
    wrong = (logits.argmax(1) != labels).double().mean()
    assert float(wrong) == pytest.approx(ran.json["centre_top1_error"])


def test_a_network_at_chance_is_refused(built: Path, tmp_path: Path) -> None:
    fit(built, tmp_path / "run", "--steps", 1)
    ran = train("export", tmp_path / "run" / "last.pt", "--out", tmp_path / "net.safetensors",
                "--device", "cpu")  # fmt: skip
    assert ran.code == 2
    assert "no better than chance with 4 classes" in ran.err
    assert not list(tmp_path.glob("net*"))


def test_another_dataset_is_refused(run: Path, tmp_path: Path, mini: Path) -> None:
    other, out = tmp_path / "other", tmp_path / "net.safetensors"
    assert imgprep("build-shards", mini, other, "--quality", 80).code == 0
    ran = train("export", run / "best.pt", "--out", out, "--dataset", other)
    assert ran.code == 1
    assert "another dataset" in ran.err


@pytest.mark.parametrize(
    ("right", "count", "classes", "at_chance"),
    [(10, 100, 10, True), (20, 100, 10, False), (25, 100, 4, True), (2, 4, 4, True)],
)
def test_chance_is_judged_by_the_number_of_images(
    right: int, count: int, classes: int, at_chance: bool
) -> None:
    from train.run.metrics import credit_unit

    table = torch.zeros(3, classes, dtype=torch.int64)
    table[0, 0] = count
    table[1:, 0] = right * credit_unit(classes)
    assert is_at_chance(TopK(table), classes) == at_chance


def test_the_format_and_the_name_must_agree(run: Path, tmp_path: Path) -> None:
    ran = train("export", run / "best.pt", "--out", tmp_path / "net.pt", "--format", "onnx")
    assert ran.code == 2
    assert "--format onnx needs a name that ends in .onnx" in ran.err


def test_changed_settings_are_listed_as_they_are_typed() -> None:
    base = resolve("paper", {}, {})
    chosen = ("net.lrn=false", "optim.step_epochs=[3, 5]", "seed=7", "input.sd_rgb=[1.0, 2.0, 3.5]")
    config = resolve("paper", {}, from_assignments(chosen))
    assert isinstance(config.input, InputConfig)
    assert sorted(assignments_from(base, config)) == sorted(chosen)


@pytest.mark.parametrize("suffix", [".py", ".md"])
def test_a_file_that_is_not_of_an_export_is_kept(run: Path, tmp_path: Path, suffix: str) -> None:
    mine = (tmp_path / "net").with_suffix(suffix)
    mine.write_text("mine\n")
    options = ("--out", tmp_path / "net.safetensors", "--device", "cpu")
    refused = train("export", run / "best.pt", *options)
    assert refused.code == 1
    assert f"{mine} exists and is not of an export" in refused.err
    assert [mine] == [*tmp_path.iterdir()]
    assert mine.read_text() == "mine\n"


def test_the_card_of_weights_with_any_name_shows_code_that_runs(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "alexnet-2012.v1.safetensors"
    for _ in range(2):  # the second replaces the files of the first
        ran = train("export", run / "best.pt", "--out", out, "--device", "cpu")
        assert ran.code == 0, ran.err
    card = (tmp_path / "alexnet-2012.v1.md").read_text()
    (code,) = re.findall(r"```python\n(.+?)\n```", card, re.DOTALL)
    px = re.findall(r"\(n, 3, (\d+), ", code)[0]
    code = f"import torch\nimages = torch.zeros(1, 3, {px}, {px})\n{code}"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
