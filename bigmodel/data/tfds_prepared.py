"""Finding TFDS data sets that are prepared on disk, and preparing them where that is possible."""

import importlib.util
import json
import os
import pathlib
import threading
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from bigmodel.errors import UserError, nearest

INFO = 'dataset_info.json'
READABLE = ('array_record', 'parquet')  # without TensorFlow
PROBE_SECONDS = 4.0
NEEDS_TENSORFLOW = 'pip install tensorflow-cpu'


def root(data_dir: str) -> pathlib.Path:
    """`data_dir`, or where TFDS keeps its data sets."""
    usual = os.environ.get('TFDS_DATA_DIR') or '~/tensorflow_datasets'
    return pathlib.Path(data_dir or usual).expanduser()


def candidates(dataset: str, data_dir: str) -> list[pathlib.Path]:
    """The INFO files of every prepared version (and config) that `dataset` may mean, sorted.

    `dataset` is 'name', 'name/config', 'name:version', 'name/config:version', or the folder of one
    prepared version.
    """
    itself = pathlib.Path(dataset).expanduser() / INFO
    if itself.is_absolute() and itself.exists():
        return [itself]
    name, _, version = dataset.partition(':')
    found = []
    for pattern in ('*', '*/*'):
        found += (root(data_dir) / name).glob(f'{pattern}/{INFO}')
    return sorted(f for f in found if _version(f) and version in ('', f.parent.name))


def folder(dataset: str, data_dir: str) -> pathlib.Path:
    """The folder of the newest prepared version of `dataset`, preparing it if need be.

    Raises UserError when it is ambiguous, or neither prepared nor to be had.
    """
    found = candidates(dataset, data_dir)
    if not found:
        return _prepare(dataset, data_dir)
    configs = {f.parent.parent for f in found}
    if len(configs) > 1:
        names = sorted(str(c.relative_to(root(data_dir))) for c in configs)
        raise UserError(f'data.source: {dataset} is one of {", ".join(names)}; say which')
    return max(found, key=_version).parent


def open_folder(path: pathlib.Path) -> Any:
    """A read-only TFDS builder; raises UserError for files that only TensorFlow can read."""
    kind = json.loads((path / INFO).read_text()).get('fileFormat', 'tfrecord')
    if kind not in READABLE:
        raise UserError(
            f'data.source: {path} holds {kind} files, which only TensorFlow reads; prepare the '
            f"data set again with file_format='array_record', or, after {NEEDS_TENSORFLOW}, run: "
            f'tfds convert_format --dataset_version_dir={path} --out_dir=NEW '
            f'--out_file_format=array_record'
        )
    return _tfds().builder_from_directory(str(path))


def reachable(url: str) -> bool:
    """Whether the host of `url` answers within PROBE_SECONDS, through a proxy if one is set."""
    parts = urllib.parse.urlsplit(url)
    answered = threading.Event()

    def ask() -> None:
        request = urllib.request.Request(f'{parts.scheme}://{parts.netloc}/', method='HEAD')
        try:
            urllib.request.urlopen(request, timeout=PROBE_SECONDS)
        except urllib.error.HTTPError as e:
            if e.code in (407, 502, 503, 504):  # a proxy speaking for a host it cannot reach
                return
        except (OSError, ValueError):
            return
        answered.set()

    # In a thread, as looking up a name ignores the timeout.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    return answered.is_set()


def _prepare(dataset: str, data_dir: str) -> pathlib.Path:
    builder = _builder(dataset, data_dir)
    urls = [u for u in builder.url_infos or {} if u.startswith('http')]
    if urls and not reachable(urls[0]):
        host = urllib.parse.urlsplit(urls[0]).netloc
        raise UserError(
            f'data.source: {dataset} is not prepared in {root(data_dir)} and {host} does not '
            f'answer from here. {_elsewhere(dataset, data_dir)}'
        )
    try:
        builder.download_and_prepare()
    except Exception as e:  # TFDS wraps what happened in exceptions of many kinds
        reason = f'{type(e).__name__}: {e}'.replace('\n', ' ')[:300]
        hint = f' It may need TensorFlow: {NEEDS_TENSORFLOW}.' if 'tensorflow' in reason else ''
        raise UserError(
            f'data.source: TFDS could not prepare {dataset} ({reason}).{hint} '
            f'{_elsewhere(dataset, data_dir)}'
        ) from e
    return pathlib.Path(builder.data_path)


def _builder(dataset: str, data_dir: str) -> Any:
    tfds = _tfds()
    try:
        return tfds.builder(dataset, data_dir=str(root(data_dir)), file_format='array_record')
    except tfds.core.DatasetNotFoundError as e:
        raise _not_found(dataset, data_dir) from e
    except Exception as e:  # an unknown config or version; a builder that imports TensorFlow
        reason = str(e).replace('\n', ' ')[:300]
        raise UserError(f'data.source: {dataset} is not prepared, and TFDS says: {reason}') from e


def _not_found(dataset: str, data_dir: str) -> UserError:
    name = dataset.partition(':')[0].partition('/')[0]
    start = f'data.source: {dataset} is not prepared in {root(data_dir)}'
    package = pathlib.Path(_tfds().__file__).parent
    known = {p.stem for p in package.glob('url_checksums/*.txt')}
    known |= {p.name for p in package.glob('datasets/*')}
    if name not in known:
        return UserError(f'{start} and TFDS has no data set of this name.{nearest(name, known)}')
    if importlib.util.find_spec('tensorflow') is None:
        return UserError(
            f'{start}, and preparing it needs TensorFlow (reading it does not): '
            f'{NEEDS_TENSORFLOW}. {_elsewhere(dataset, data_dir)}'
        )
    return UserError(f'{start} and TFDS cannot load its builder')


def _elsewhere(dataset: str, data_dir: str) -> str:
    name = dataset.partition(':')[0].partition('/')[0]
    return (
        'On a machine with network access run: python -c "import tensorflow_datasets as tfds; '
        f"tfds.builder('{dataset}', data_dir='DIR', file_format='array_record')"
        f'.download_and_prepare()" and copy DIR/{name} to {root(data_dir) / name}'
    )


def _version(info: pathlib.Path) -> tuple[int, ...]:
    """(major, minor, patch) from the folder's name; () when it is not a version."""
    parts = info.parent.name.split('.')
    return tuple(int(p) for p in parts) if all(p.isdigit() for p in parts) else ()


def _tfds() -> Any:
    try:
        import tensorflow_datasets
    except ImportError:
        raise UserError('data.source: run: pip install tensorflow-datasets array_record') from None
    return tensorflow_datasets
