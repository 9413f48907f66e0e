"""Settings files of older runs: settings that no longer exist, and those that they lack."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from train.errors import ConfigError

RETIRED: Mapping[str, object] = {
    "input.layout": "channels-last",
    "net.init": "normal",
    "optim.scale_lr_from_batch": None,
}
"""Removed settings by dotted name, with the default, which is the only behaviour that remains."""


ADDED: Mapping[str, object] = {
    "cuda_graph": True,
    "deterministic": False,
    "input.crop": "random",
    "input.crop_area": (0.08, 1.0),
    "input.crop_ratio": (3 / 4, 4 / 3),
    "input.hw_decoder_load": None,
    "input.mean_rgb": None,
    "input.memory_format": "channels-last",
    "input.sd_rgb": None,
    "net.leave_out": None,
    "net.pool_size": 3,
    "net.pool_stride": 2,
}
"""Settings by dotted name that older checkpoints lack, with what their runs did."""

PRECISION_OF_AMP: Mapping[object, str] = {
    "float32": "auto",
    "float16": "fp16",
    "bfloat16": "bf16",
}
"""What the setting ``amp`` is called now. Its float32 used TF32 in the convolutions on a GPU."""


def without_retired(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested settings without the removed ones, whatever their values."""
    kept = dict(settings)
    for section, name, _ in _retired_in(settings):
        kept[section] = {key: value for key, value in kept[section].items() if key != name}
    return kept


def changed_retired(settings: Mapping[str, Any]) -> dict[str, object]:
    """Return the removed settings that had another value than the default, by dotted name."""
    return {
        f"{section}.{name}": value
        for section, name, value in _retired_in(settings)
        if (None if value == "none" else value) != RETIRED[f"{section}.{name}"]
    }


def with_added(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Complete the stored nested settings of a run from before some settings existed."""
    completed = dict(stored)
    for dotted, value in ADDED.items():
        section, _, name = dotted.rpartition(".")
        if not section:
            completed.setdefault(name, value)
        elif isinstance(completed.get(section), Mapping):
            completed[section] = {name: value, **completed[section]}
    return completed


def with_precision(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested settings with ``precision`` in place of ``amp``, its older name.

    Raises:
        ConfigError: ``amp`` has an unknown value, or both are set.
    """
    if "amp" not in settings:
        return dict(settings)
    amp = settings["amp"]
    if "precision" in settings:
        raise ConfigError("amp is the older name of precision: set precision only")
    if not isinstance(amp, str) or amp not in PRECISION_OF_AMP:
        raise ConfigError(
            f"amp must be one of {', '.join(map(str, PRECISION_OF_AMP))}; got {amp!r:.80}"
        )
    kept = {name: value for name, value in settings.items() if name != "amp"}
    return {**kept, "precision": PRECISION_OF_AMP[amp]}


def with_schedule_epochs(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Complete the stored settings of a run from before ``optim.schedule_epochs``: its schedule was
    made for the epochs that it was to have."""
    optim = stored.get("optim")
    if not isinstance(optim, Mapping) or "epochs" not in optim:
        return dict(stored)
    return {**stored, "optim": {"schedule_epochs": optim["epochs"], **optim}}


def _retired_in(settings: Mapping[str, Any]) -> list[tuple[str, str, object]]:
    found = []
    for dotted in RETIRED:
        section, _, name = dotted.partition(".")
        values = settings.get(section)
        if isinstance(values, Mapping) and name in values:
            found.append((section, name, values[name]))
    return found
