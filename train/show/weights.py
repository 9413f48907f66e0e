"""Weights that others can trust: a safetensors file, a card that says what they are, and a program.

The card has what is needed to check the weights (errors, SHA-256) and to train them again (the
dataset's fingerprint, the command, all settings).
"""

from __future__ import annotations

import dataclasses
import hashlib
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from imgprep import __version__
from imgprep.errors import DestinationError
from imgprep.storage import Location
from imgprep.storage.atomic import write_bytes
from imgprep.wording import counted
from train.config import RunConfig
from train.errors import ConfigError
from train.feed.augment import EpochDraws
from train.feed.dataset import TrainingSet, open_dataset
from train.feed.mean import subtracted_mean
from train.join import Warn, ignore
from train.net import check_state, net_layout
from train.presets import preset
from train.run.chance import is_at_chance
from train.run.error_text import error_text
from train.run.evaluate import Evaluation
from train.saved import checkpoint as checkpoints
from train.saved.checkpoint import Checkpoint
from train.saved.compatible import check_dataset
from train.settings import assignments_from, from_json, to_toml
from train.show.measure import MeasureOptions, Views, measure
from train.show.plain_torch import MEAN, SD, plain_program

SUFFIX = ".safetensors"
VIEWS: tuple[Views, Views] = (1, 10)


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportedWeights:
    """The files that were written, and what was measured."""

    weights: Path
    card: Path
    program: Path
    sha256: str
    """Of the file of weights."""
    centre: Evaluation
    ten_view: Evaluation

    def to_json(self) -> dict[str, Any]:
        """For scripts; errors are fractions."""
        errors = {
            f"{name}_{error}": getattr(found, error)
            for name, found in (("centre", self.centre), ("ten_view", self.ten_view))
            for error in ("top1_error", "top5_error")
        }
        files = {name: str(getattr(self, name)) for name in ("weights", "card", "program")}
        return {**files, "sha256": self.sha256, **errors, "images": self.centre.count}

    def render(self) -> str:
        """For people: the files, a line each."""
        return "\n".join(map(str, (self.weights, self.card, self.program)))


def export_weights(
    checkpoint: Path,
    out: Path,
    dataset: Location,
    options: MeasureOptions,
    warn: Warn = ignore,
) -> ExportedWeights:
    """Measure ``checkpoint`` on ``dataset``, and write ``out``, a card and a program beside it.

    ``out`` ends in ``.safetensors``; the card has the suffix ``.md`` and the program ``.py``. The
    file holds weights and biases by canonical name, and ``mean`` (3, px, px) and ``sd`` (3, 1, 1),
    which the program subtracts from RGB 0-255 and divides by.

    Raises:
        CheckpointError: the checkpoint is missing or damaged, or belongs to another dataset.
        ConfigError: the network is no better than chance.
        DataError, FormatError: the dataset cannot be read.
        DestinationError: a file cannot be written, or is there and is not of an export.
    """
    _refuse_others(out.with_suffix(".py"), b"Written by imgprep")
    _refuse_others(out.with_suffix(".md"), b"Trained by imgprep")
    saved = checkpoints.load(checkpoint)
    config = from_json(saved.config)
    data = open_dataset(dataset)
    check_dataset(saved, data.fingerprint)
    centre, ten_view = (
        measure([checkpoint], dataset, dataclasses.replace(options, views=views), warn)
        for views in VIEWS
    )
    if is_at_chance(centre.counts, saved.classes):
        raise ConfigError(
            f"{checkpoint}: not exported: "
            f"{error_text(centre.top1_error, centre.top5_error, saved.classes)} on "
            f"{centre.count:,} images of split {options.split!r} is no better than chance with "
            f"{saved.classes} classes; train it further"
        )
    return _write(out, saved, config, data, centre, ten_view, options.split)


def _write(
    out: Path,
    saved: Checkpoint,
    config: RunConfig,
    data: TrainingSet,
    centre: Evaluation,
    ten_view: Evaluation,
    split: str,
) -> ExportedWeights:
    layout = net_layout(config.net, classes=saved.classes, image_px=config.input.crop_px)
    check_state(saved.model, layout)
    content = weights_bytes(saved, config, data)
    sha256 = hashlib.sha256(content).hexdigest()
    card_path, program_path = out.with_suffix(".md"), out.with_suffix(".py")
    title = f"AlexNet ({config.net.architecture}) with {saved.classes} classes"
    program = plain_program(layout, config.net, title=title, weights=out.name)
    found = ExportedWeights(
        weights=out,
        card=card_path,
        program=program_path,
        sha256=sha256,
        centre=centre,
        ten_view=ten_view,
    )
    card = card_text(found, saved, config, split=split, title=title)
    files = {out: content, program_path: program.encode(), card_path: card.encode()}
    for path, text in files.items():
        try:
            write_bytes(path, text)
        except OSError as exc:
            raise DestinationError(f"{path}: cannot write the network: {exc.strerror}") from exc
    return found


def _refuse_others(path: Path, mark: bytes) -> None:
    """Refuse to write over a file that no export wrote."""
    if path.is_file() and mark not in path.read_bytes():
        raise DestinationError(
            f"{path} exists and is not of an export, which would write over it: choose another name"
        )


def weights_bytes(saved: Checkpoint, config: RunConfig, data: TrainingSet) -> bytes:
    """Serialise the weights with what is subtracted from the images, as a safetensors file."""
    from safetensors.torch import save

    low = (data.size_px - config.input.crop_px) // 2
    mean_hwc = subtracted_mean(config.input, data, EpochDraws.fixed(1, (low, low)))[0]
    tensors: dict[str, Tensor] = {
        **{name: value.detach().contiguous() for name, value in saved.model.items()},
        MEAN: torch.from_numpy(np.ascontiguousarray(mean_hwc.transpose(2, 0, 1), np.float32)),
        SD: torch.tensor(config.input.sd_rgb or (1.0, 1.0, 1.0)).reshape(3, 1, 1),
    }
    about = {
        "format": "pt",  # as the readers of Hugging Face expect
        "writer": f"imgprep {__version__}",
        "dataset_fingerprint": saved.dataset_fingerprint,
        "label_order_sha256": saved.label_order_sha256,
        "preset": config.preset,
        "seed": str(config.seed),
    }
    content: bytes = save(tensors, about)
    return content


def _import_load(program: Path) -> str:
    """Return the line of Python that imports the program's function."""
    if program.stem.isidentifier():
        return f"from {program.stem} import load"
    return f'import runpy\n\nload = runpy.run_path("{program.name}")["load"]'


def card_text(
    found: ExportedWeights, saved: Checkpoint, config: RunConfig, *, split: str, title: str
) -> str:
    """Write the card: what the weights are, how good, how to load them, how to make them again."""
    base = preset(config.preset, config.optim.epochs)
    changed = [f"--set {shlex.quote(each)}" for each in assignments_from(base, config)]
    command = " \\\n    ".join(
        [
            "imgprep-train fit DATASET --out RUN",
            f"--preset {config.preset} --epochs {config.optim.epochs}",
            *changed,
        ]
    )
    errors = "\n".join(
        f"| {name} | {each.top1_error:.2%} | {each.top5_error:.2%} |"
        for name, each in (("centre crop", found.centre), ("ten views", found.ten_view))
    )
    return f"""# {title}

Trained by imgprep {__version__}, preset `{config.preset}`, seed {config.seed},
{counted(saved.position.epoch, "epoch")} ({saved.position.global_step:,} updates of
{config.optim.batch_images} images).

| {found.centre.count:,} images of split `{split}` | top-1 error | top-5 error |
|---|---|---|
{errors}

| | |
|---|---|
| SHA-256 of `{found.weights.name}` | `{found.sha256}` |
| fingerprint of the dataset | `{saved.dataset_fingerprint}` |
| SHA-256 of the order of its labels | `{saved.label_order_sha256}` |

## Use

`{found.program.name}` defines the network in plain torch; it needs torch and safetensors.

```python
{_import_load(found.program)}

net = load("{found.weights.name}")
logits = net(images)  # images (n, 3, {config.input.crop_px}, {config.input.crop_px}): RGB, 0 to 255
```

## Train it again

With the same dataset (its fingerprint is above), versions and kind of device:

```sh
{command}
```

<details><summary>All settings</summary>

```toml
{to_toml(config).strip()}
```

</details>
"""
