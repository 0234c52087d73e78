"""What is set before a device is touched."""

import pytest

from bigmodel import devices

FLAG = f'--{devices.GROUPED_PRODUCTS}=true'


@pytest.mark.parametrize(
    ('version', 'given', 'wanted'),
    [
        ('0.0.52', '', FLAG),
        ('0.1.0', '--xla_x=1', f'--xla_x=1 {FLAG}'),
        ('0.0.51', '', ''),  # which may not know it
        ('0.0.60', f'--{devices.GROUPED_PRODUCTS}=false', f'--{devices.GROUPED_PRODUCTS}=false'),
    ],
)
def test_libtpu_is_asked_for_products_of_groups(
    version: str, given: str, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('LIBTPU_INIT_ARGS', given)
    monkeypatch.setattr(devices.importlib.util, 'find_spec', lambda name: name)
    monkeypatch.setattr(devices.importlib.metadata, 'version', lambda name: version)
    devices.configure_libtpu()
    assert devices.os.environ['LIBTPU_INIT_ARGS'] == wanted
