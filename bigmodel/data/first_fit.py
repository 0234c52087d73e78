"""First-fit bin packing in O(n log n)."""

import numpy as np
from jaxtyping import Int


def assign_rows(sizes: Int[np.ndarray, 'n'], capacity: int) -> Int[np.ndarray, 'n']:
    """The row of each piece: the first with room for it, in the order given (all must fit one).

    A piece that fills a row alone is given its row without a search; the rest walk a tree that
    keeps, for every range of rows, the largest room in it.
    """
    full = sizes >= capacity
    rows = np.zeros(len(sizes), np.int64)
    rows[~full] = _walk(sizes[~full].tolist(), capacity)
    # Full rows come after the others: first-fit never looks at them again.
    rows[full] = rows[~full].max(initial=-1) + 1 + np.arange(int(full.sum()))
    return rows


def _walk(sizes: list[int], capacity: int) -> list[int]:
    leaves = 1 << max(0, len(sizes) - 1).bit_length()
    room = [capacity] * (2 * leaves)
    rows = []
    for size in sizes:
        node = 1
        while node < leaves:
            node *= 2
            if room[node] < size:
                node += 1
        rows.append(node - leaves)
        room[node] -= size
        while node > 1:
            node //= 2
            left, right = room[2 * node], room[2 * node + 1]
            largest = left if left > right else right
            if room[node] == largest:
                break
            room[node] = largest
    return rows
