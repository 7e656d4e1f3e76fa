"""Fitting ImageNet networks to 32 px.

An ImageNet network halves its picture five times, so that 32 px end as a single pixel. The first two halvings are
taken out: every convolution of stride 2 that works at full or at half size gets stride 1, a pool there is left out,
and a first kernel larger than 3 x 3 becomes 3 x 3 with fresh weights. For a ResNet this is the usual CIFAR stem
(3 x 3, no max-pool); for a MobileNet it is the stem and the next stage that halves. The sizes are measured, not known
by name, and the last map must then be four times as high as before.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tutelage.errors import ModelError

WORKS = ("resnet, resnext, wide_resnet, seresnet, regnet, mobilenetv2, mobilenetv3, efficientnet, mnasnet, ghostnet, "
         "shufflenet, densenet")
# Large enough that five halvings still leave more than the single pixel of squeeze-and-excite and pooling layers.
PROBE = 64


@dataclass(frozen=True)
class _Seen:
    name: str
    module: nn.Module
    before: int
    after: int


def fit_to_32px(body: nn.Module, where: object = None) -> None:
    """Change `body` in place as this page says, or refuse it with a `ModelError`."""
    before = _heights(body, where)
    halvings = [seen for seen in before if seen.after < seen.before and seen.before in (PROBE, PROBE // 2)]
    if not halvings or any(seen.after * 2 != seen.before for seen in halvings):
        raise _refused(where, "its first layers do not halve the picture one step at a time")
    for seen in halvings:
        _keep_size(body, seen)
    _shrink_first_kernel(body, before[0])
    last, now = _last_height(before), _last_height(_heights(body, where))
    if now != 4 * last:
        raise _refused(where, f"at {PROBE} px its last map would go from {last} to {now} px, not to {4 * last}")


def _keep_size(body: nn.Module, seen: _Seen) -> None:
    if isinstance(seen.module, nn.Conv2d):
        seen.module.stride = (1, 1)
    else:
        body.set_submodule(seen.name, nn.Identity())


def _shrink_first_kernel(body: nn.Module, first: _Seen) -> None:
    old = first.module
    if isinstance(old, nn.Conv2d) and old.kernel_size[0] > 3:
        new = nn.Conv2d(old.in_channels, old.out_channels, 3, 1, padding=1, bias=old.bias is not None)
        nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
        body.set_submodule(first.name, new)


def _last_height(seen: list[_Seen]) -> int:
    return min(entry.after for entry in seen if entry.after > 1)


def _heights(body: nn.Module, where: object) -> list[_Seen]:
    # Convolutions and pools in the order in which they run, with the height of the map before and after each.
    seen: list[_Seen] = []

    def hook(name: str) -> Callable[..., None]:
        def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            seen.append(_Seen(name, module, inputs[0].shape[-2], output.shape[-2]))
        return note

    kinds = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)
    handles = [module.register_forward_hook(hook(name)) for name, module in body.named_modules()
               if isinstance(module, kinds)]
    try:
        with _evaluating(body), torch.no_grad():
            body(torch.zeros(1, _channels(body), PROBE, PROBE))
    except (RuntimeError, ValueError, AssertionError, IndexError, TypeError) as problem:
        reason = f"{type(problem).__name__}: {str(problem).partition(chr(10))[0]}"
        raise _refused(where, f"it does not run on {PROBE} px: {reason}") from None
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _channels(body: nn.Module) -> int:
    return next((module.in_channels for module in body.modules() if isinstance(module, nn.Conv2d)), 3)


@contextmanager
def _evaluating(body: nn.Module) -> Iterator[None]:
    training = body.training
    body.eval()
    try:
        yield
    finally:
        body.train(training)


def _refused(where: object, found: str) -> ModelError:
    return ModelError("this network has no CIFAR stem", where=where, found=found,
                      expected=f"a network of one of these families: {WORKS}",
                      fix='write stem = "as-is" and larger images, or take another network')
