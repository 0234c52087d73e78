"""Where metrics go: metrics.jsonl (what everything downstream reads), TensorBoard, loss.png."""

import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

Record = Mapping[str, Any]
ABOUT = ('step', 'split', 'seconds', 'tokens_per_second')  # keys of a record that are no metrics


class JsonlWriter:
    """Appends one JSON object a line and flushes it, so that a kill loses nothing written.

    Opened at step s of a resumed run, it drops what was written after s: those steps are run again.
    """

    def __init__(self, path: pathlib.Path, resume_step: int) -> None:
        kept = [r for r in read_jsonl(path) if r['step'] <= resume_step]
        partial = path.with_suffix('.tmp')
        partial.write_text(''.join(json.dumps(r) + '\n' for r in kept))
        partial.replace(path)
        self._file = path.open('a')

    def write(self, record: Record) -> None:
        """Writes `record`, which has a 'step'."""
        self._file.write(json.dumps(record) + '\n')
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class TensorBoardWriter:
    """The same records as TensorBoard scalars (tensorboardX: no TensorFlow)."""

    def __init__(self, folder: pathlib.Path, resume_step: int) -> None:
        self._folder, self._purge, self._writer = folder, resume_step + 1, None

    def write(self, record: Record) -> None:
        """Writes every number of `record` under its split's name."""
        if self._writer is None:  # imported late: it takes part of a second
            from tensorboardX import SummaryWriter

            self._writer = SummaryWriter(str(self._folder), purge_step=self._purge)
        for key, value in record.items():
            if key not in ('step', 'split'):
                self._writer.add_scalar(f'{record["split"]}/{key}', value, record['step'])
        self._writer.flush()

    def close(self) -> None:
        """Closes the event file."""
        if self._writer is not None:
            self._writer.close()


def read_jsonl(path: pathlib.Path) -> Iterator[dict[str, Any]]:
    """The records of a metrics file, up to its last whole line; none when it does not exist."""
    if not path.exists():
        return
    with path.open() as lines:
        for line in lines:
            if not line.endswith('\n'):
                return
            try:
                yield json.loads(line)
            except json.JSONDecodeError:
                return


def draw_loss(metrics: pathlib.Path, picture: pathlib.Path, title: str) -> None:
    """Draws the loss of every split against the step."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot as plt

    curves: dict[str, list[tuple[int, float]]] = {}
    for r in read_jsonl(metrics):
        curves.setdefault(r['split'], []).append((r['step'], r['loss']))
    fig, ax = plt.subplots(figsize=(7, 4.5))
    for split, points in curves.items():
        style = {'linewidth': 0.9} if split == 'train' else {'marker': 'o', 'markersize': 4}
        ax.plot(*zip(*points, strict=True), label=split, **style)
    ax.set(xlabel='step', ylabel='loss (nats)', title=title)
    ax.grid(alpha=0.3)
    ax.legend()
    fig.tight_layout()
    fig.savefig(picture, dpi=120)
    plt.close(fig)
