"""Both kinds of dropout: what rescaling does to the signal, and the average over many masks.

*Vanilla* dropout (paper, 4.2) drops units in training and multiplies all by ``keep`` at test;
*inverted* dropout divides those that it keeps by ``keep`` in training and does nothing at test. Of
the same weights, inverted dropout makes the signal ``1 / keep`` times as large at each layer, in
training and at test. A net with inverted dropout whose next weights are ``keep`` times as large
computes the same as one with vanilla dropout.

The one pass at test stands for the average over all masks. How well it does is measured here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, get_args

import torch
from torch import Tensor

from train.config import DropoutKind
from train.errors import ConfigError, DataError
from train.net import MaskKey, Masks, Net, build_net
from train.net.tower import Tower

KINDS: tuple[DropoutKind, ...] = get_args(DropoutKind)
MASKS = 256
"""Masks to average over."""
SIGNAL_MASKS = 32
"""Masks over which the signal in training is measured."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Signal:
    """Size of the values that a layer passes on, after dropout; of the last layer, the logits."""

    kind: DropoutKind
    layer: str
    training_mean: float
    """Mean of the values in training, over masks, photographs and units."""
    test_mean: float
    training_rms: float
    """Root of their mean square."""
    test_rms: float

    def to_json(self) -> dict[str, Any]:
        """For scripts."""
        return {
            "kind": self.kind,
            "layer": self.layer,
            "training_mean": self.training_mean,
            "test_mean": self.test_mean,
            "training_rms": self.training_rms,
            "test_rms": self.test_rms,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Average:
    """The answers averaged over some masks, against the one pass at test."""

    masks: int
    logit_difference: float
    """RMS over photographs and classes of the difference of mean logits and logits at test."""
    probability_difference: float
    """Largest difference of a mean probability from that at test."""
    agreement: float
    """Share of the photographs whose most probable class is the same."""
    top1_error: float

    def to_json(self) -> dict[str, Any]:
        """For scripts."""
        return {
            "masks": self.masks,
            "logit_difference_rms": self.logit_difference,
            "probability_difference_max": self.probability_difference,
            "top1_agreement": self.agreement,
            "top1_error": self.top1_error,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class DropoutReport:
    """What dropout does in one net."""

    kind: DropoutKind
    """The kind that the net was trained with; the averages are of this kind."""
    keep: float
    photographs: int
    signals: tuple[Signal, ...]
    """Of the same weights under both kinds."""
    averages: tuple[Average, ...]
    """Over 1, 2, 4, ... masks."""
    test_logit_rms: float
    test_error: float
    """Top-1 error of the one pass at test, on these photographs."""
    equivalent_difference: float
    """Largest difference of a logit, in training or at test, between vanilla dropout and inverted
    dropout with the next weights times ``keep``: only rounding."""

    def to_json(self) -> dict[str, Any]:
        """For scripts."""
        return {
            "kind": self.kind,
            "keep": self.keep,
            "photographs": self.photographs,
            "signals": [signal.to_json() for signal in self.signals],
            "averages": [average.to_json() for average in self.averages],
            "test_logit_rms": self.test_logit_rms,
            "test_top1_error": self.test_error,
            "equivalent_difference_max": self.equivalent_difference,
        }


@torch.no_grad()
def dropout_report(
    net: Net, images: Tensor, labels_n: Tensor, *, masks: int = MASKS, seed: int
) -> DropoutReport:
    """Measure a net on one device with photographs (n, 3, px, px) and their labels (n,).

    Raises:
        ConfigError: the net drops nothing.
        DataError: its logits are not finite.
    """
    keep = net.config.dropout_keep
    if keep == 1 or not net.layout.hidden:
        raise ConfigError("this network drops no units (net.dropout_keep=1): nothing to compare")
    head = _Head.of(net, images)
    test_nk = head.logits(None).double()
    if not test_nk.isfinite().all():
        raise DataError("the network's logits are not finite")
    twins = {kind: _Head(_with_dropout(net, kind), head.input) for kind in KINDS}
    return DropoutReport(
        kind=net.config.dropout,
        keep=keep,
        photographs=len(labels_n),
        signals=tuple(
            signal
            for kind, twin in twins.items()
            for signal in _signals(kind, twin, min(masks, SIGNAL_MASKS), seed)
        ),
        averages=tuple(_averages(head, test_nk, labels_n, masks, seed)),
        test_logit_rms=float(test_nk.square().mean().sqrt()),
        test_error=_error(test_nk, labels_n),
        equivalent_difference=_difference_when_scaled(twins["vanilla"], seed),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Head:
    """The fully connected layers of a net and their input, so that convolutions run only once."""

    net: Net
    input: Tensor

    @classmethod
    def of(cls, net: Net, images: Tensor) -> _Head:
        inputs: list[Tensor] = []
        first = _tower(net).get_submodule(net.layout.hidden[0])
        handle = first.register_forward_pre_hook(lambda module, given: inputs.append(given[0]))
        try:
            net(images, None)
        finally:
            handle.remove()
        return cls(net, inputs[0])

    def values(self, masks: Masks | None) -> dict[str, Tensor]:
        """Return what each hidden layer passes on, after dropout, and the logits, by layer."""
        found: dict[str, Tensor] = {}
        x = self.input
        for name in self.net.layout.hidden:
            x = _tower(self.net).hidden(name, x, None if masks is None else masks[name][0])
            found[name] = x
        return {**found, self.net.layout.output: self.net.classify(x)}

    def logits(self, masks: Masks | None) -> Tensor:
        return self.values(masks)[self.net.layout.output]

    def masks(self, step: int, seed: int) -> Masks:
        return self.net.draw_masks(MaskKey.whole(seed=seed, step=step, rows=len(self.input)))


def _tower(net: Net) -> Tower:
    (tower,) = net.towers
    assert isinstance(tower, Tower)
    return tower


def _with_dropout(net: Net, kind: DropoutKind) -> Net:
    """Return a net with the same weights and that kind of dropout."""
    twin = build_net(
        replace(net.config, dropout=kind),
        classes=net.layout.layers[net.layout.output].outputs,
        devices=net.devices,
        columns=False,
        seed=0,
        image_px=net.layout.image_px,
    ).to(next(net.parameters()).dtype)
    twin.load_canonical_state(net.canonical_state())
    return twin


def _signals(kind: DropoutKind, head: _Head, masks: int, seed: int) -> Iterator[Signal]:
    test = head.values(None)
    sums = dict.fromkeys(test, 0.0)
    squares = dict.fromkeys(test, 0.0)
    for step in range(masks):
        for name, values in head.values(head.masks(step, seed)).items():
            sums[name] += float(values.double().mean()) / masks
            squares[name] += float(values.double().square().mean()) / masks
    for name, values in test.items():
        yield Signal(
            kind=kind,
            layer=name,
            training_mean=sums[name],
            test_mean=float(values.double().mean()),
            training_rms=squares[name] ** 0.5,
            test_rms=float(values.double().square().mean().sqrt()),
        )


def _averages(
    head: _Head, test_nk: Tensor, labels_n: Tensor, masks: int, seed: int
) -> Iterator[Average]:
    logits_nk, probability_nk = torch.zeros_like(test_nk), torch.zeros_like(test_nk)
    expected_nk = test_nk.softmax(1)
    for step in range(masks):
        found_nk = head.logits(head.masks(step, seed)).double()
        logits_nk += found_nk
        probability_nk += found_nk.softmax(1)
        count = step + 1
        if count & step == 0 or count == masks:  # a power of two
            mean_nk = probability_nk / count
            yield Average(
                masks=count,
                logit_difference=float((logits_nk / count - test_nk).square().mean().sqrt()),
                probability_difference=float((mean_nk - expected_nk).abs().max()),
                agreement=float((mean_nk.argmax(1) == test_nk.argmax(1)).double().mean()),
                top1_error=_error(mean_nk, labels_n),
            )


def _error(score_nk: Tensor, labels_n: Tensor) -> float:
    return float((score_nk.argmax(1) != labels_n).double().mean())


def _difference_when_scaled(vanilla: _Head, seed: int) -> float:
    inverted = _Head(_with_dropout(vanilla.net, "inverted"), vanilla.input)
    layout, keep = inverted.net.layout, inverted.net.config.dropout_keep
    state = inverted.net.canonical_state()
    for name in (*layout.hidden[1:], layout.output):
        state[f"{name}.weight"] = state[f"{name}.weight"] * keep
    inverted.net.load_canonical_state(state)
    masks = vanilla.masks(0, seed)
    return max(
        float((vanilla.logits(each) - inverted.logits(each)).abs().max()) for each in (None, masks)
    )
