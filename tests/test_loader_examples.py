"""The examples of the loader run and resume; Lightning and accelerate need no wrapping."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.environments import readers_python

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted((ROOT / "tools" / "examples").glob("*.py"))
TWO_PROCESSES = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def run(*arguments: object) -> str:
    """Run Python with the readers; returns what it prints on stdout."""
    ran = subprocess.run(
        [readers_python(), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true"},
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    return ran.stdout


def test_examples_have_at_most_40_lines() -> None:
    assert len(EXAMPLES) == 3
    assert max(len(path.read_text("utf-8").splitlines()) for path in EXAMPLES) <= 40


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_trains_and_the_same_command_resumes_it(
    example: Path, built: Path, tmp_path: Path
) -> None:
    """The second epoch runs in two processes, but for Lightning, which starts its own."""
    saved = tmp_path / "saved"
    first = run(example, built, saved, 1, 32)
    assert "1 epochs of 3 batches are done" in first
    launcher = () if "lightning" in example.stem else TWO_PROCESSES
    second = run(*launcher, example, built, saved, 2, 32)
    assert "2 epochs of 3 batches are done" in second


LIGHTNING = """
import hashlib, json, logging, sys, warnings
import lightning, torch
from lightning.pytorch.callbacks import ModelCheckpoint
from train.loader import ImageLoader

dest, folder, ddp = sys.argv[1], sys.argv[2], len(sys.argv) > 3
seen = []


class Net(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 10)

    def training_step(self, batch, _):
        images, labels = batch
        seen.append([hashlib.sha256(image.numpy().tobytes()).hexdigest() for image in images])
        return torch.nn.functional.cross_entropy(self.layer(images.mean((2, 3))), labels % 10)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


def fit(steps, resume=None):
    saves = ModelCheckpoint(folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    trainer = lightning.Trainer(
        max_steps=steps, max_epochs=-1, callbacks=[saves], logger=False, default_root_dir=folder,
        enable_progress_bar=False, enable_model_summary=False, accelerator="cpu",
        **(dict(devices=2, strategy="ddp") if ddp else dict(devices=1)),
    )
    loader = ImageLoader(dest, batch_images=32, crop_px=16, seed=3, threads=1)
    trainer.fit(Net(), loader, ckpt_path=resume)
    return trainer.global_rank


rank = fit(8)
if not ddp:
    for stop in (2, 3, 4):
        fit(8, f"{folder}/step={stop}.ckpt")
with open(f"{folder}/seen-{rank}", "w") as file:
    json.dump(seen, file)
"""


def test_lightning_resumes_in_the_middle_and_at_the_end_of_an_epoch(
    built: Path, tmp_path: Path
) -> None:
    """Three batches an epoch: stopped after steps 2, 3 and 4, and run to step 8."""
    script = tmp_path / "fit.py"
    script.write_text(LIGHTNING)
    run(script, built, tmp_path)
    seen = json.loads((tmp_path / "seen-0").read_text())
    whole, rest = seen[:8], seen[8:]
    assert rest == [*whole[2:], *whole[3:], *whole[4:]]
    for first in (0, 3):
        epoch = [row for batch in whole[first : first + 3] for row in batch]
        assert len(epoch) == len(set(epoch)) == 96
    ddp = tmp_path / "ddp"
    ddp.mkdir()
    run(script, built, ddp, "ddp")
    shares = [json.loads((ddp / f"seen-{rank}").read_text()) for rank in (0, 1)]
    assert [[*a, *b] for a, b in zip(*shares, strict=True)] == whole


ACCELERATE = """
import sys, torch
from itertools import islice
from accelerate import Accelerator
from train.loader import ImageLoader

dest, folder = sys.argv[1:]
accelerator = Accelerator(cpu=True)
whole = ImageLoader(dest, batch_images=32, crop_px=16, seed=3)
loader = accelerator.prepare(ImageLoader(dest, batch_images=32, crop_px=16, seed=3))
assert type(loader) is ImageLoader
accelerator.register_for_checkpointing(loader)
expected = [images for images, _ in whole]
found = [images for images, _ in islice(loader, 2)]
accelerator.save_state(folder)
list(loader)
accelerator.load_state(folder)
found += [images for images, _ in loader]
assert all(map(torch.equal, found, expected)), "other batches"
assert len(found) == len(expected) == 3
"""


def test_accelerate_returns_the_loader_as_it_is_and_saves_its_state(
    built: Path, tmp_path: Path
) -> None:
    run("-c", ACCELERATE, built, tmp_path / "state")
