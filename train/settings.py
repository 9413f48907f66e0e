"""Settings of a run: resolved from a preset, a TOML file and flags, and written as TOML."""

from __future__ import annotations

import dataclasses
import json
import tomllib
import types
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from imgprep.storage.atomic import is_deeper
from train.config import RunConfig
from train.errors import ConfigError
from train.older_runs import RETIRED, changed_retired, with_precision, without_retired
from train.presets import DEFAULT_PRESET, preset

DEPTH_MAX = 8
INTEGER_END = 2**63
_KIND_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}

Settings = Mapping[str, Any]
"""Nested settings, such as ``{"seed": 1, "optim": {"lr": 0.02}}``."""


def resolve(name: str | None, file: Settings, flags: Settings) -> RunConfig:
    """Resolve the settings of a run: ``flags`` override ``file``, which overrides the preset.

    Args:
        name: preset from the command line; None takes the one in ``file``, or the default.

    Raises:
        ConfigError: a setting is unknown, of the wrong type, out of range, or contradicts another.
    """
    chosen = name or file.get("preset", DEFAULT_PRESET)
    if not isinstance(chosen, str):
        raise ConfigError(f"preset must be a name, got {chosen!r:.80}")
    overrides = merge(with_precision(file), with_precision(flags))
    for setting, value in changed_retired(overrides).items():
        raise ConfigError(
            f"{setting} was removed, so it cannot be {value!r:.80}: leave it out (the default was "
            f"{RETIRED[setting]!r}), or use the version of imgprep that started the run"
        )
    overrides = without_retired(overrides)
    optim = overrides.get("optim")
    epochs = optim.get("epochs") if isinstance(optim, Mapping) else None
    base = preset(chosen, None if epochs is None else _number(epochs, int, "optim.epochs"))
    config: RunConfig = _with_overrides(base, {**overrides, "preset": chosen})
    return config


def merge(below: Settings, above: Settings) -> dict[str, Any]:
    """Merge nested settings; where both have a value, ``above`` wins."""
    merged = dict(below)
    for key, value in above.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def read_toml(path: Path) -> dict[str, Any]:
    """Read the settings in a TOML file.

    Raises:
        ConfigError: the file cannot be read or is not TOML.
    """
    try:
        settings = _parse_toml(path.read_text("utf-8"))
    except OSError as exc:
        raise ConfigError(f"{path}: cannot read the settings: {exc.strerror}") from exc
    except ValueError as exc:
        raise ConfigError(f"{path}: not valid TOML: {exc!s:.200}") from exc
    return settings


def _parse_toml(text: str) -> dict[str, Any]:
    """Parse TOML with a bounded nesting depth; ValueError for anything else."""
    try:
        settings = tomllib.loads(text)
    except RecursionError as exc:
        raise ValueError("it is nested too deep") from exc
    if is_deeper(settings, DEPTH_MAX):
        raise ValueError("it is nested too deep")
    return settings


def to_toml(config: RunConfig) -> str:
    """Write all settings as TOML that ``read_toml`` and ``resolve`` read back.

    TOML has no null, so None is written as ``"none"``.
    """
    import tomli_w

    return tomli_w.dumps(_plain(dataclasses.asdict(config)))


def from_assignments(assignments: tuple[str, ...]) -> dict[str, Any]:
    """Parse assignments such as ``optim.lr=0.02``; values are TOML or bare words.

    Raises:
        ConfigError: an assignment has no ``=``.
    """
    settings: dict[str, Any] = {}
    for assignment in assignments:
        key, sign, text = assignment.partition("=")
        if not sign or not key:
            raise ConfigError(f"{assignment!r}: expected SETTING=VALUE, such as optim.lr=0.02")
        try:
            value: Any = _parse_toml(f"value = {text}")["value"]
        except ValueError:
            value = text
        for part in reversed(key.strip().split(".")):
            value = {part: value}
        settings = merge(settings, value)
    return settings


def assignments_from(base: RunConfig, config: RunConfig) -> list[str]:
    """List what must be set to get from ``base`` to ``config``, as ``from_assignments`` reads it.

    The seed is among them; the preset's name is not.
    """
    found = _different(_plain(dataclasses.asdict(base)), _plain(dataclasses.asdict(config)))
    return [each for each in found if not each.startswith("preset=")]


def _different(base: Settings, other: Settings, where: str = "") -> list[str]:
    found: list[str] = []
    for name, value in other.items():
        if isinstance(value, dict):
            found += _different(base[name], value, f"{where}{name}.")
        elif value != base[name]:
            text = value if isinstance(value, str) else json.dumps(value)  # as TOML writes them
            found.append(f"{where}{name}={text}")
    return found


def from_json(value: Settings) -> RunConfig:
    """Read settings from a checkpoint: complete and nested, with None as null or ``"none"``.

    Settings that were removed are ignored: none of them changes what trained weights compute.

    Raises:
        ConfigError: as ``resolve``.
    """
    config: RunConfig = _with_overrides(RunConfig(), with_precision(without_retired(value)))
    return config


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, tuple):
        return list(value)
    return "none" if value is None else value


def _with_overrides(base: Any, overrides: Settings, where: str = "") -> Any:
    """Replace fields of the dataclass ``base``, checked against their annotations."""
    hints = get_type_hints(type(base))
    changes: dict[str, Any] = {}
    for name, value in overrides.items():
        if name not in hints:
            raise ConfigError(f"unknown setting {where}{name:.80}; choose from {', '.join(hints)}")
        if dataclasses.is_dataclass(hints[name]):
            if not isinstance(value, Mapping):
                raise ConfigError(f"{where}{name} is a section of settings, got {value!r:.80}")
            changes[name] = _with_overrides(getattr(base, name), value, f"{where}{name}.")
        else:
            changes[name] = _coerce(value, hints[name], f"{where}{name}")
    return dataclasses.replace(base, **changes)


def _coerce(value: Any, annotation: Any, name: str) -> Any:
    """Convert ``value`` to the type of a field's annotation; ConfigError if that is impossible."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        if value in (None, "none") and type(None) in arguments:
            return None
        (inner,) = [kind for kind in arguments if kind is not type(None)]
        return _coerce(value, inner, name)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{name} must be a list, got {value!r:.80}")
        return tuple(_coerce(item, arguments[0], name) for item in value)
    if origin is Literal:
        if value not in arguments:
            raise ConfigError(
                f"{name} must be one of {', '.join(map(str, arguments))}; got {value!r:.80}"
            )
        return value
    return _number(value, annotation, name)


def _number(value: Any, kind: type, name: str) -> Any:
    fits = isinstance(value, kind) and not (kind is not bool and isinstance(value, bool))
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not fits and not (kind is float and whole):
        raise ConfigError(f"{name} must be {_KIND_NAMES[kind]}, got {value!r:.80}")
    if (whole and abs(value) >= INTEGER_END) or (isinstance(value, float) and not isfinite(value)):
        raise ConfigError(f"{name} must be a finite number below 2^63, got {value!r:.80}")
    return kind(value)
