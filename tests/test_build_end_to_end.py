"""The whole job on real photographs, through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from imgprep.dataset.index import load_index
from tests.conftest import files_of, imgprep


def test_build_says_where_the_shards_are_and_what_comes_next(mini: Path, tmp_path: Path) -> None:
    ran = imgprep("build-shards", mini, tmp_path / "out", "--shard-images", 20)
    assert ran.code == 0, ran.err
    assert f"{tmp_path}/out/train-{{000000..000004}}.tar" in ran.out
    assert f"next: imgprep verify {tmp_path}/out --decode" in ran.out
    assert "source: class-folders: found train/ with 4 class folders" in ran.err
    assert "build: 120 of 120 images (100.0 %)" in ran.err
    assert "\r" not in ran.err  # plain lines off a terminal
    assert imgprep("verify", tmp_path / "out", "--decode").code == 0


def test_every_file_of_the_format_is_there(built: Path) -> None:
    index = load_index(built)
    shards = [shard for split in index.splits.values() for shard in split.shards]
    expected = {shard.name for shard in shards} | {shard.idx_name for shard in shards}
    expected |= {f".imgprep/done/{shard.name.removesuffix('.tar')}.json" for shard in shards}
    expected |= {"README.md", "_info.json"}
    expected |= {"labels.json", "mean_image.npy", "mean_image.png", "pixel_sum.npy"}
    expected |= {"rgb_pca.json", "dataset_info.json", "train-sources.tsv.gz", "val-sources.tsv.gz"}
    assert set(files_of(built)) == expected
    assert sorted(path.name for path in (built / ".imgprep").iterdir()) == [
        "done",
        "identity.json",
        "lock",
    ]


def test_report_counts_what_the_mini_set_holds(built: Path) -> None:
    report = json.loads((built / "report.json").read_text())
    counts = report["counts"]["train"]
    assert report["records"] == {"train": 96, "val": 24}
    assert report["skipped"] == {"train": [], "val": []}
    assert counts["format PNG"] >= 1
    assert counts["mode CMYK"] >= 1
    assert counts["mode L"] >= 1
    assert counts["exif rotated"] >= 1
    assert counts["enlarged"] >= 1
    assert sum(count for name, count in counts.items() if name.startswith("format ")) == 96
    assert report["timings"]["images_per_second"] > 0
    assert report["versions"]["simplejpeg"]


def test_the_mean_image_is_there_to_look_at(built: Path) -> None:
    mean_image = np.load(built / "mean_image.npy")
    assert mean_image.shape == (256, 256, 3)
    assert mean_image.dtype == np.float32
    picture = np.asarray(Image.open(built / "mean_image.png"))
    assert np.abs(picture - mean_image).max() <= 0.5


def test_archives_and_folders_give_the_same_shards(mini_archives: Path, built: Path) -> None:
    """The same images, read in place from tars: byte for byte the same records."""
    dest = built.parent / "from-archives"
    ran = imgprep("build-shards", mini_archives, dest, "--shard-images", 20, "--split", "train")
    assert ran.code == 0, ran.err
    ours, theirs = files_of(dest), files_of(built)
    shards = [name for name in ours if name.endswith((".tar", ".idx"))]
    assert len(shards) == 10
    assert all(ours[name] == theirs[name] for name in shards)
    assert ours["mean_image.npy"] == theirs["mean_image.npy"]
    assert ours["rgb_pca.json"] == theirs["rgb_pca.json"]


def test_json_is_for_scripts(mini: Path, built: Path, tmp_path: Path) -> None:
    ran = imgprep("build-shards", mini, tmp_path / "out", "--limit", 10, "--json", "--quiet")
    assert ran.code == 0
    assert ran.json["splits"]["train"]["records"] == 10
    assert ran.json["built_records"] == ran.json["read_images"] == 20
    assert ran.err == ""
    assert imgprep("scan", mini, "--json").json["layout"] == "class-folders"
    assert imgprep("verify", built, "--json", "-q").json["ok"] is True
    assert len(imgprep("stats", built, "--json").json["eigenvalues_255"]) == 3


def test_only_one_split(mini: Path, tmp_path: Path) -> None:
    """A dataset without train has no statistics: they are of the training set only."""
    ran = imgprep("build-shards", mini, tmp_path / "val", "--split", "val")
    assert ran.code == 0, ran.err
    assert list(load_index(tmp_path / "val").splits) == ["val"]
    assert not (tmp_path / "val" / "mean_image.npy").exists()
    stats = imgprep("stats", tmp_path / "val")
    assert stats.code == 1
    assert "the dataset was built without a training split" in stats.err
    assert imgprep("verify", tmp_path / "val", "--decode").code == 0


def test_dry_run_measures_and_writes_nothing(mini: Path, tmp_path: Path) -> None:
    ran = imgprep("build-shards", mini, tmp_path / "out", "--dry-run", "--json")
    assert ran.code == 0, ran.err
    assert not (tmp_path / "out").exists()
    estimate = ran.json
    assert estimate["images"] == 120
    real = imgprep("build-shards", mini, tmp_path / "out", "--json")
    assert real.code == 0
    tar_bytes = sum(path.stat().st_size for path in (tmp_path / "out").glob("*.tar"))
    assert abs(estimate["total_bytes"] / tar_bytes - 1) < 0.1  # the sample is the whole set
    assert "about" in imgprep("build-shards", mini, tmp_path / "none", "--dry-run").out


def test_the_next_step_names_only_commands_that_work(mini: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert "imgprep stats" not in imgprep("build-shards", mini, out, "--split", "val").out
    assert (
        f"next: imgprep verify {out} --decode\n"
        in imgprep("build-shards", mini, out, "--split", "val").out
    )
