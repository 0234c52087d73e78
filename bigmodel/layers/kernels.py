"""The table of attention kernels, and how one is chosen.

All have one signature (`layers/kernel.py`) and agree with `Reference`, values and gradients. One is
chosen at set-up, logged and recorded; asking by name for one that cannot serve is an error.
"""

import dataclasses
from collections.abc import Callable

from bigmodel.errors import UserError
from bigmodel.layers.blockwise import Blockwise
from bigmodel.layers.fused import Cudnn, Fused
from bigmodel.layers.kernel import Kernel, Request
from bigmodel.layers.reference import Reference
from bigmodel.layers.ring import Ring
from bigmodel.layers.splash import Splash
from bigmodel.specs import make

KERNELS = {
    'reference': Reference,
    'fused': Fused,
    'cudnn': Cudnn,
    'blockwise': Blockwise,
    'splash': Splash,
    'ring': Ring,
}

# What 'auto' takes of them: the first that serves; before these the ring, where rows are split.
AUTOMATIC = {'gpu': ('cudnn', 'fused', 'reference')}


Choose = Callable[[str, Request], tuple[str, Kernel]]


def choose_for(split_rows: bool) -> Choose:
    """`choose`, for rows that are split over devices or not."""
    return lambda spec, request: choose(spec, dataclasses.replace(request, split_rows=split_rows))


def choose(spec: str, request: Request) -> tuple[str, Kernel]:
    """The kernel named by `spec`, with a name; `'auto'` takes the device's first that serves.

    The name says what decodes where that is another kernel.

    Raises UserError when a kernel that was asked for by name cannot serve `request`.
    """
    if spec == 'auto':
        names = AUTOMATIC.get(request.platform, ('reference',))
        names = ('ring', *names) if request.split_rows else names
        spec = next(name for name in names if not KERNELS[name]().refusal(request))
    kernel = make(KERNELS, spec, 'model.kernel')
    reason = kernel.refusal(request)
    if reason:
        raise UserError(f'model.kernel={spec!r} cannot serve this model: {reason}')
    name = f'{spec} (decoding: {kernel.decoder})' if kernel.decoder else spec
    return name, kernel
