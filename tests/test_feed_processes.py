"""Two real processes under gloo read disjoint shares that cover the dataset in every epoch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.conftest import REPOSITORY

EPOCHS = 3
PROGRAM = """
import json, sys, torch, torch.distributed as dist
from pathlib import Path
from train.config import InputConfig
from train.feed.dataset import open_dataset
from train.feed.loader import EvalLoader, Share, TrainLoader

dist.init_process_group("gloo")
share = Share(dist.get_rank(), dist.get_world_size())
data, config = open_dataset(Path(sys.argv[1])), InputConfig(crop_px=32, threads=1)
cpu = torch.device("cpu")
train = TrainLoader(data, config, share, batch_images=14, seed=1, device=cpu)
val = EvalLoader(data, config, share, batch_images=5, device=cpu)
mine = {
    "train": [[batch.record_n.tolist() for batch in train.epoch(e)] for e in range(EPOCHS)],
    "val": [index for batch in val for index in batch.record_n.tolist()],
}
everyone = [None, None]
dist.all_gather_object(everyone, mine)
train.close(); val.close()
if share.rank == 0:
    print(json.dumps(everyone))
dist.destroy_process_group()
"""


def test_two_processes_share_each_epoch(built: Path, tmp_path: Path) -> None:
    script = tmp_path / "two.py"
    script.write_text(f"EPOCHS = {EPOCHS}\n{PROGRAM}")
    ran = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", "2", str(script), str(built)),
        ],
        cwd=REPOSITORY,
        env={**_environment(), "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    left, right = json.loads(ran.stdout.splitlines()[-1])
    orders = set()
    for epoch in range(EPOCHS):
        pairs = list(zip(left["train"][epoch], right["train"][epoch], strict=True))
        order = [record for pair in pairs for part in pair for record in part]
        assert sorted(order) == list(range(96))
        assert all(abs(len(one) - len(other)) <= 1 for one, other in pairs)
        orders.add(tuple(order))
    assert len(orders) == EPOCHS
    assert left["val"] + right["val"] == list(range(24))


def _environment() -> dict[str, str]:
    import os

    return {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
