"""ResNet-18 in plain torch, from a prepared dataset; the same command resumes a stopped run.

.readers/bin/python tools/examples/resnet18_torch.py DATASET run.pt 90 224
.readers/bin/python -m torch.distributed.run --nproc-per-node 2 (the same)
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.functional import cross_entropy
from torchvision.models import resnet18

from train.loader import ImageLoader

file, epochs, crop_px = Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
if dist.is_torchelastic_launched():
    dist.init_process_group()
    if device.type == "cuda":
        torch.cuda.set_device(dist.get_node_local_rank())
loader = ImageLoader(sys.argv[1], batch_images=32, crop_px=crop_px)
model = resnet18(num_classes=loader.classes).to(device)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
parts = {"model": model, "optimizer": optimizer, "loader": loader}
for name, state in (torch.load(file, device) if file.exists() else {}).items():
    parts[name].load_state_dict(state)
net = torch.nn.parallel.DistributedDataParallel(model) if dist.is_initialized() else model
while loader.epoch < epochs:
    for images, labels in loader:
        loss = cross_entropy(net(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        save = loader.state_dict()["batches"] % 1000 == 0  # and at the end of an epoch
        if save and (net is model or dist.get_rank() == 0):
            torch.save({name: part.state_dict() for name, part in parts.items()}, file)
print(f"{loader.epoch} epochs of {len(loader)} batches are done")
