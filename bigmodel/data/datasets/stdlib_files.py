"""What the `pystdlib` dataset holds: the running Python's own sources and reference text."""

import hashlib
import os
import pathlib
import platform
import sysconfig
import tokenize
from collections.abc import Iterator
from typing import NamedTuple

from bigmodel.data.splits import share_out
from bigmodel.errors import UserError

VERSION = '1.0.0'
SHARES = {'validation': 0.1, 'test': 0.1}
OTHER, REFERENCE = 'library', 'reference'
SKIPPED_FOLDERS = ('__pycache__', 'idle_test', 'site-packages', 'dist-packages', 'test', 'tests')
# Tables that a program wrote or that differ between builds of the same Python: no prose, no code.
SKIPPED_PREFIXES = ('_sysconfigdata', 'config-', 'pydoc_data', 'lib2to3/tests', 'lib2to3/pgen2/dat')
GENERATED = 'generated from'

# Themes rather than packages: each has enough files for every split, in every Python since 3.11.
GROUPS = {
    'concurrency': (
        'asyncio concurrent multiprocessing threading _threading_local queue sched selectors '
        'asyncore asynchat subprocess contextvars signal'
    ),
    'mail': (
        'email mailbox mailcap smtplib smtpd imaplib poplib nntplib mimetypes quopri uu base64'
    ),
    'web': (
        'http urllib wsgiref cgi cgitb xmlrpc webbrowser ftplib telnetlib socketserver socket ssl '
        'ipaddress nturl2path netrc uuid'
    ),
    'formats': (
        'xml html _markupbase plistlib json tomllib csv configparser pickle pickletools shelve '
        'copyreg xdrlib _compat_pickle dbm sqlite3'
    ),
    'text': (
        'encodings codecs locale gettext stringprep string re sre_compile sre_parse '
        'sre_constants difflib textwrap _pyio _strptime'
    ),
    'idle': 'idlelib',
    'gui': 'tkinter turtle turtledemo curses colorsys cmd _pyrepl',
    'packaging': (
        'distutils ensurepip venv zipapp importlib pkgutil modulefinder zipimport runpy site '
        'sysconfig compileall py_compile imp _osx_support _aix_support _bootsubprocess '
        '_sitebuiltins'
    ),
    'debugging': (
        'unittest doctest pdb bdb trace profile cProfile pstats timeit logging traceback '
        'tracemalloc warnings faulthandler profiling'
    ),
    'compilers': (
        'lib2to3 ast _ast_unparse dis opcode _opcode_metadata tokenize token keyword symtable '
        'inspect pydoc codeop code tabnanny pyclbr typing annotationlib ctypes'
    ),
    'numbers': (
        '_pydecimal decimal _pydatetime datetime fractions statistics random numbers calendar '
        'zoneinfo heapq bisect hashlib hmac secrets'
    ),
    'files': (
        'os posixpath ntpath genericpath pathlib shutil tempfile glob _glob fnmatch stat filecmp '
        'fileinput zipfile tarfile gzip bz2 lzma compression _compression io platform pty tty '
        'getpass wave aifc sunau chunk sndhdr imghdr'
    ),
}
LABELS = (*GROUPS, OTHER, REFERENCE)


class Document(NamedTuple):
    """One document: `path` is its name within the dataset."""

    path: str
    text: str
    label: str


def root() -> pathlib.Path:
    """The folder of the standard library; raises UserError when its sources are not there."""
    folder = pathlib.Path(sysconfig.get_path('stdlib'))
    if not (folder / 'argparse.py').is_file():
        raise UserError(
            f"pystdlib: this Python's standard library has no sources in {folder}; "
            f"use another data.source, for example 'text' with data.path"
        )
    return folder


def listing() -> Iterator[tuple[str, os.stat_result]]:
    """Yields (path within the library, stat) of every candidate file, in a fixed order."""
    folder = str(root())
    for directory, folders, files in os.walk(folder):
        folders[:] = sorted(f for f in folders if f not in SKIPPED_FOLDERS)
        for file in sorted(f for f in files if f.endswith('.py')):
            full = os.path.join(directory, file)
            relative = os.path.relpath(full, folder).replace(os.sep, '/')
            if not relative.startswith(SKIPPED_PREFIXES) or relative == 'pydoc_data/topics.py':
                yield relative, os.stat(full)


def quick_key() -> str:
    """Changes when a file of the library may have changed; takes milliseconds, reads no file."""
    digest = hashlib.sha256(f'{VERSION} {platform.python_version()} {root()}'.encode())
    for path, stat in listing():
        digest.update(f'{path} {stat.st_size} {stat.st_mtime_ns}\n'.encode())
    return digest.hexdigest()


def documents() -> list[Document]:
    """Every document, sorted by path: source files (each content once), then reference topics."""
    found = {}
    for path, _ in listing():
        text = _read(root() / path)
        if path != 'pydoc_data/topics.py' and text.strip() and not _generated(text):
            found.setdefault(text, Document(path, text, group(path)))
    return sorted([*found.values(), *_topics()])


def group(path: str) -> str:
    """The label of a source file: the theme of its top-level module."""
    module = path.split('/')[0].removesuffix('.py')
    return _GROUP_OF.get(module, OTHER)


def split_of(docs: list[Document]) -> list[str]:
    """The split of each document, by a hash of its path within its label: none lacks a label."""
    splits = [''] * len(docs)
    for label in LABELS:
        rows = [i for i, d in enumerate(docs) if d.label == label]
        for i, split in zip(rows, share_out([docs[i].path for i in rows], SHARES), strict=True):
            splits[i] = split
    return splits


def fingerprint(docs: list[Document]) -> str:
    """A hash of every document and of how they are split."""
    digest = hashlib.sha256(VERSION.encode())
    for doc, split in zip(docs, split_of(docs), strict=True):
        digest.update('\0'.join((doc.path, doc.label, split, doc.text, '')).encode())
    return digest.hexdigest()


def _topics() -> list[Document]:
    try:
        from pydoc_data.topics import topics
    except ImportError:
        return []
    return [Document(f'topics/{name}', text, REFERENCE) for name, text in topics.items()]


def _read(path: pathlib.Path) -> str:
    with tokenize.open(path) as file:  # honours the coding line that a few files have
        return file.read()


def _generated(text: str) -> bool:
    return GENERATED in text[:400].lower() and 'decoding_table' in text


_GROUP_OF = {module: name for name, modules in GROUPS.items() for module in modules.split()}
