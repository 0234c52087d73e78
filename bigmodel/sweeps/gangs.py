"""Which runs of a sweep a worker trains together, as one program (training/together.py)."""

from collections.abc import Mapping, Sequence

import jax

from bigmodel.sweeps.plan import Job, Plan
from bigmodel.training.outline import resolve
from bigmodel.training.programs import program_of
from bigmodel.training.together import is_trained_alone

MOST = 16  # on one device, unless told
PART = 0.5  # of the memory: what runs need is only estimated, and evaluations need some too

Group = tuple[Job, ...]


def grouped(plan: Plan, jobs: Sequence[Job], asked: int) -> list[Group]:
    """The jobs in their order, those of one program in groups that are as even as can be.

    `asked` is the most of a group; 0 lets the devices say.
    """
    by_program: dict[str, list[Job]] = {}
    for job in jobs:
        config = resolve(plan.config(plan.arm(job.arm), job.seed))
        key = str(job) if is_trained_alone(config) else program_of(config)
        by_program.setdefault(key, []).append(job)
    groups: list[Group] = []
    for together in by_program.values():
        count = -(-len(together) // most_together(asked, _facts(plan, together)))
        made = [tuple(together[i::count]) for i in range(count)]
        # Fewer than there are devices leave some idle, which one after the other all use.
        apart = not asked and len(made[0]) < jax.local_device_count()
        groups += [(job,) for job in together] if apart else made
    return groups


def most_together(asked: int, facts: Sequence[Mapping[str, int]]) -> int:
    """How many runs at once: `asked`, or as many as half of the memory of this process' devices
    is likely to hold.

    On CPU that is one: eight together took as long there as one after the other, and there is a
    worker a core.
    """
    if asked or jax.default_backend() == 'cpu':
        return asked or 1
    need = max(fact['memory_bytes'] for fact in facts)
    there = [(d.memory_stats() or {}).get('bytes_limit', 0) for d in jax.local_devices()]
    return max(1, len(there) * min(MOST, int(PART * min(there) / need)))


def _facts(plan: Plan, jobs: Sequence[Job]) -> list[Mapping[str, int]]:
    return [plan.arm(job.arm).facts for job in jobs]
