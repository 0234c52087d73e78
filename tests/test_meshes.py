"""Meshes over several slices: each axis is split over slices first, and within them then."""

from unittest import mock

import jax
import numpy as np
import pytest

from bigmodel import meshes
from bigmodel.errors import UserError
from bigmodel.rules import MESH_AXES


def chips(slices: int) -> list[jax.Device]:
    """Eight devices of so many slices, in mixed order, which say as much as a mesh asks for."""
    rest = {'platform': 'gpu', 'device_kind': 'chip', 'process_index': 0}
    return [mock.Mock(jax.Device, id=i, slice_index=i % slices, **rest) for i in range(8)]


@pytest.fixture
def grid_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gives the array of devices in the place of a mesh, which takes real ones alone."""
    monkeypatch.setattr(
        meshes, 'Mesh', lambda grid, *_, **__: mock.Mock(jax.sharding.Mesh, devices=grid)
    )


def ids(mesh: jax.sharding.Mesh, *axes: str) -> np.ndarray:
    """The devices' numbers over these axes; the others have size 1."""
    grid = np.vectorize(lambda device: device.id)(mesh.devices)
    return grid.reshape([mesh.shape[axis] for axis in axes])


def test_devices_of_one_host_play_slices_in_order() -> None:
    mesh = meshes.make_mesh('dcn_data=2,fsdp=2,tensor=2', jax.devices())
    assert mesh.axis_names == MESH_AXES
    np.testing.assert_array_equal(
        ids(mesh, 'data', 'fsdp', 'tensor'), np.arange(8).reshape(2, 2, 2)
    )
    both = meshes.make_mesh('dcn_fsdp=2,fsdp=2,tensor=-1', jax.devices())
    np.testing.assert_array_equal(ids(both, 'fsdp', 'tensor'), np.arange(8).reshape(4, 2))
    two = meshes.make_mesh('dcn_data=2,dcn_fsdp=2,data=2', jax.devices())
    np.testing.assert_array_equal(ids(two, 'data', 'fsdp'), [[0, 2], [1, 3], [4, 6], [5, 7]])


def test_slices_are_those_that_devices_name(grid_alone: None) -> None:
    grid = meshes.make_mesh('dcn_data=2,fsdp=4', chips(2)).devices.reshape(2, 4)
    assert [[c.id for c in row] for row in grid] == [[0, 2, 4, 6], [1, 3, 5, 7]]
    grid = meshes.make_mesh('dcn_fsdp=2,fsdp=2', chips(2)).devices.reshape(4)
    assert [c.id for c in grid] == [0, 2, 1, 3]


@pytest.mark.parametrize('slices', [1, 4])
def test_another_number_of_slices_is_refused(slices: int) -> None:
    with pytest.raises(UserError, match=f'2 slices of 4 devices; there are {slices} of'):
        meshes.make_mesh('dcn_data=2,fsdp=4', chips(slices))


def test_a_host_without_a_device_of_the_mesh_is_refused(grid_alone: None) -> None:
    devices = chips(1)
    for device in devices[4:]:
        device.process_index = 1
    with pytest.raises(UserError, match='takes 4 of 8 devices, and none of host 1'):
        meshes.make_mesh('data=4', devices)
    assert meshes.make_mesh('data=6', devices).devices.size == 6


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('dcn_dat=2', "unknown mesh axis 'dcn_dat'. Did you mean 'dcn_data'"),
        ('dcn_data=2,dcn_data=2', "gives 'dcn_data' twice"),
        ('dcn_data=3,fsdp=4', 'needs 12 devices or a divisor; there are 8'),
    ],
)
def test_bad_meshes_are_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        meshes.make_mesh(text, jax.devices())


def test_a_tpu_mesh_follows_the_torus(grid_alone: None) -> None:
    """Chips come host by host, four in a square; XLA finds rings only along the torus."""
    rest = {'platform': 'tpu', 'device_kind': 'TPU v5', 'process_index': 0, 'core_on_chip': 0}
    there = [
        mock.Mock(jax.Device, coords=[2 * X + x, 2 * Y + y, z], slice_index=0, **rest)
        for z, Y, X, y, x in np.ndindex(4, 2, 2, 2, 2)
    ]
    flat = [tuple(c.coords) for c in meshes.make_mesh('fsdp=-1', there).devices.flat]
    assert flat == list(np.ndindex(4, 4, 4))
    grid = meshes.make_mesh('fsdp=16,tensor=4', there).devices.reshape(16, 4)
    assert all(sum(len({c.coords[i] for c in row}) > 1 for i in range(3)) == 1 for row in grid)
