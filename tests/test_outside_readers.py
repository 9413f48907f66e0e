"""Other people's readers open a dataset with nothing else said: the card and timm's list."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from imgprep.dataset.index import load_index
from tests.conftest import REPOSITORY, imgprep
from tests.environments import readers_python
from tests.reading import source_of
from tests.trees import tiny_jpeg, write_files

PAGE = REPOSITORY / "imgprep" / "dataset" / "README.md"
COMPARE = """
import hashlib, io, json, sys, tarfile
import numpy as np
from pathlib import Path
from PIL import Image

dest = Path({dest!r})

def digest(image):
    return hashlib.sha256(np.asarray(image.convert("RGB")).tobytes()).hexdigest()

def stored(split):
    found = []
    for shard in sorted(dest.glob(split + "-*.tar")):
        with tarfile.open(shard) as tar:
            content = {{each.name: tar.extractfile(each).read() for each in tar}}
        for name in content:
            if name.endswith(".jpg"):
                label = int(content[name[:-3] + "cls"])
                found.append([digest(Image.open(io.BytesIO(content[name]))), label])
    return sorted(found)

"""


def run(code: str, home: Path) -> str:
    """Run code in the environment of readers, without a network and with caches of its own."""
    environment = {
        **os.environ,
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(REPOSITORY),
    }
    ran = subprocess.run(
        [readers_python(), "-W", "ignore", "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        cwd=home,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def snippet(name: str, dest: Path) -> str:
    """The code of the page for a reader, for ``dest``."""
    pattern = rf"<!-- readers: {name} -->\n```python\n(.+?)```"
    (code,) = re.findall(pattern, PAGE.read_text("utf-8"), re.DOTALL)
    return str(code).replace("/data/imagenet-256", str(dest))


def test_hugging_face_reads_splits_classes_labels_and_pixels(built: Path, tmp_path: Path) -> None:
    code = snippet("datasets", built) + COMPARE.format(dest=str(built))
    code += """
for ours, theirs in (("train", "train"), ("val", "validation")):
    found = sorted([digest(row["jpg"]), row["cls"]] for row in dataset[theirs])
    assert found == stored(ours), theirs
print(json.dumps({"classes": classes, "splits": {k: len(v) for k, v in dataset.items()}}))
"""
    found = json.loads(run(code, tmp_path).splitlines()[-1])
    index = load_index(built)
    assert found["splits"] == {
        "train": index.splits["train"].records,
        "validation": index.splits["val"].records,
    }
    labels = json.loads((built / "labels.json").read_text())["classes"]
    assert found["classes"] == [each["words"] or each["name"] for each in labels]


def test_timm_reads_counts_labels_and_pixels(built: Path, tmp_path: Path) -> None:
    code = snippet("timm", built) + COMPARE.format(dest=str(built))
    code += """
assert len(validation) == len(stored("val"))
assert sorted([digest(image), label] for image, label in validation) == stored("val")
train = create_dataset("wds/x", root=str(dest), split="train", is_training=True, batch_size=8)
assert len(train) == len(stored("train"))
"""
    run(code, tmp_path)


def test_raw_records_are_arrays_with_class_names(mini: Path, tmp_path: Path) -> None:
    dest = tmp_path / "raw"
    assert imgprep("build-shards", mini, dest, "--encoding", "raw", "--size", 64).code == 0
    code = f"""
import io, tarfile
from pathlib import Path
import numpy as np
from datasets import load_dataset
dataset = load_dataset({str(dest)!r})["validation"]
row = dataset[0]
with tarfile.open(sorted(Path({str(dest)!r}).glob("val-*.tar"))[0]) as tar:
    stored = np.load(io.BytesIO(tar.extractfile(row["__key__"] + ".npy").read()))
assert stored.shape == (64, 64, 3) and np.array_equal(row["npy"], stored)
print(len(dataset), dataset.features["cls"].num_classes)
"""
    assert run(code, tmp_path).split() == ["24", "4"]


def metadata(card: str) -> dict[str, Any]:
    """The YAML of a card."""
    value: dict[str, Any] = yaml.safe_load(card.split("---\n")[1])
    return value


def test_the_card_states_counts_settings_and_terms(built: Path) -> None:
    card = (built / "README.md").read_text("utf-8")
    about = metadata(card)
    assert [each["split"] for each in about["configs"][0]["data_files"]] == ["train", "validation"]
    for text in (load_index(built).fingerprint, "| train | 96 |", "mean of R, G, B", "terms"):
        assert text in card


def copy_of(built: Path, folder: Path) -> Path:
    return Path(shutil.copytree(built, folder / "copy"))


def test_a_lost_card_is_written_again_alone(built: Path, mini: Path, tmp_path: Path) -> None:
    dest = copy_of(built, tmp_path)
    before = {name: (dest / name).read_bytes() for name in ("README.md", "_info.json")}
    for name in before:
        (dest / name).unlink()
    assert imgprep("verify", dest).code == 0, "datasets of earlier versions have no card"
    ran = imgprep("build-shards", mini, dest, "--shard-images", 20)
    assert ran.code == 0, ran.err
    assert {name: (dest / name).read_bytes() for name in before} == before


def test_an_edited_card_is_kept(built: Path, mini: Path, tmp_path: Path) -> None:
    dest = copy_of(built, tmp_path)
    card = dest / "README.md"
    card.write_text(card.read_text() + "\nSeen by hand.\n")
    (dest / "_info.json").unlink()
    assert imgprep("build-shards", mini, dest, "--shard-images", 20).code == 0
    assert card.read_text().endswith("Seen by hand.\n")
    assert imgprep("verify", dest).code == 0


def test_a_page_of_somebody_else_is_never_replaced(built: Path, mini: Path, tmp_path: Path) -> None:
    dest = copy_of(built, tmp_path)
    (dest / "README.md").write_text("mine\n")
    (dest / "_info.json").unlink()
    for options in ((), ("--force", "--limit", 8)):
        ran = imgprep("build-shards", mini, dest, "--shard-images", 20, *options)
        assert ran.code == 0, ran.err
        assert (dest / "README.md").read_text() == "mine\n"
        assert imgprep("verify", dest).code == 0


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("README.md", "---\n---\n<!-- imgprep: fingerprint {other} -->\n", "line 3 states"),
        ("README.md", b"\xff\xfe", "not text in UTF-8, at byte 0"),
        ("_info.json", '{"splits": {}}', "does not list the shards"),
        ("_info.json", "[" * 100_000, "nested"),
    ],
)
def test_a_card_of_another_dataset_is_named(
    built: Path, tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    dest = copy_of(built, tmp_path)
    text = content.replace("{other}", "0" * 64).encode() if isinstance(content, str) else content
    (dest / name).write_bytes(text)
    ran = imgprep("verify", dest)
    assert ran.code == 4
    assert name in ran.out
    assert message in ran.out


def test_a_card_of_gigabytes_is_not_read(built: Path, tmp_path: Path) -> None:
    dest = copy_of(built, tmp_path)
    with (dest / "README.md").open("wb") as file:
        file.truncate(4 << 30)  # a hole: it takes no space
    ran = imgprep("verify", dest)
    assert ran.code == 4
    assert "4,294,967,296 bytes, more than imgprep writes" in ran.out


def test_every_record_of_the_card_has_a_source(built: Path) -> None:
    info = json.loads((built / "_info.json").read_text())["splits"]
    assert sum(info["train"]["shard_lengths"]) == len(source_of(built, "train"))


def test_a_repair_of_the_statistics_keeps_an_edited_card(
    built: Path, mini: Path, tmp_path: Path
) -> None:
    dest = copy_of(built, tmp_path)
    card = dest / "README.md"
    card.write_text(card.read_text() + "\nSeen by hand.\n")
    (dest / "pixel_sum.npy").unlink()
    assert imgprep("build-shards", mini, dest, "--shard-images", 20).code == 0
    assert imgprep("verify", dest).code == 0
    assert card.read_text().endswith("Seen by hand.\n")


def test_any_class_name_is_read_from_the_card(tmp_path: Path) -> None:
    names = ("\U0001f600 smile", 'a "quoted" \\ name', "tab\tname", "\U00020000", "é: #")
    source = tmp_path / "source"
    write_files(source, {f"{number}.jpg": tiny_jpeg("a", number) for number in range(5)})
    with (source / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "label"), *((f"{n}.jpg", names[n]) for n in range(5))])
    table = ("--labels", source / "labels.csv")
    ran = imgprep("build-shards", source, tmp_path / "set", "--size", 16, *table)
    assert ran.code == 0, ran.err
    about = metadata((tmp_path / "set/README.md").read_text("utf-8"))
    (label,) = (each for each in about["dataset_info"]["features"] if each["name"] == "cls")
    assert set(label["dtype"]["class_label"]["names"].values()) == set(names)
