"""ResNet-18 with accelerate, from a prepared dataset; the same command resumes a stopped run.

.readers/bin/accelerate launch tools/examples/resnet18_accelerate.py DATASET FOLDER 90 224
"""

import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from torch.nn.functional import cross_entropy
from torchvision.models import resnet18

from train.loader import ImageLoader

dataset, folder, epochs, crop_px = sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:5])
accelerator = Accelerator()
loader = ImageLoader(dataset, batch_images=32, crop_px=crop_px)
model = resnet18(num_classes=loader.classes)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
# ``prepare`` returns the loader as it is: it shares batches among processes by itself.
model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
accelerator.register_for_checkpointing(loader)
if folder.exists():
    accelerator.load_state(folder)
while loader.epoch < epochs:
    for images, labels in loader:
        loss = cross_entropy(model(images), labels)
        optimizer.zero_grad()
        accelerator.backward(loss)
        optimizer.step()
        if loader.state_dict()["batches"] % 1000 == 0:  # and at the end of an epoch
            accelerator.save_state(folder)
accelerator.print(f"{loader.epoch} epochs of {len(loader)} batches are done")
