"""What each device of a ring does when: its part of the rows, in halves, and their blocks."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bigmodel.layers.coordinates import Bias, Coordinates
from bigmodel.layers.kernel import MASKED
from bigmodel.layers.masks import Mask
from bigmodel.layers.running import as_rows
from bigmodel.layers.weights import Weights
from bigmodel.layers.zigzag import from_zigzag, halves, joined, to_zigzag
from bigmodel.rings import Ring as Devices


@dataclasses.dataclass(frozen=True)
class Plan:
    """The static part of a call. `half` tokens are half of a device's, cut into blocks of `size`;
    `batched` says which of the fixed arrays have a row for each of the batch.

    The arrays come as two lists, as in `blockwise`.
    """

    devices: Devices
    mask: Mask
    G: int
    R: int
    half: int
    size: int
    structure: jax.tree_util.PyTreeDef
    batched: tuple[bool, ...]

    @property
    def causal(self) -> bool:
        return self.mask.causal

    def parts(self, learned: list, fixed: list) -> tuple[Bias | None, Weights, Coordinates]:
        leaves = [b if a is None else a for a, b in zip(learned, fixed, strict=True)]
        return jax.tree.unflatten(self.structure, leaves)

    def firsts(self, device: Array) -> Array:
        """The first slots of the two halves that a device holds."""
        both = halves(device, self.devices.ways, self.causal)
        return jnp.stack(both) * self.half

    def queries(self, where: Coordinates, device: Array) -> list[Coordinates]:
        first = self.firsts(device)
        return [slots(where, first[i], self.half) for i in range(2)]

    def blocks(self, k: Array, v: Array, device: Array) -> tuple[Array, Array, Array]:
        """Blocks of the two halves of keys and values of a device, and their first slots."""
        count = self.half // self.size
        within = jnp.arange(count) * self.size
        first = (self.firsts(device)[:, None] + within).reshape(-1)

        def cut(x: Array) -> Array:
            _, B, G, _, K = x.shape
            x = x.reshape(2, B, G, count, self.size, K)
            return jnp.moveaxis(x, 3, 1).reshape(2 * count, B, G, self.size, K)

        return cut(k), cut(v), first

    def joined(self, x: Array) -> Array:
        """Of blocks, the two halves."""
        count, (_, B, G, size, K) = self.half // self.size, x.shape
        x = jnp.moveaxis(x.reshape(2, count, B, G, size, K), 1, 3)
        return x.reshape(2, B, G, self.half, K)

    def added(
        self,
        allowed_BLS: Array,
        queries: Coordinates,
        keys: Coordinates,
        learned: list,
        fixed: list,
    ) -> Float[Array, '#B #G M S']:
        """Biases, and what masks add: 0 or −1e30."""
        bias = self.parts(learned, fixed)[0]
        term = as_rows(jnp.where(allowed_BLS, 0.0, MASKED)[:, None], self.G, self.R)
        return term if bias is None else term + as_rows(bias(queries, keys), self.G, self.R)

    def before(self, learned: list, fixed: list) -> tuple[Array, Array]:
        """The maximum and the sum before the first block, (1, G, M, 1)."""
        found = self.parts(learned, fixed)[1].before(self.G * self.R)
        shape = (1, self.G * self.R, self.half, 1)
        return tuple(
            as_rows(
                jnp.broadcast_to(x_H[None, :, None, None], (1, len(x_H), *shape[2:])),
                self.G,
                self.R,
            )
            for x_H in found
        )

    def axes(self) -> list:
        """The logical axes of (learned, fixed)."""
        return [(), [('batch', None) if rows else () for rows in self.batched]]

    def onwards(self, xs: tuple) -> tuple:
        """What each device has goes to the next one."""
        ways = self.devices.ways
        turn = [(i, (i + 1) % ways) for i in range(ways)]
        return jax.tree.map(lambda x: jax.lax.ppermute(x, self.devices.axis, turn), xs)


def slots(where: Coordinates, first: Array, size: int) -> Coordinates:
    """`size` places from `first` on."""
    return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, first, size, -1), where)


def scatter(plan: Plan, x_BLHK: Array) -> Float[Array, '2 B G M K']:
    """A device's part of the rows, as the halves that it computes with."""
    both = joined(x_BLHK, plan.G)
    return to_zigzag(both, plan.devices.axis, plan.devices.ways) if plan.causal else both


def gather(plan: Plan, x: Array, R: int) -> Float[Array, 'B L H K']:
    """The inverse of `scatter`, of R heads for each key head."""
    if plan.causal:
        x = from_zigzag(x, plan.devices.axis, plan.devices.ways)
    _, B, G, M, K = x.shape
    x = x.reshape(2, B, G, R, M // R, K).transpose(1, 0, 4, 2, 3, 5)
    return x.reshape(B, -1, G * R, K)
