"""A classifier whose answers can be computed by hand, and images for it."""

import lightning.pytorch as pl
import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset
from torchvision import transforms

TO_TENSOR = transforms.ToTensor()


class ByColor(nn.Module):
    """Says which channel is brightest, the surer the further ahead; remembers how it was called."""

    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(40.0))
        self.dropout = nn.Dropout(0.9)
        self.frozen = nn.BatchNorm2d(3).eval()

    def forward(self, images):
        return self.dropout(self.factor * images.mean((2, 3)))


class Clean(Dataset):
    def __init__(self, count):
        self.images = np.random.default_rng(9).integers(0, 256, (count, 8, 9, 3), dtype=np.uint8)

    def __getitem__(self, index):
        return TO_TENSOR(self.images[index]), index % 3

    def __len__(self):
        return len(self.images)


def trainer(root, **settings):
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_model_summary": False,
        "enable_progress_bar": False,
    }
    return pl.Trainer(accelerator="cpu", default_root_dir=root, **{"devices": 1, **quiet, **settings})
