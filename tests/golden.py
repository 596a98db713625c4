"""Every operation on two small images, as Pillow 13.0 computes it: `python tests/golden.py` writes golden.npz anew."""

from pathlib import Path

import numpy as np
from PIL import Image

from reference import reference_operation

PATH = Path(__file__).with_name("golden.npz")
PARAMETERS = {
    "autocontrast": [None],
    "equalize": [None],
    "posterize": [1, 3],
    "solarize": [100, 200],
    "rotate": [-17, 8],
    "shear_x": [-0.21, 0.1],
    "shear_y": [0.25, -0.1],
    "translate_x": [5, -3],
    "translate_y": [-4, 2],
    "color": [0.3, 1.9],
    "contrast": [0.4, 2.1],
    "brightness": [0.6, 1.5],
    "sharpness": [0.2, 2.7],
}


def outputs():
    """Results by "mode operation parameter"."""
    rng = np.random.default_rng(0)
    images = {
        "RGB": rng.integers(60, 188, (31, 44, 3), dtype=np.uint8),
        "L": rng.integers(0, 256, (9, 14), dtype=np.uint8),
    }
    return {
        f"{mode} {name} {parameter}": np.asarray(reference_operation(Image.fromarray(image), name, parameter))
        for mode, image in images.items()
        for name, parameters in PARAMETERS.items()
        for parameter in parameters
    }


if __name__ == "__main__":
    np.savez_compressed(PATH, **outputs())
