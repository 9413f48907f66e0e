"""What other people's readers look for beside the shards: a dataset card, and timm's list.

``README.md`` is the card of Hugging Face: its first part is YAML that tells ``datasets`` where the
splits are and what the classes are called; the rest is for people. ``_info.json`` is what the
WebDataset reader of timm reads. Both are made from the index alone, so they have no hashes there.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Final

from imgprep.dataset.encodings import encoding_of
from imgprep.dataset.format import CARD, LABEL_EXTENSION, SPLITS, TIMM_INFO
from imgprep.dataset.labels import LabelMap
from imgprep.errors import FormatError
from imgprep.storage import Store
from imgprep.storage.atomic import json_object
from imgprep.storage.reading import read_bytes, store_errors
from imgprep.wording import counted

READER_SPLITS: Final[Mapping[str, str]] = {"train": "train", "val": "validation", "test": "test"}
"""The names that Hugging Face and timm give to the splits."""
BYTES_MAX: Final = 64 << 20
"""A longer card or list is not one of ours: 21,841 classes make 3 MB."""
_OURS: Final = re.compile(r"^<!-- imgprep: fingerprint ([0-9a-f]{64}) -->$", re.MULTILINE)
SHOWN_SETTINGS: Final = "image."
TERMS: Final = "https://www.image-net.org/download.php"


def timm_info(info: Mapping[str, Any]) -> dict[str, Any]:
    """The content of ``_info.json``; ``info`` is the index as JSON."""
    return {
        "splits": {
            READER_SPLITS[split]: {
                "name": READER_SPLITS[split],
                "num_samples": value["records"],
                "filenames": [shard["name"] for shard in value["shards"]],
                "shard_lengths": [shard["records"] for shard in value["shards"]],
            }
            for split, value in info["splits"].items()
        }
    }


def card_text(info: Mapping[str, Any], labels: LabelMap, pca: Mapping[str, Any] | None) -> str:
    """Write the card.

    Args:
        info: the index as JSON.
        pca: the content of ``rgb_pca.json``; None without a training split.
    """
    lines = [
        *("---", *_metadata(info, labels), "---", ""),
        f"<!-- imgprep: fingerprint {info['fingerprint']} -->",
        "",
        f"# {counted(info['classes'], 'class', 'classes')} of images, as sharded records",
        "",
        "Made by `imgprep build-shards`. Each record is an image and its label; the shards are",
        "WebDataset tars with DALI indices. `dataset_info.json` is the index.",
        "",
        "| split | records | shards |",
        "|---|---|---|",
        *(
            f"| {READER_SPLITS[split]} | {value['records']:,} | `{value['pattern']}` |"
            for split, value in info["splits"].items()
        ),
        *("", "## How it was made", "", "| | |", "|---|---|"),
        *(f"| {name} | `{value}` |" for name, value in _facts(info, pca)),
        *("", "## Terms", ""),
        "If these images are ImageNet's, ImageNet's terms of access apply to them: non-commercial",
        f"research and education only, and no redistribution. See <{TERMS}>.",
    ]
    return "\n".join(lines) + "\n"


def may_write_card(store: Store, fingerprint: str) -> bool:
    """Whether README.md is missing or empty, or a card of ours for other data, edited or not."""
    try:
        content = read_card(store)
    except FormatError:
        return False
    if not content:
        return True
    ours = _OURS.search(content)
    return ours is not None and ours[1] != fingerprint


def read_card(store: Store) -> str | None:
    """The text of README.md; None if there is none.

    Raises:
        FormatError: it is too long for a card, or not text.
    """
    data = _bounded(store, CARD)
    if data is None:
        return None
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise FormatError(f"{store.where(CARD)}: not text in UTF-8, at byte {exc.start:,}") from exc


def card_fault(store: Store, fingerprint: str) -> str | None:
    """What is wrong with the card of a dataset, or None. A card need not exist, and may be edited,
    but it must not speak of another dataset."""
    try:
        content = read_card(store)
    except FormatError as exc:
        return str(exc)
    found = None if content is None else _OURS.search(content)
    if content is None or found is None or found[1] == fingerprint:
        return None
    line = content.count("\n", 0, found.start()) + 1
    return (
        f"line {line} states fingerprint {found[1][:12]}..., the index {fingerprint[:12]}...: it "
        "is of another dataset; remove it and run imgprep build-shards again"
    )


def timm_fault(store: Store, info: Mapping[str, Any]) -> str | None:
    """What is wrong with ``_info.json``, or None; it need not exist."""
    try:
        data = _bounded(store, TIMM_INFO)
        if data is None or json_object(data, TIMM_INFO, "list of splits") == timm_info(info):
            return None
    except FormatError as exc:
        return str(exc)
    return "does not list the shards of the index; remove it and run imgprep build-shards again"


def _bounded(store: Store, name: str) -> bytes | None:
    try:
        with store_errors(store, name):
            size_bytes = store.size_bytes(name)
        if size_bytes > BYTES_MAX:
            raise FormatError(
                f"{store.where(name)}: {size_bytes:,} bytes, more than imgprep writes: remove it"
            )
        return read_bytes(store, name)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as exc:
        raise FormatError(f"{store.where(name)}: cannot be read: {exc.strerror}") from exc


def _metadata(info: Mapping[str, Any], labels: LabelMap) -> Iterator[str]:
    """YAML for Hugging Face; strings as in JSON, which YAML contains."""
    yield from ("license: other", "task_categories:", "- image-classification", "configs:")
    yield from ("- config_name: default", "  data_files:")
    for split in info["splits"]:
        yield from (f"  - split: {READER_SPLITS[split]}", f'    path: "{split}-*.tar"')
    encoding = encoding_of(info["spec"]["image.encoding"])
    if not encoding.needs_decoder and info["spec"].get("image.shape", "square") == "rectangle":
        return  # arrays of any size have no type in Hugging Face's list of features
    yield from ("dataset_info:", "  features:", f"  - name: {encoding.extension}")
    if encoding.needs_decoder:
        yield "    dtype: image"
    else:
        side = info["spec"]["image.size_px"]
        yield from ("    dtype:", "      array3_d:", f"        shape: [{side}, {side}, 3]")
        yield "        dtype: uint8"
    yield from (f"  - name: {LABEL_EXTENSION}", "    dtype:", "      class_label:")
    yield "        names:"
    for label, name in enumerate(shown_names(labels)):
        yield f"          '{label}': {_yaml_text(name)}"
    for name in ("__key__", "__url__"):
        yield from (f"  - name: {name}", "    dtype: string")


def _yaml_text(text: str) -> str:
    """A string of YAML, in double quotes: as JSON, but YAML has no surrogate pairs."""
    escaped = (f"\\U{ord(c):08x}" if ord(c) > 0xFFFF else json.dumps(c)[1:-1] for c in text)
    return f'"{"".join(escaped)}"'


def shown_names(labels: LabelMap) -> list[str]:
    """A name for each class, for people: its synonyms if they are known. All are different."""
    names = [_text(entry.words or entry.name) for entry in labels.classes]
    count = Counter(names)
    return [
        name if count[name] == 1 else f"{name} ({_text(entry.name)})"
        for name, entry in zip(names, labels.classes, strict=True)
    ]


def _text(name: str) -> str:
    """The name with a question mark for each byte that is not UTF-8."""
    return name.encode("utf-8", "replace").decode()


def _facts(info: Mapping[str, Any], pca: Mapping[str, Any] | None) -> Iterator[tuple[str, object]]:
    yield "fingerprint", info["fingerprint"]
    yield "source", info["source"].get("layout")
    for name, value in info["spec"].items():
        if value is not None:
            yield name.removeprefix(SHOWN_SETTINGS), value
    for name, value in info["codecs"].items():
        yield name, value
    if pca is not None:
        mean, covariance = pca["rgb_mean"], pca["rgb_covariance"]
        yield "mean of R, G, B (0-255)", _levels(mean)
        sd = [covariance[k][k] ** 0.5 for k in range(3)]
        yield "standard deviation of R, G, B (0-255)", _levels(sd)


def _levels(values: list[float]) -> str:
    return ", ".join(f"{value:.2f}" for value in values)


assert set(READER_SPLITS) == set(SPLITS)
