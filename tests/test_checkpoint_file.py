"""Checkpoints are read back bit for bit, appear whole or not at all, and are safe to load."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from imgprep.errors import DestinationError
from tests.checkpoints import make_checkpoint
from train.errors import CheckpointError
from train.saved import checkpoint as ck
from train.saved.checkpoint import Checkpoint, Position
from train.saved.checkpoint_file import read_values, write_values


def same(one: Any, other: Any) -> bool:
    """Equal values; tensors bit for bit."""
    if isinstance(one, torch.Tensor):
        return (
            isinstance(other, torch.Tensor)
            and one.dtype == other.dtype
            and one.shape == other.shape
            and one.numpy().tobytes() == other.numpy().tobytes()
        )
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ck.save(tmp_path_factory.mktemp("run"), make_checkpoint(), keep=1)


def test_a_checkpoint_is_read_back_unchanged(saved: Path) -> None:
    expected, found = ck.to_values(make_checkpoint()), ck.to_values(ck.load(saved))
    assert same(expected, found)
    assert found["config"]["optim"]["step_epochs"] == [3, 5]


def test_torch_reads_it_with_weights_only(saved: Path) -> None:
    value = torch.load(saved, weights_only=True)
    assert (value["format"], value["version"]) == (ck.FORMAT_NAME, ck.FORMAT_VERSION)
    assert torch.equal(value["model"]["conv1.weight"], make_checkpoint().model["conv1.weight"])


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(value=VALUES)
def test_any_plain_value_survives(value: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "value.pt"
    write_values(path, value)
    assert read_values(path) == value


def test_views_and_other_layouts_are_stored_contiguous(tmp_path: Path) -> None:
    base = torch.randn(1000, 8, 3, 3)
    tensors = {
        "view": base[3:5],
        "transposed": base[:4].permute(1, 0, 2, 3),
        "channels last": base[:2].to(memory_format=torch.channels_last),
        "parameter": torch.nn.Parameter(base[:1]),
        "nan": torch.tensor([float("nan"), float("inf"), -0.0]),
    }
    write_values(tmp_path / "t.pt", tensors)
    assert (tmp_path / "t.pt").stat().st_size < 16_000
    found = read_values(tmp_path / "t.pt")
    for name, tensor in tensors.items():
        assert same(tensor.detach().contiguous(), found[name])


def test_one_tensor_under_two_names_becomes_two(tmp_path: Path) -> None:
    tensor = torch.randn(1000)
    write_values(tmp_path / "t.pt", {"a": tensor, "b": [tensor, tensor.view(10, 100)]})
    found = read_values(tmp_path / "t.pt")
    found["a"].zero_()
    assert same(found["b"], [tensor, tensor.view(10, 100)])


def test_loaded_tensors_do_not_depend_on_the_file(tmp_path: Path) -> None:
    path = tmp_path / "t.pt"
    write_values(path, {"w": torch.arange(9.0)})
    found = read_values(path)
    path.write_bytes(b"\0" * path.stat().st_size)
    assert torch.equal(found["w"], torch.arange(9.0))


@pytest.mark.parametrize("value", [{1, 2}, b"bytes", object(), torch.nn.ReLU()])
def test_values_that_are_not_plain_are_not_saved(value: object, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="plain values"):
        write_values(tmp_path / "x.pt", {"x": value})
    assert not list(tmp_path.iterdir())


def test_truncations_and_flipped_bytes_are_detected_or_harmless(
    saved: Path, tmp_path: Path
) -> None:
    whole = saved.read_bytes()
    expected = ck.to_values(ck.load(saved))
    path = tmp_path / "damaged.pt"
    for at in range(0, len(whole), max(1, len(whole) // 150)):
        path.write_bytes(whole[:at])
        with pytest.raises(CheckpointError, match=r"damaged\.pt"):
            ck.load(path)
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        try:
            found = ck.to_values(ck.load(path))
        except CheckpointError:
            continue
        assert same(found, expected)  # the byte was padding or part of a date


class Harm:
    """An object whose pickle runs a command when it is loaded."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch harmed",)


def zipped(pickled: bytes, *entries: tuple[str, bytes], **options: Any) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", **options) as archive:
        for name, data in (("data.pkl", pickled), ("version", b"3\n"), *entries):
            archive.writestr(f"x/{name}", data)
    return file.getvalue()


def torch_saved(value: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def claiming(numel: int) -> bytes:
    """A file with a tensor of 4 elements that claims a storage of ``numel``."""
    whole = torch_saved({"w": torch.arange(4.0)})
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        entries = {
            each.filename.partition("/")[2]: archive.read(each) for each in archive.infolist()
        }
    size = b"J" + numel.to_bytes(4, "little")
    pickled = entries.pop("data.pkl").replace(b"K\x04", size)
    entries.pop("version")
    return zipped(pickled, *entries.items())


def cyclic() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


def many(depth: int) -> list[Any]:
    """A small pickle of 10^depth values."""
    value: list[Any] = [0]
    for _ in range(depth):
        value = [value] * 10
    return value


SHARED = torch.zeros(30_000)
HOSTILE = {
    "empty": b"",
    "text": b"not a checkpoint",
    "pickle that runs a command": pickle.dumps(Harm()),
    "zip with such a pickle": zipped(pickle.dumps(Harm(), protocol=2)),
    "zip with a pickle that uses INST": zipped(b"(S'touch harmed'\nios\nsystem\n."),
    "a pickle of any object": zipped(pickle.dumps(Position(1), protocol=2)),
    "a bytearray of 100 GB": zipped(b"c__builtin__\nbytearray\n(L100000000000L\ntR."),
    "compressed": zipped(pickle.dumps({}), compression=zipfile.ZIP_DEFLATED),
    "no pickle": zipped(b""),
    "storage beyond the file": claiming(500_000_000),
    "tensor without memory": torch_saved({"w": torch.empty(1).expand(10**12)}),
    "tensor on the meta device": torch_saved({"w": torch.empty(10**9, device="meta")}),
    "sparse tensor": torch_saved({"w": torch.eye(3).to_sparse()}),
    "one storage many times": torch_saved([SHARED[: 29_000 + k] for k in range(99)]),
    "list that contains itself": torch_saved(cyclic()),
    "a billion values": torch_saved(many(9)),
    "a set": torch_saved({"x": {1}}),
    "numbers as keys": torch_saved({1: 2}),
    "a parameter": torch_saved({"w": torch.nn.Parameter(torch.zeros(3))}),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_files_end_in_one_sentence(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "hostile.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"hostile\.pt: ") as caught:
        read_values(path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "harmed").exists()


def test_a_missing_file_and_a_folder_are_reported(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        ck.load(tmp_path / "none.pt")
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        ck.load(tmp_path)


def test_other_checkpoints_of_the_folder_are_named(tmp_path: Path) -> None:
    for epoch in (1, 2):
        ck.save(tmp_path, at_epoch(epoch), epoch_end=True, keep=5)
    with pytest.raises(
        CheckpointError, match=r"best\.pt: there is .* last\.pt is in the same folder$"
    ):
        ck.load(tmp_path / "best.pt")
    (tmp_path / "last.pt").write_bytes(b"damaged")
    advice = r"epoch_002\.pt is in the same folder: copy it to last\.pt to resume from it"
    with pytest.raises(CheckpointError, match=rf"last\.pt: damaged, .*; {advice}"):
        ck.load(tmp_path / "last.pt")


BROKEN: dict[str, dict[str, Any]] = {
    "not a checkpoint of this program": {"format": "other"},
    "version 2; this program reads version 1": {"version": 2},
    "model is a list": {"model": []},
    "model.w is not a tensor": {"model": {"w": 3}},
    "position has other fields: epoch, surprise": {"position": {"epoch": 1, "surprise": 2}},
    "world.accumulate is -1": {"world": {"data_processes": 1, "batch_images": 1, "accumulate": -1}},
    "seeds.run is True": {"seeds": {"run": True}},
    "window is a str": {"window": ["x"]},
    "history is a int": {"history": [3]},
    "weights and velocities differ": {"velocities": {}},
    "classes": {"classes": None},
}


@pytest.mark.parametrize("message", BROKEN)
def test_malformed_fields_are_named(message: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.pt"
    write_values(path, {**ck.to_values(make_checkpoint()), **BROKEN[message]})
    with pytest.raises(CheckpointError, match=message):
        ck.load(path)


@pytest.mark.parametrize("name", Checkpoint.__dataclass_fields__)
def test_a_missing_field_is_named(name: str, tmp_path: Path) -> None:
    values = ck.to_values(make_checkpoint())
    values.pop(name)
    write_values(tmp_path / "broken.pt", values)
    with pytest.raises(CheckpointError, match=name):
        ck.load(tmp_path / "broken.pt")


def at_epoch(epoch: int) -> Checkpoint:
    return make_checkpoint(position=Position(epoch=epoch, step_in_epoch=0, global_step=epoch))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_best_last_and_the_newest_epochs_are_kept(tmp_path: Path) -> None:
    for epoch in range(1, 6):
        ck.save(tmp_path, at_epoch(epoch), best=epoch == 2, epoch_end=True, keep=2)
    assert names(tmp_path) == ["best.pt", "epoch_004.pt", "epoch_005.pt", "last.pt"]
    ck.save(tmp_path, replace(at_epoch(5), window=[1.0]), keep=2)
    assert names(tmp_path) == ["best.pt", "epoch_004.pt", "epoch_005.pt", "last.pt"]
    epochs = {name: ck.load(tmp_path / name).position.epoch for name in names(tmp_path)}
    assert epochs == {"best.pt": 2, "epoch_004.pt": 4, "epoch_005.pt": 5, "last.pt": 5}
    assert ck.load(tmp_path / "epoch_005.pt").window != ck.load(tmp_path / "last.pt").window


def test_the_newest_epochs_are_chosen_by_number(tmp_path: Path) -> None:
    for epoch in (998, 999, 1000, 1001):
        ck.save(tmp_path, at_epoch(epoch), epoch_end=True, keep=2)
    assert names(tmp_path) == ["epoch_1000.pt", "epoch_1001.pt", "last.pt"]


def test_all_names_share_one_file_on_disk(tmp_path: Path) -> None:
    ck.save(tmp_path, at_epoch(1), best=True, epoch_end=True, keep=1)
    assert len({path.stat().st_ino for path in tmp_path.iterdir()}) == 1


SAVE_UNTIL_FULL = """
import resource, signal, sys
from pathlib import Path
from tests.checkpoints import make_checkpoint
from train.saved import checkpoint
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for allowed in (0, 4096, 100_000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (allowed, -1))
    try:
        checkpoint.save(Path(sys.argv[1]), make_checkpoint(classes=5), keep=1)
    except Exception as exc:
        print(type(exc).__name__, exc)
"""


def test_a_full_disk_keeps_the_old_checkpoint(tmp_path: Path) -> None:
    ck.save(tmp_path, make_checkpoint(classes=4), keep=1)
    arguments = [sys.executable, "-c", SAVE_UNTIL_FULL, str(tmp_path)]
    ran = subprocess.run(arguments, capture_output=True, text=True, check=True)
    reason = f"{tmp_path / 'last.pt'}: cannot write the checkpoint: File too large"
    assert ran.stdout.splitlines() == [f"DestinationError {reason}"] * 3
    assert names(tmp_path) == ["last.pt"]
    assert ck.load(tmp_path / "last.pt").classes == 4


def test_a_missing_folder_is_reported(tmp_path: Path) -> None:
    with pytest.raises(DestinationError, match="cannot write the checkpoint"):
        ck.save(tmp_path / "none", make_checkpoint(), keep=1)


def test_a_save_that_was_killed_after_its_link_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``previous.pt`` and ``last.pt`` are then links of one file, which a rename leaves alone."""

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    ck.save(tmp_path, make_checkpoint(position=Position(1, 0, 6)), epoch_end=True, keep=3)
    with monkeypatch.context() as patch:
        patch.setattr(ck, "write_values", killed)
        with pytest.raises(KeyboardInterrupt):
            save_before_validation(tmp_path)
    save_before_validation(tmp_path)
    ck.save(tmp_path, make_checkpoint(position=Position(2, 0, 12)), epoch_end=True, keep=3)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"last.pt", "epoch_001.pt", "epoch_002.pt"}


def save_before_validation(folder: Path) -> None:
    checkpoint = make_checkpoint(position=Position(1, 6, 12))
    ck.save(folder, checkpoint, keep_previous=True, keep=3)
