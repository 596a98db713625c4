"""An oracle of AugMix, written from the paper and Pillow's documentation; nothing here comes from the package."""

import numpy as np
from PIL import Image, ImageEnhance, ImageOps


def reference_operation(image: Image.Image, name: str, parameter: float | int | None) -> Image.Image:
    """Applies one operation as the table of the method says, by calling Pillow."""
    bilinear = Image.BILINEAR
    if name == "autocontrast":
        return ImageOps.autocontrast(image)
    if name == "equalize":
        return ImageOps.equalize(image)
    if name == "posterize":
        return ImageOps.posterize(image, parameter)
    if name == "solarize":
        return ImageOps.solarize(image, parameter)
    if name == "rotate":
        return image.rotate(parameter, resample=bilinear)
    if name == "shear_x":
        return image.transform(image.size, Image.AFFINE, (1, parameter, 0, 0, 1, 0), resample=bilinear)
    if name == "shear_y":
        return image.transform(image.size, Image.AFFINE, (1, 0, 0, parameter, 1, 0), resample=bilinear)
    if name == "translate_x":
        return image.transform(image.size, Image.AFFINE, (1, 0, parameter, 0, 1, 0), resample=bilinear)
    if name == "translate_y":
        return image.transform(image.size, Image.AFFINE, (1, 0, 0, 0, 1, parameter), resample=bilinear)
    if name in ("color", "color_original"):
        return ImageEnhance.Color(image).enhance(parameter)
    if name in ("contrast", "contrast_original"):
        return ImageEnhance.Contrast(image).enhance(parameter)
    if name in ("brightness", "brightness_original"):
        return ImageEnhance.Brightness(image).enhance(parameter)
    if name in ("sharpness", "sharpness_original"):
        return ImageEnhance.Sharpness(image).enhance(parameter)
    raise AssertionError(name)


def reference_augmix(image: Image.Image, chains, chain_weights, mixing_weight) -> np.ndarray:
    """(1 - m) x + m sum(w_i chain_i(x)) in float32, rounded to nearest, clipped; uint8 ``[H, W]`` or ``[H, W, 3]``."""
    original = np.asarray(image, dtype=np.float32)
    mixture = np.zeros_like(original)
    for chain, weight in zip(chains, chain_weights, strict=True):
        augmented = image
        for name, parameter in chain:
            augmented = reference_operation(augmented, name, parameter)
        mixture = mixture + np.float32(weight) * np.asarray(augmented, dtype=np.float32)
    m = np.float32(mixing_weight)
    output = (np.float32(1) - m) * original + m * mixture
    return np.clip(np.round(output), 0, 255).astype(np.uint8)
