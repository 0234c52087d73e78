"""The files that `data.path` names: found by pattern, listed cheaply, hashed by content."""

import glob
import hashlib
import itertools
import os
import pathlib

from bigmodel.data.splits import SPLITS
from bigmodel.errors import UserError

BY_SPLIT = '{split}'


def find(pattern: str, split: str) -> list[pathlib.Path]:
    """The files of `pattern`, sorted; '{split}' in it stands for the split's name.

    Raises UserError when the pattern is empty, is a folder, or matches nothing.
    """
    if not pattern:
        raise UserError("data.path is empty; set it to a file or a pattern such as 'texts/*.txt'")
    files = _match(pattern.replace(BY_SPLIT, split))
    if not files:
        raise _nothing(pattern, split)
    return files


def find_all(pattern: str) -> list[pathlib.Path]:
    """The files of every split of `pattern`, sorted."""
    return _match(pattern.replace(BY_SPLIT, '*'))


def relative_names(files: list[pathlib.Path]) -> list[str]:
    """Names below the files' common folder, so that moving the folder changes nothing."""
    folder = os.path.commonpath([f.parent for f in files])
    return [os.path.relpath(f, folder).replace(os.sep, '/') for f in files]


def quick_key(pattern: str) -> str:
    """Changes when a file may have changed: from paths, sizes and times, without reading."""
    stats = [(str(f), os.stat(f)) for f in find_all(pattern)]
    listed = [(f, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for f, s in stats]
    return hashlib.sha256(f'{_layout(pattern)} {listed}'.encode()).hexdigest()


def content_hash(pattern: str, salt: str) -> str:
    """A hash of the files' relative names, splits and contents, and of `salt`."""
    files = find_all(pattern)
    digest = hashlib.sha256(f'{_layout(pattern)} {salt}'.encode())
    for name, path in zip(relative_names(files), files, strict=True):
        with open(path, 'rb') as file:
            content = hashlib.file_digest(file, 'sha256').hexdigest()
        digest.update(f'{name} {content}\n'.encode())
    return digest.hexdigest()


def read(path: pathlib.Path) -> str:
    """The text of a file as it is; raises UserError when it is empty or not UTF-8."""
    try:
        text = path.read_bytes().decode('utf-8')
    except UnicodeDecodeError as e:
        raise not_utf8(path, e) from e
    if not text:
        raise UserError(f'{path} is empty')
    return text


def not_utf8(where: object, error: UnicodeDecodeError) -> UserError:
    """The error for text that does not decode."""
    return UserError(
        f'{where}: byte {error.start} is not UTF-8 ({error.reason}); convert the file first, '
        f'for example with: iconv -f latin1 -t utf-8'
    )


def missing_split(source: str, split: str, there: list[str], fix: str) -> UserError:
    """The error for a split that the data does not have."""
    return UserError(f'{source}: no split {split!r}; there are: {", ".join(there)}. {fix}')


def _layout(pattern: str) -> str:
    """How the pattern tells splits apart: its part from '{split}' on, '' when it does not."""
    parts = pathlib.PurePath(pattern).parts
    return '/'.join(itertools.dropwhile(lambda part: BY_SPLIT not in part, parts))


def _match(pattern: str) -> list[pathlib.Path]:
    found = glob.glob(os.path.expanduser(pattern), recursive=True)
    return sorted(pathlib.Path(f).absolute() for f in found if os.path.isfile(f))


def _nothing(pattern: str, split: str) -> UserError:
    if os.path.isdir(os.path.expanduser(pattern)):
        return UserError(
            f'data.path={pattern!r} is a folder; give its files: {os.path.join(pattern, "**/*")!r}'
        )
    there = [s for s in SPLITS if _match(pattern.replace(BY_SPLIT, s))]
    if BY_SPLIT in pattern and there:
        fix = f'Add {pattern.replace(BY_SPLIT, split)!r}'
        return missing_split(f'data.path={pattern!r}', split, there, fix)
    return UserError(f'data.path={pattern!r}: no such file')
