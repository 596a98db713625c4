"""The Jensen-Shannon consistency loss over a clean image and its augmented views."""

import math

import torch
from torch import Tensor, nn

from lightning_augmix._checks import integer, number, one_of

__all__ = ["JSDLoss", "jsd_consistency"]


def jsd_consistency(*logits: Tensor) -> Tensor:
    """Computes the Jensen-Shannon divergence of the classifier's outputs for several views of the same images.

    ``JS(p₁, …, pᵥ) = (KL(p₁‖m) + … + KL(pᵥ‖m)) / v`` with ``m = (p₁ + … + pᵥ) / v``, averaged over the images. It is
    0 if all views get the same distribution, and at most ``log v``. It is computed from log-softmax, in float32 or, for
    float64 logits, float64, and so is finite for logits of any size.

    Source: Hendrycks et al., "AugMix", ICLR 2020, https://arxiv.org/abs/1912.02781, section 3.

    Args:
        *logits: Floating-point logits of each view, at least two, all ``[N, K]`` or all ``[N, K, …]``.

    Returns:
        A scalar, in nats.

    Raises:
        TypeError: If an argument is not a floating-point tensor.
        ValueError: If there are fewer than two, or their shapes differ or are not ``[N, K, …]``.

    Example:
        >>> sure_of_one, sure_of_another = torch.tensor([[9.0, -9.0]]), torch.tensor([[-9.0, 9.0]])
        >>> round(jsd_consistency(sure_of_one, sure_of_another).item(), 4)  # log 2
        0.6931
    """
    if not all(isinstance(each, Tensor) and each.is_floating_point() for each in logits):
        given = ", ".join(str(each.dtype) if isinstance(each, Tensor) else type(each).__name__ for each in logits)
        raise TypeError(f"Expected arguments `logits` to be floating-point tensors; got {given}.")
    shapes = [list(each.shape) for each in logits]
    if len(logits) < 2 or any(shape != shapes[0] for shape in shapes) or len(shapes[0]) < 2:
        raise ValueError(
            f"Expected arguments `logits` to be two or more tensors of one shape [N, K] or [N, K, …]; got {shapes} "
            "(one tensor for each view; `logits.chunk(views)` splits a batch of views)."
        )
    dtype = torch.promote_types(logits[0].dtype, torch.float32)
    return _divergences(torch.stack([each.to(dtype) for each in logits])).mean()


def _divergences(logits: Tensor) -> Tensor:
    """The divergence of each image: logits ``[V, N, K, …]``, result ``[N, …]``."""
    # Finite even for a logit of −∞, so that 0 · log 0 and its gradient are 0.
    logs = torch.log_softmax(logits, dim=2).clamp(min=torch.finfo(logits.dtype).min / 2)
    mixture = torch.logsumexp(logs, dim=0) - math.log(len(logits))
    divergences: Tensor = (logs.exp() * (logs - mixture)).sum(dim=2).mean(dim=0)
    return divergences


class JSDLoss(nn.Module):
    """Cross-entropy of the clean images plus Jensen-Shannon consistency of all views; replaces ``CrossEntropyLoss``.

    Use it with ``AugMixCallback(views=…)``, which makes batches of ``(1 + views) · N`` images, clean ones first, and
    N targets. In evaluation (after ``eval()``, as in validation) as many logits as targets are permitted, too, and the
    loss is plain cross-entropy.

    MixUp and CutMix in the collate function mix the views of a sample alike, and give targets that are probabilities.

    Source: Hendrycks et al., "AugMix", ICLR 2020, https://arxiv.org/abs/1912.02781, section 3.

    Args:
        weight: Weight of the consistency, a real number, at least 0; the paper uses 12.
        views: Augmented views of each image, at least 1; the paper uses 2.
        label_smoothing: Label smoothing of the cross-entropy, in [0, 1].
        class_weight: The ``weight`` of ``torch.nn.CrossEntropyLoss``, a tensor ``[K]``: a weight for each class in the
            cross-entropy.
        ignore_index: A target that the cross-entropy leaves out. The consistency, which needs no target, counts its
            image.
        reduction: ``"mean"``, ``"sum"``, or ``"none"`` for a loss for each image; of both parts, as for
            ``torch.nn.CrossEntropyLoss``.
        members: Models of an ensemble, at least 1, if their outputs for the whole batch follow each other: the first
            model's for all views of all images, then the second's. The targets are then those of all members, as of
            torch-uncertainty's ``RepeatTarget``.

    Shape:
        - Logits: floating-point ``[members · (1 + views) · N, K]``, also ``[…, K, d₁, …]``. Targets: as for
          ``torch.nn.CrossEntropyLoss``: classes ``[members · N]``, or probabilities ``[members · N, K]``. Output: a
          scalar, or ``[members · N]``, float32, or float64 for float64.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range; on a call, if the numbers of logits and targets do not match.

    Example:
        >>> loss = JSDLoss(weight=12, views=2)
        >>> clean, first, second = torch.randn(3, 4, 10)
        >>> targets = torch.randint(10, (4,))
        >>> both = loss(torch.cat([clean, first, second]), targets)
        >>> bool(both >= loss.eval()(clean, targets))
        True
    """

    class_weight: Tensor | None

    def __init__(
        self,
        weight: float = 12.0,
        views: int = 2,
        label_smoothing: float = 0.0,
        *,
        class_weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
        members: int = 1,
    ) -> None:
        super().__init__()
        self.weight = number("weight", weight, at_least=0, remedy="the paper has 12")
        self.views = integer("views", views, at_least=1, remedy="CrossEntropyLoss is for none")
        self.label_smoothing = number("label_smoothing", label_smoothing, at_least=0, at_most=1)
        if class_weight is not None and not isinstance(class_weight, Tensor):
            raise TypeError(
                f"Expected argument `class_weight` to be a tensor [K]; got {class_weight!r} of type "
                f"{type(class_weight).__name__}."
            )
        self.register_buffer("class_weight", class_weight, persistent=False)
        self.ignore_index = integer("ignore_index", ignore_index)
        self.reduction = one_of("reduction", reduction, ("mean", "sum", "none"))
        self.members = integer("members", members, at_least=1)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Computes the loss of a batch."""
        count = len(targets)
        has_views = len(logits) == (1 + self.views) * count
        if count % self.members or not (has_views or (len(logits) == count and not self.training)):
            raise ValueError(self._mismatch(logits, targets))
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        clean = logits
        if has_views:
            shape = (self.members, 1 + self.views, count // self.members, *logits.shape[1:])
            views = logits.reshape(shape).transpose(0, 1).flatten(1, 2)
            clean = views[0]
        loss: Tensor = nn.functional.cross_entropy(
            clean,
            targets,
            None if self.class_weight is None else self.class_weight.to(logits),
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
        )
        if has_views:
            divergences = _divergences(views)
            if self.reduction != "none":
                divergences = divergences.mean() if self.reduction == "mean" else divergences.sum()
            loss = loss + self.weight * divergences
        return loss

    def _mismatch(self, logits: Tensor, targets: Tensor) -> str:
        count = len(targets)
        given = f"got logits {list(logits.shape)} and targets {list(targets.shape)}"
        if len(logits) == count and not count % self.members:
            return (
                f"Expected logits of {1 + self.views} views of each image in training, [{(1 + self.views) * count}, "
                f"K] for {count} targets; {given}: pass AugMixCallback(views={self.views}), or call `eval()` on "
                "the loss for clean images alone."
            )
        of_members = f" of {self.members} members" if self.members > 1 else ""
        return (
            f"Expected logits for the clean and {self.views} augmented views of each of the {count} targets"
            f"{of_members}, [{(1 + self.views) * count}, K], or in evaluation for clean images alone, [{count}, K]; "
            f"{given}: `views` of JSDLoss and of AugMixCallback must be equal."
        )

    def extra_repr(self) -> str:
        """The arguments, as printed within models."""
        named = f"weight={self.weight:g}, views={self.views}, label_smoothing={self.label_smoothing:g}"
        defaults = {"ignore_index": -100, "reduction": "mean", "members": 1}
        others = {name: getattr(self, name) for name, default in defaults.items() if getattr(self, name) != default}
        return ", ".join([named, *(f"{name}={value!r}" for name, value in others.items())])
