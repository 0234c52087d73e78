"""The TFDS dataset `pystdlib`: Python's standard library as labelled text, no download."""

import platform
from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds

from bigmodel.data.datasets import stdlib_files

_DESCRIPTION = """The running Python's standard library: source files and English reference topics.

Tests, generated tables and build-specific files are left out. The label is the theme of the module.
"""


class Pystdlib(tfds.core.GeneratorBasedBuilder):
    """Features: path, text, label (theme); splits by file, every label in every split."""

    VERSION = tfds.core.Version(stdlib_files.VERSION)

    def __init__(self, **kwargs: Any) -> None:
        self._documents = stdlib_files.documents()
        content = stdlib_files.fingerprint(self._documents)[:12]
        # The content names the folder: another Python's library is another dataset.
        name = f'python{platform.python_version()}-{content}'
        config = tfds.core.BuilderConfig(name=name, version=self.VERSION)
        super().__init__(**{'config': config, 'file_format': 'array_record', **kwargs})

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            'path': tfds.features.Text(),
            'text': tfds.features.Text(),
            'label': tfds.features.ClassLabel(names=stdlib_files.LABELS),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description=_DESCRIPTION,
            features=tfds.features.FeaturesDict(features),
            supervised_keys=('text', 'label'),
            license='Python Software Foundation License Version 2',
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        splits = stdlib_files.split_of(self._documents)
        return {
            split: self._generate_examples(split, splits)
            for split in ('train', 'validation', 'test')
        }

    def _generate_examples(
        self, split: str, splits: list[str]
    ) -> Iterator[tuple[str, dict[str, str]]]:
        for doc, its_split in zip(self._documents, splits, strict=True):
            if its_split == split:
                yield doc.path, doc._asdict()
