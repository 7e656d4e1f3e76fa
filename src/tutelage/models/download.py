"""Fetching weights that timm or torchvision offer, without waiting for a network that is not there."""

import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import huggingface_hub.constants as hub

from tutelage.errors import ModelError

PATIENCE = 10.0
"""Seconds to wait for an answer."""


@contextmanager
def downloading(arch: str) -> Iterator[None]:
    """Inside, a download that cannot be done is one `ModelError`, within seconds instead of a minute of retries.

    What is in the cache is found without a network too.
    """
    offline, timeout = hub.HF_HUB_OFFLINE, socket.getdefaulttimeout()
    try:
        hub.HF_HUB_OFFLINE = offline or not _reachable(hub.ENDPOINT)
        socket.setdefaulttimeout(PATIENCE)
        yield
    # Whatever the libraries of a download raise (urllib, httpx, the hub, a damaged file): to a user it is one thing.
    except Exception as problem:
        raise ModelError("the pretrained weights cannot be had", where=arch,
                         found=f"{type(problem).__name__}: {str(problem).strip().partition(chr(10))[0][:200]}",
                         expected="an internet connection, or the weights in the cache",
                         fix="give a .safetensors file as `weights`, or write pretrained = false") from None
    finally:
        hub.HF_HUB_OFFLINE = offline
        socket.setdefaulttimeout(timeout)


def _reachable(url: str) -> bool:
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=PATIENCE).close()
    except urllib.error.HTTPError as answer:
        answer.close()
    except OSError:
        return False
    return True
