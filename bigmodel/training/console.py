"""What a person sees: the plan, a progress bar (lines where there is no terminal), results."""

import sys
import time
from collections.abc import Mapping

from bigmodel import devices, hosts
from bigmodel.models.remat import offloads
from bigmodel.training.fit import check_stages
from bigmodel.training.placement import described
from bigmodel.training.setup import Setup


def print_plan(setup: Setup, where: str, start: int, moved: str) -> None:
    """Says what is about to happen; `moved` where, if that is not where it was."""
    c = setup.config
    mesh = ', '.join(f'{k}={n}' for k, n in setup.sharding.mesh.shape.items() if n > 1) or 'one'
    tokens = setup.tokens_per_step * c.num_steps
    started = [f'from {c.init_from.path}'] if c.init_from.path else []
    frozen = [f'{name} {there.checkpoint}' for name, there in setup.companions.items()]
    resumed = f', resumed after step {start}' * bool(start) + f', {moved}' * bool(moved)
    rows = (
        ('run', f'{c.name} → {where}' + resumed),
        ('task', ', '.join([c.task, *started, *frozen])),
        (
            'model',
            f'{c.model.size}: {setup.sizes.num_params / 1e6:.2f}M parameters, {c.model.depth} '
            f'layers of width {c.model.width}, position {c.model.position}, '
            f'{setup.flops_per_token / 1e6:.1f} MFLOP/token',
        ),
        ('trained', str(setup.sizes)),
        ('data', setup.data.about),
        (
            'training',
            f'{c.num_steps:,} steps of {setup.tokens_per_step:,} tokens = {tokens / 1e6:.1f}M '
            f'({setup.data.epochs(c.data.batch_size * c.num_steps)}), '
            f'{c.optimizer.name}, learning rate {c.optimizer.learning_rate:g}',
        ),
        (
            'devices',
            f'{devices.describe()}, mesh {mesh}, rules {c.sharding.rules}, '
            f'kernel {setup.kernel}, compute {_compute_dtype(setup)}{_products(setup)}',
        ),
    )
    if setup.sharding.mesh.size > 1:
        stages = check_stages(c, setup.sharding)
        rows += (('placement', described(setup.abstract, setup.sharding, stages)),)
    if _on_host(setup):
        rows += (('host', _on_host(setup)),)
    for key, text in rows:
        indented = text.replace('\n', '\n' + ' ' * 11)
        print(f'{key:>9}  {indented}', flush=True)


class Progress:
    """A bar with loss, tokens/s and ETA on a terminal; elsewhere a line now and then.

    Of several runs beside each other, `label` says which a line is of, and there is no bar.
    """

    def __init__(
        self, total: int, start: int, tokens_per_step: int, every: int, label: str = ''
    ) -> None:
        self._total, self._start, self._tokens = total, start, tokens_per_step
        self._label = f'{label}  ' if label else ''
        self._every = max(every, total // 20)
        self._began = time.monotonic()
        self._bar = None
        if sys.stderr.isatty() and hosts.is_first() and not label:
            from tqdm import tqdm

            self._bar = tqdm(total=total, initial=start, unit='step', dynamic_ncols=True)

    def update(self, step: int, loss: float) -> None:
        """Shows that `step` steps are done."""
        done = step - self._start
        seconds = max(time.monotonic() - self._began, 1e-9)
        rate = done * self._tokens / seconds
        if self._bar is not None:
            self._bar.set_postfix_str(f'loss {loss:.3f}, {_short(rate)} tokens/s', refresh=False)
            self._bar.update(step - self._bar.n)
        elif step % self._every == 0 or step == self._total:
            left = (self._total - step) * seconds / max(done, 1)
            print(
                f'{self._label}step {step:>{len(str(self._total))}}/{self._total}  '
                f'loss {loss:.4f}  {_short(rate)} tokens/s  {left:.0f} s left',
                flush=True,
            )

    def note(self, text: str) -> None:
        """Prints a line without disturbing the bar."""
        if self._bar is not None:
            self._bar.write(text)
        else:
            print(self._label + text, flush=True)

    def close(self) -> None:
        """Leaves the bar on the screen."""
        if self._bar is not None:
            self._bar.close()


def evaluation_line(step: int, name: str, values: Mapping[str, float], gzip: float) -> str:
    """One evaluation in words, with the compression of the same text by gzip beside it."""
    lines: dict[str, list[str]] = {}
    for key, value in values.items():
        metric, _, source = key.partition('/')
        lines.setdefault(source, []).append(f'{metric} {value:.4f}')
    beside = f' (gzip: {gzip:.3f})' if 'bits_per_byte' in values else ''
    whole = f'step {step}  {name}: {", ".join(lines.pop("", []))}{beside}'
    return '\n'.join([whole, *(f'  {of}: {", ".join(parts)}' for of, parts in lines.items())])


def _products(setup: Setup) -> str:
    matmul = setup.config.model.matmul
    return '' if matmul == 'full' else f', products {matmul}'


def _compute_dtype(setup: Setup) -> str:
    from bigmodel.models.build import compute_dtype

    platform = setup.sharding.mesh.devices.flat[0].platform
    return compute_dtype(setup.config.model.dtype, platform)


def _on_host(setup: Setup) -> str:
    """What waits in the memory of the host, if anything does."""
    waits = ['moments between updates'] * setup.optimizer.storage.offload
    waits += ['activations for the backward pass'] * offloads(setup.config.model.remat)
    own = setup.platform == 'cpu' and ", a CPU's own: nothing is gained"
    return f'{" and ".join(waits)} wait in its memory{own or ""}' if waits else ''


def _short(number: float) -> str:
    return f'{number / 1e6:.2f}M' if number >= 1e6 else f'{number / 1e3:.1f}k'
