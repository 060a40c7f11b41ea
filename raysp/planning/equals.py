"""Stages that train the same though their configurations differ: the first trains, the others follow it.

Owns who is first and who follows. Refuses to know when two come to the same (`Stage.canonical`), and to copy anything
(`raysp.engine.copies`). Contract: such stages have the same parents, so they are ready together, and the plan's first is the
first, unless another is done; where it fails, the next one is.
"""

from collections.abc import Callable, Container, Mapping

from raysp.store.stage import Stage


class Equals:
    """Who trains for whom, among the stages of a run.

    Args:
        canonical: of a stage whose parents are done, the key that it shares with those that train the same; None where it has
            none.
        done: of one kind of stage, by its name, what was done before the run: keys of stages by the key that they share.
    """

    def __init__(
        self,
        canonical: Callable[[Stage], str | None] = lambda stage: None,
        done: Callable[[str], Mapping[str, str]] = lambda name: {},
    ) -> None:
        self._canonical, self._done = canonical, done
        self._kinds: set[str] = set()
        """Names of stages whose finished ones are known."""
        self._shared: dict[str, str] = {}
        """The shared key, by the stage's own."""
        self._first: dict[str, str] = {}
        """Key of the first, by the shared key."""
        self._follows: dict[str, str] = {}
        """Key of the first, by the follower's."""
        self._followers: dict[str, list[Stage]] = {}
        """Of each first that isn't done, by its key."""

    def meet(self, stage: Stage) -> str | None:
        """Take on a stage whose parents are done; return the key of the one that it follows, None if it is to train."""
        shared = self._canonical(stage)
        if shared is None:
            return None
        if stage.name not in self._kinds:
            self._kinds.add(stage.name)
            self._first |= self._done(stage.name)
        self._shared[stage.key] = shared
        first = self._first.setdefault(shared, stage.key)
        if first == stage.key:
            self._followers[first] = []
            return None
        self._follows[stage.key] = first
        if not self.is_done(first):
            self._followers[first].append(stage)
        return first

    @property
    def following(self) -> Container[str]:
        """Keys of the stages that follow another, as they are at any time."""
        return self._follows.keys()

    def first_of(self, stage: Stage) -> str | None:
        """The key of the stage that another follows, if it does."""
        return self._follows.get(stage.key)

    def is_done(self, first: str) -> bool:
        """Whether the first of this key has its record."""
        return first not in self._followers

    @property
    def waiting(self) -> list[Stage]:
        """Followers whose first isn't done."""
        return [stage for followers in self._followers.values() for stage in followers]

    @property
    def any_waits(self) -> bool:
        """Whether any stage follows one that isn't done."""
        return any(self._followers.values())

    def done(self, stage: Stage) -> list[Stage]:
        """Note that a stage has its record; return its followers."""
        return self._followers.pop(stage.key, [])

    def lost(self, stage: Stage) -> list[Stage]:
        """Note that a stage failed or was given up; return its followers."""
        self._forget(stage.key, stage.key)
        return self._followers.pop(stage.key, [])

    def no_longer(self, stage: Stage) -> None:
        """Note that a follower needs no results any more."""
        self._followers[self._follows[stage.key]].remove(stage)

    def leave(self, stage: Stage) -> None:
        """Note that a follower's first is no use; it may `meet` again."""
        self._forget(stage.key, self._follows.pop(stage.key))

    def _forget(self, key: str, first: str) -> None:
        shared = self._shared.get(key)
        if shared is not None and self._first.get(shared) == first:
            del self._first[shared]
