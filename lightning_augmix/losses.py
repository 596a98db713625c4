"""The Jensen-Shannon consistency loss over a clean image and its augmented views."""

import math

import torch
from torch import Tensor, nn

from lightning_augmix._checks import integer, number

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
    # Finite even for a logit of −∞, so that 0 · log 0 and its gradient are 0.
    least = torch.finfo(dtype).min / 2
    logs = torch.stack([torch.log_softmax(each.to(dtype), dim=1).clamp(min=least) for each in logits])
    mixture = torch.logsumexp(logs, dim=0) - math.log(len(logits))
    divergence: Tensor = (logs.exp() * (logs - mixture)).sum(dim=2).mean()
    return divergence


class JSDLoss(nn.Module):
    """Cross-entropy of the clean images plus Jensen-Shannon consistency of all views; replaces ``CrossEntropyLoss``.

    Use it with ``AugMixCallback(views=…)``, which makes batches of ``(1 + views) · N`` images, clean ones first, and
    N targets. For as many logits as targets, as in validation, it is plain cross-entropy.

    Source: Hendrycks et al., "AugMix", ICLR 2020, https://arxiv.org/abs/1912.02781, section 3.

    Args:
        weight: Weight of the consistency, a real number, at least 0; the paper uses 12.
        views: Augmented views of each image, at least 1; the paper uses 2.
        label_smoothing: Label smoothing of the cross-entropy, in [0, 1].

    Shape:
        - Logits: floating-point ``[(1 + views) · N, K]`` or ``[N, K]``, also ``[…, K, d₁, …]``. Targets: as for
          ``torch.nn.CrossEntropyLoss``: classes ``[N]``, or probabilities ``[N, K]``. Output: a scalar, float32, or
          float64 for float64.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range; on a call, if the numbers of logits and targets do not match.

    Example:
        >>> loss = JSDLoss(weight=12, views=2)
        >>> clean, first, second = torch.randn(3, 4, 10)
        >>> targets = torch.randint(10, (4,))
        >>> both = loss(torch.cat([clean, first, second]), targets)
        >>> bool(both >= loss(clean, targets))
        True
    """

    def __init__(self, weight: float = 12.0, views: int = 2, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.weight = number("weight", weight, at_least=0, remedy="the paper has 12")
        self.views = integer("views", views, at_least=1, remedy="CrossEntropyLoss is for none")
        self.label_smoothing = number("label_smoothing", label_smoothing, at_least=0, at_most=1)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Computes the loss of a batch."""
        count = len(targets)
        dtype = torch.promote_types(logits.dtype, torch.float32)
        if len(logits) not in (count, (1 + self.views) * count):
            raise ValueError(
                f"Expected logits for the clean and {self.views} augmented views of each of the {count} targets, "
                f"[{(1 + self.views) * count}, K], or for clean images alone, [{count}, K]; got logits "
                f"{list(logits.shape)} and targets {list(targets.shape)}: `views` of JSDLoss and of AugMixCallback "
                "must be equal."
            )
        clean = logits[:count].to(dtype)
        loss: Tensor = nn.functional.cross_entropy(clean, targets, label_smoothing=self.label_smoothing)
        if len(logits) > count:
            loss = loss + self.weight * jsd_consistency(*logits.to(dtype).chunk(1 + self.views))
        return loss

    def extra_repr(self) -> str:
        """The arguments, as printed within models."""
        return f"weight={self.weight:g}, views={self.views}, label_smoothing={self.label_smoothing:g}"
