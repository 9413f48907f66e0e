"""ResNet-18 in Lightning, from a prepared dataset; the same command resumes a stopped run.

.readers/bin/python tools/examples/resnet18_lightning.py DATASET FOLDER 90 224
"""

import sys
from pathlib import Path

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.nn.functional import cross_entropy
from torchvision.models import resnet18

from train.loader import ImageLoader

dataset, folder, epochs, crop_px = sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:5])


class Net(lightning.LightningModule):
    def __init__(self, classes):
        super().__init__()
        self.net = resnet18(num_classes=classes)

    def training_step(self, batch, _):
        images, labels = batch
        return cross_entropy(self.net(images), labels)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)


# Lightning saves the loader's state in its checkpoints and sets no sampler.
loader = ImageLoader(dataset, batch_images=32, crop_px=crop_px)
saves = ModelCheckpoint(folder, save_last=True)
trainer = lightning.Trainer(max_epochs=epochs, callbacks=[saves], default_root_dir=folder)
last = folder / "last.ckpt"
trainer.fit(Net(loader.classes), loader, ckpt_path=last if last.exists() else None)
print(f"{loader.epoch} epochs of {len(loader)} batches are done")
