"""Draws plans, prints them and replays them: the same plan always produces the same bytes.

Writes plans.png to the folder given as the first argument (default: the current one): a photograph and seven
augmented versions of it.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_image

from lightning_augmix import apply_plan, sample_plan


def main(folder: str = ".") -> None:
    photograph = Image.fromarray(load_sample_image("china.jpg")).resize((320, 214))
    height, width = photograph.height, photograph.width

    plan = sample_plan(42, (height, width), severity=3)
    print(plan)
    first, again = (apply_plan(photograph, plan) for _ in range(2))
    assert first.tobytes() == again.tobytes()

    plans = sample_plan(range(1, 8), (height, width), severity=8)
    tiles = [photograph, *(apply_plan(photograph, one) for one in plans)]
    rows = [np.hstack([np.asarray(tile) for tile in tiles[start : start + 4]]) for start in (0, 4)]
    path = Path(folder) / "plans.png"
    Image.fromarray(np.vstack(rows)).save(path)
    print("written:", path)


if __name__ == "__main__":
    main(*sys.argv[1:])
