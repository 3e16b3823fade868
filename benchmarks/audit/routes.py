"""What a piece of work costs in a kernel: the cheapest route through its code that does it.

A compiler leaves many routes from one place to another: whole vectors or single numbers, a loop of several turns at
once and one of those that remain, a switch over types, slow paths of arithmetic. Which one runs, the code does not say;
but its author knows what it has to do: to load and store so many bytes, to take so many exponentials. Of all the routes
that do at least that, the one with the fewest instructions is the one that the data of a training step takes, since the
others are there for what is rarer. Adding up all of a loop would count what never runs.

Work in a loop is a turn of it: a route from the loop's head back to it. Where a compiler has made several turns one, a
turn does the work several times, for less.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from operator import add
from typing import NamedTuple

from benchmarks.audit.assembly import Instruction, by_pipe, width_of

# Of the loops that a compiler makes of one: the turns that are one in them.
_UNROLLED = (1, 2, 4)
_WIDE = 16


class Cost(NamedTuple):
    """Of a thread: instructions in all, and those of the two slow units; bytes that it loads from and stores to global
    memory, and how many of all these go 16 at a time."""

    issue: float = 0
    special: float = 0
    double: float = 0
    load: float = 0
    store: float = 0
    wide: float = 0

    def times(self, factor: float) -> "Cost":
        return Cost(*(amount * factor for amount in self))

    def less(self, other: "Cost") -> "Cost":
        return Cost(*(mine - its for mine, its in zip(self, other)))


NOTHING = Cost()


class Work(NamedTuple):
    """What a route has to do: at least so much of each kind of `Cost`, at least so many instructions of an operation of
    SASS; of the kinds in ``exact``, no more either."""

    amounts: Mapping[str, float]
    exact: Collection[str] = ()

    def times(self, factor: int) -> "Work":
        return Work({kind: factor * amount for kind, amount in self.amounts.items()}, self.exact)


def cost_of(some: Sequence[Instruction]) -> Cost:
    loaded, stored = (
        [width_of(one.name) for one in some if one.operation == name] for name in ("LDG", "STG")
    )
    return Cost(
        **by_pipe(some),
        load=sum(loaded),
        store=sum(stored),
        wide=sum(width for width in [*loaded, *stored] if width == _WIDE),
    )


class Loop(NamedTuple):
    """Blocks of a loop, and those of them that go back to its head."""

    blocks: set[int]
    ends: set[int]


class Routes:
    """The blocks of a kernel, numbered as they stand, and how control goes from one to the next."""

    def __init__(self, instructions: Sequence[Instruction]) -> None:
        addresses = [one.address for one in instructions]
        ends_block = [
            bool(one.jumps_to) or not one.goes_on or one.operation == "EXIT" for one in instructions
        ]
        starts = {0, *(i + 1 for i, ends in enumerate(ends_block) if ends)}
        starts |= {bisect_left(addresses, target) for one in instructions for target in one.jumps_to}
        self._starts = sorted(start for start in starts if start < len(instructions))
        ends = [*self._starts[1:], len(instructions)]
        blocks = [instructions[start:end] for start, end in zip(self._starts, ends)]
        self.costs = [cost_of(block) for block in blocks]
        self.operations = [Counter(one.operation for one in block) for block in blocks]
        self.exits = {i for i, block in enumerate(blocks) if block[-1].operation == "EXIT"}
        self.next = [self._after(i, block[-1], addresses) for i, block in enumerate(blocks)]

    def _after(self, block: int, last: Instruction, addresses: Sequence[int]) -> list[int]:
        found = {bisect_left(self._starts, bisect_left(addresses, target)) for target in last.jumps_to}
        if last.goes_on:
            found.add(block + 1)
        return sorted(one for one in found if one < len(self._starts))

    @cached_property
    def _order(self) -> dict[int, int]:
        """Block → its place in an order in which every block comes before those it leads to, but for loops."""
        done: list[int] = []
        seen, waiting = {0}, [(0, iter(self.next[0]))]
        while waiting:
            ahead = waiting[-1][1]
            following = next((one for one in ahead if one not in seen), None)
            if following is None:
                done.append(waiting.pop()[0])
            else:
                seen.add(following)
                waiting.append((following, iter(self.next[following])))
        return {block: place for place, block in enumerate(reversed(done))}

    @cached_property
    def _before(self) -> dict[int, list[int]]:
        found: dict[int, list[int]] = {block: [] for block in self._order}
        for block in self._order:
            for following in self.next[block]:
                found[following].append(block)
        return found

    @cached_property
    def _dominators(self) -> dict[int, int]:
        """Block → the last of those that all routes to it go through (Cooper, Harvey, Kennedy 2001)."""
        place, found = self._order, {0: 0}
        changed = True
        while changed:
            changed = False
            for block in [one for one in place if one != 0]:
                known = [one for one in self._before[block] if one in found]
                common = known[0]
                for other in known[1:]:
                    while common != other:
                        common, other = sorted((common, other), key=place.__getitem__)
                        other = found[other]
                changed |= found.get(block) != common
                found[block] = common
        return found

    def _is_head(self, head: int, block: int) -> bool:
        """Whether every route to the block goes through ``head``."""
        while block != head and block != 0:
            block = self._dominators[block]
        return block == head

    @cached_property
    def loops(self) -> dict[int, Loop]:
        """Loops by the block that is their head. A jump back to a block that can be come to by other ways, as from a
        slow path that stands behind the kernel's end, makes none."""
        found: dict[int, Loop] = {}
        for end in self._order:
            for head in self.next[end]:
                if self._order[head] <= self._order[end] and self._is_head(head, end):
                    loop = found.setdefault(head, Loop({head}, set()))
                    loop.ends.add(end)
                    waiting = [end]
                    while waiting:
                        block = waiting.pop()
                        if block not in loop.blocks:
                            loop.blocks.add(block)
                            waiting += self._before[block]
        return found

    def through(self, work: Work) -> Cost | None:
        """The cheapest route from the kernel's beginning to its end, each loop left out or gone through once."""
        return self._cheapest(work, 0, self._order.keys(), self.exits)

    def turn(self, work: Work) -> Cost | None:
        """The cheapest turn of any loop that does the work, or its share of one that does it several times."""
        found = []
        for head, loop in self.loops.items():
            for times in _UNROLLED:
                cost = self._cheapest(work.times(times), head, loop.blocks, loop.ends)
                if cost is not None:
                    found.append(cost.times(1 / times))
        return min(found, default=None)

    def _cheapest(
        self, work: Work, start: int, blocks: Collection[int], ends: Collection[int]
    ) -> Cost | None:
        """Each block keeps, for each amount of work done so far, the cheapest way to come to it."""
        counted = [*Cost._fields, *(kind for kind in work.amounts if kind not in Cost._fields)]
        kinds = [counted.index(kind) for kind in work.amounts]
        all_done = tuple(work.amounts.values())
        # Of what is to be exact, too much is one amount more.
        most = tuple(amount + (kind in work.exact) for kind, amount in work.amounts.items())
        coming: dict[int, dict[tuple[float, ...], tuple[float, ...]]] = {}
        coming[start] = {tuple(0 for _ in kinds): tuple(0 for _ in counted)}
        best: tuple[float, ...] | None = None
        for block in sorted(blocks, key=self._order.__getitem__):
            going: dict[tuple[float, ...], tuple[float, ...]] = {}
            own = (
                *self.costs[block],
                *(self.operations[block][kind] for kind in counted[len(Cost._fields) :]),
            )
            for cost in coming.pop(block, {}).values():
                total = tuple(map(add, cost, own))
                done = tuple(map(min, [total[kind] for kind in kinds], most))
                if done not in going or total < going[done]:
                    going[done] = total
            if block in ends and all_done in going:
                best = min(going[all_done], best or going[all_done])
            for following in self.next[block]:
                if following in blocks and self._order[following] > self._order[block]:
                    known = coming.setdefault(following, {})
                    for done, total in going.items():
                        if done not in known or total < known[done]:
                            known[done] = total
        return None if best is None else Cost(*best[: len(Cost._fields)])
