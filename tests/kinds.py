"""Datasets of the kinds that users write, over the images of `toy`."""

from concurrent.futures import ThreadPoolExecutor

from torch.utils.data import Dataset, IterableDataset
from torchvision import transforms as v1
from torchvision.datasets import VisionDataset

from toy import Dim, dim_image

TO_TENSOR = v1.Compose([v1.CenterCrop(8), v1.ToTensor()])


class DimVision(VisionDataset):
    """A VisionDataset, with `transform` or with joint `transforms`, called as torchvision's own do."""

    def __init__(self, joint_call=False, **kwargs):
        super().__init__(root=None, **kwargs)
        self.joint_call = joint_call

    def __getitem__(self, index):
        if self.joint_call:
            return self.transforms(dim_image(index), index)
        return (dim_image(index) if self.transform is None else self.transform(dim_image(index))), index

    def __len__(self):
        return 6


class Wrapped(Dataset):
    """A user's wrapper with a transform of its own, as people write for the parts of random_split."""

    def __init__(self, dataset, transform=None):
        self.dataset = dataset
        self.transform = transform

    def __getitem__(self, index):
        img, target = self.dataset[index]
        return (img if self.transform is None else self.transform(img)), target

    def __len__(self):
        return len(self.dataset)


class Delegating(Dataset):
    """Hands on every attribute of a dataset that it keeps under another name."""

    def __init__(self, base):
        self.base = base

    def __getattr__(self, name):
        return getattr(self.__dict__["base"], name)

    def __getitem__(self, index):
        return self.base[index]

    def __len__(self):
        return len(self.base)


class Tutorial(Dataset):
    """With joint transforms, as in torchvision's detection tutorial."""

    def __init__(self, transforms):
        self.transforms = transforms

    def __getitem__(self, index):
        return self.transforms(dim_image(index), index)

    def __len__(self):
        return 6


class ClassLevel(Dim):
    transform = TO_TENSOR

    def __init__(self):
        self.length = 6


class WithSlots(Dim):
    __slots__ = ("size",)

    def __init__(self, transform):
        super().__init__(transform)
        self.size = 6

    def __len__(self):
        return self.size


class Reference(Dim):
    """Has a pipeline of its own, and another dataset that is not the source of its images."""

    def __init__(self, transform):
        super().__init__(transform)
        self.reference = Dim(transform)


class Kept(Dataset):
    """Keeps a dataset under a name of its own, and a transform for what comes out of it."""

    def __init__(self, transform, **datasets):
        vars(self).update(datasets)
        self.transform = transform
        self.length = 6

    def __getitem__(self, index):
        [inner] = [value for value in vars(self).values() if isinstance(value, Dataset)]
        img, target = inner[index]
        return self.transform(img), target

    def __len__(self):
        return 6


class MyAugMixDataset(Wrapped):
    pass


class Pair(Dataset):
    def __init__(self, images, others):
        self.images = images
        self.others = others


class Stream(IterableDataset):
    def __init__(self, transform):
        self.transform = transform

    def __iter__(self):
        return ((self.transform(dim_image(index)), index) for index in range(6))


class Slots(Dataset):
    __slots__ = ("transform",)

    def __init__(self):
        self.transform = TO_TENSOR


class Property(Dim):
    """Hands out its transforms by a property."""

    def __init__(self, transform):
        self._transform = transform
        self.length = 6

    @property
    def transform(self):
        return self._transform


class Computed(Dim):
    """Makes its transforms anew whenever they are asked for."""

    def __init__(self):
        self.length = 6

    @property
    def transform(self):
        return v1.Compose([v1.ToTensor()])


class OtherName(Dataset):
    """Holds its transforms under names of its own, and calls one after the other."""

    def __init__(self, only=None, **steps):
        vars(self).update(steps)
        self.steps = only or list(steps)

    def __getitem__(self, index):
        img = dim_image(index)
        for name in self.steps:
            img = getattr(self, name)(img)
        return img, index

    def __len__(self):
        return 6


class Plain(Dataset):
    """Gives whatever a function makes of an image and its index; no transform can be seen."""

    def __init__(self, make):
        self.make = make

    def __getitem__(self, index):
        return self.make(dim_image(index), index)

    def __len__(self):
        return 6


class PlainStream(IterableDataset):
    def __init__(self, make):
        self.make = make

    def __iter__(self):
        return (self.make(dim_image(index), index) for index in range(6))


class Closure(Dim):
    """Looks injected and is not: it transforms with what it closed over."""

    def __init__(self, transform):
        super().__init__(transform)
        self.get = lambda index: (transform(dim_image(index)), index)

    def __getitem__(self, index):
        return self.get(index)


class ClosureStream(Stream):
    def __init__(self, transform):
        super().__init__(transform)
        self.start = lambda: ((transform(dim_image(index)), index) for index in range(6))

    def __iter__(self):
        return self.start()


class Caching(Dim):
    """Keeps the transformed samples, so that they are augmented once and never again."""

    def __init__(self, transform):
        super().__init__(transform)
        self.cache = {}

    def __getitem__(self, index):
        if index not in self.cache:
            self.cache[index] = super().__getitem__(index)
        return self.cache[index]


class Retrying(Dim):
    """Answers with the next sample where a file cannot be read, as people write."""

    def __getitem__(self, index):
        return self[index + 1] if index % 2 == 0 else super().__getitem__(index)


class Reading(Stream):
    """Reads ahead in a thread."""

    def __iter__(self):
        with ThreadPoolExecutor(1) as pool:
            yield from pool.map(lambda index: (self.transform(dim_image(index)), index), range(6))


class Threaded(Dim):
    """Transforms in a thread."""

    def __getitem__(self, index):
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(super().__getitem__, index).result()
