"""AugMix in a loader of timm's, in place of timm's own. Needs `pip install timm`."""

from timm.data import create_loader  # type: ignore[attr-defined]
from torchvision.datasets import FakeData

from lightning_augmix import AugmentAndMixTransform, augment_dataloader


def main() -> None:
    # Without its prefetcher, which is no DataLoader; without `auto_augment="augmix-…"`, because twice is not AugMix.
    clean = create_loader(
        FakeData(32, image_size=(3, 40, 56), num_classes=10),
        input_size=(3, 32, 32),
        batch_size=8,
        is_training=True,
        use_prefetcher=False,
        num_workers=0,
    )
    loader = augment_dataloader(clean, AugmentAndMixTransform(severity=3, augmentation_set="safe"))
    print(loader.dataset.transform)
    for images, labels in loader:
        print(tuple(images.shape), labels.tolist())


if __name__ == "__main__":
    main()
