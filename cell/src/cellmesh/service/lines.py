"""Who is next: the messages that wait for the instances of one cell at one priority. Pure: no I/O, no clock.

Each instance has a lane, with one request under way. A free lane takes what it may have, lowest position
first: what only its instance can have (wanted, pinned, or placed there by its conversation or id) and what any
may. Of both, only the first part need be in memory; the rest is in the file and read when there is room.

Order: what a lane has taken goes before all else it takes later. A message that comes back, or was meant for an
instance that went, is below what other lanes have taken meanwhile. It is kept for its instance for a while
(``PATIENCE``), unless that is not expected to return; only then do others take it, out of order.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter

from cellmesh.outbox import Parcel
from cellmesh.protocol.peers import Peer
from cellmesh.service.routing import rendezvous

#: Messages, and bytes of them, that are kept in memory for an instance, and for all together.
WINDOW = 2048
WINDOW_BYTES = 8 * 1024 * 1024
#: How long, ms, a message waits at most for the instance that it was for, if others could take it only out of order;
#: at most half the time that it has left.
PATIENCE = 30_000

_position = attrgetter("position")
_key = attrgetter("key")


class _Bucket:
    """Messages for one instance, or for any: those before ``missing`` are here, ascending (None: all are)."""

    __slots__ = ("missing", "parcels", "size")

    def __init__(self, missing: int | None) -> None:
        self.parcels: deque[Parcel] = deque()
        self.size = 0
        self.missing = missing

    @property
    def full(self) -> bool:
        """Whether there is no room for more of those before ``missing``."""
        before = self._before()
        return before >= WINDOW or (before > 0 and self.size >= WINDOW_BYTES)

    @property
    def low(self) -> bool:
        """Whether it is time to read more."""
        before = self._before()
        return before < WINDOW // 4 and (before == 0 or self.size < WINDOW_BYTES // 4)

    def _before(self) -> int:
        if self.missing is None:
            return len(self.parcels)
        return bisect_left(self.parcels, self.missing, key=_position)

    def insert(self, parcel: Parcel) -> None:
        parcels = self.parcels
        if not parcels or parcels[-1].position < parcel.position:
            parcels.append(parcel)
        elif parcel.position < parcels[0].position:
            parcels.appendleft(parcel)
        else:
            insort(parcels, parcel, key=_position)
        self.size += parcel.size

    def pop(self) -> Parcel:
        parcel = self.parcels.popleft()
        self.size -= parcel.size
        return parcel

    def remove(self, parcel: Parcel) -> None:
        self.parcels.remove(parcel)
        self.size -= parcel.size


class Line:
    """The messages to one cell at one priority, as far as they are in memory, and what may be taken of them.

    Args:
        start: no message that is on disk and not known here is before this position; None: there is none.

    """

    def __init__(self, start: int | None) -> None:
        self._start = start
        self._members: dict[str, Peer] = {}
        self._peers: list[Peer] = []
        self._expects: Callable[[str], bool] = lambda _: False
        self._buckets: dict[str, _Bucket] = {}
        #: Positions of all that is in memory, also of what is being sent.
        self._known: set[int] = set()
        #: Those that nobody may take before a time.
        self._held: dict[int, Parcel] = {}
        #: Instances that were ready and are not, as they were.
        self._away: dict[str, Peer] = {}
        #: Those that have been tried, while nobody is there.
        self._parked: list[Parcel] = []
        #: Those that wait in the lane they came back to; others may have them after a time.
        self._kept: dict[int, Parcel] = {}
        self._times: list[tuple[int, int]] = []
        #: The highest position that each lane has taken.
        self._floors: dict[str, int] = {}
        #: The lowest position that was left to the file since it was last read: what is being read may not have it.
        self._unread: int | None = None
        #: Changes with the members: what was asked for before is of no use then.
        self.epoch = 0

    @property
    def idle(self) -> bool:
        """Whether nothing is in memory and nothing is being sent."""
        return not self._known

    def set_members(self, members: Mapping[str, Peer], expects: Callable[[str], bool], now: int) -> None:
        """Note which instances are ready, and which are expected to come back.

        Args:
            members: by name.
            expects: tells whether an instance is ready or coming back.
            now: ms of the inbox's clock, as all times here.

        """
        self._expects = expects
        if {name: peer.uid for name, peer in members.items()} == {
            name: peer.uid for name, peer in self._members.items()
        }:
            self._members = dict(members)
            self._peers = [self._members[name] for name in sorted(members)]
            return
        self.epoch += 1
        before = self._buckets
        waiting: list[Parcel] = [*self._held.values(), *self._parked]
        for bucket in before.values():
            self._lower(bucket.missing)
            for parcel in bucket.parcels:
                if parcel.tried is None and not parcel.kept_until:
                    # Nothing is known of it that is not in the file, from where it is read again.
                    self._leave(parcel)
                else:
                    waiting.append(parcel)
        self._held.clear()
        self._parked.clear()
        self._kept.clear()
        self._times.clear()
        left = {**self._away, **self._members}
        self._away = {name: one for name, one in left.items() if name not in members and expects(name)}
        self._members = dict(members)
        self._peers = [self._members[name] for name in sorted(members)]
        self._buckets = {name: _Bucket(self._start) for name in ("", *members)} if members else {}
        for parcel in sorted(waiting, key=_position):
            self._put(parcel, now, returned=True)

    def add(self, parcel: Parcel, now: int) -> None:
        """Take in a message that has just been queued: its position is the highest so far."""
        if not self._buckets:
            self._lower(parcel.position)
            return
        self._known.add(parcel.position)
        self._put(parcel, now)

    def behind(self, position: int) -> None:
        """Note that there is a message on disk at this position, and may be more behind it."""
        self._lower(position)
        self._leave_unread(position)
        self._miss(position)

    def give_back(self, parcels: Iterable[Parcel], now: int) -> None:
        """Take in messages that were sent and are to be sent again."""
        for parcel in parcels:
            self._put(parcel, now, returned=True)

    def end(self, positions: Iterable[int]) -> None:
        """Forget messages that were taken and have ended."""
        self._known.difference_update(positions)

    def has(self, instance: str) -> bool:
        """Tell whether the lane of an instance can take something."""
        own, common = self._buckets.get(instance), self._buckets.get("")
        if own is None or common is None or not (own.parcels or common.parcels):
            return False
        horizon = self._horizon(own, common)
        return any(one.parcels and (horizon is None or one.parcels[0].position < horizon) for one in (own, common))

    def take(self, instance: str, most: int, size: int, weigh: Callable[[Parcel], int], now: int) -> list[Parcel]:
        """Remove and return what the lane of an instance sends next, lowest position first.

        Args:
            instance: whose lane.
            most: messages at most.
            size: bytes at most, but for one message.
            weigh: returns the bytes of a message as it will be sent.
            now: ms; what has expired is passed over.

        """
        own, common = self._buckets.get(instance), self._buckets.get("")
        taken: list[Parcel] = []
        if own is None or common is None:
            return taken
        horizon = self._horizon(own, common)
        total = 0
        while len(taken) < most:
            source = own
            if not own.parcels or (common.parcels and common.parcels[0].position < own.parcels[0].position):
                source = common
            if not source.parcels:
                break
            parcel = source.parcels[0]
            if horizon is not None and parcel.position >= horizon:
                break
            if parcel.expires_at is not None and parcel.expires_at <= now:
                self._known.discard(source.pop().position)
                self._kept.pop(parcel.position, None)
                continue
            total += weigh(parcel)
            if taken and total > size:
                break
            taken.append(source.pop())
            if self._kept:
                self._kept.pop(parcel.position, None)
            if parcel.tried != instance:
                parcel.tried, parcel.kept_until, parcel.free = instance, 0, False
        if taken:
            self._floors[instance] = max(self._floors.get(instance, 0), taken[-1].position)
        return taken

    def due(self, now: int) -> bool:
        """Let go of what has waited for its time; return whether there was anything."""
        released = False
        while self._times and self._times[0][0] <= now:
            _, position = heapq.heappop(self._times)
            parcel = self._held.pop(position, None)
            if parcel is None:
                parcel = self._kept.get(position)
                if parcel is None or parcel.kept_until > now or parcel.tried is None:
                    continue
                del self._kept[position]
                self._buckets[parcel.tried].remove(parcel)
            if parcel.kept_until and parcel.kept_until <= now:
                parcel.free = True
            self._put(parcel, now, returned=True)
            released = True
        # Those that are kept for one that is away, until that is not expected any more.
        for parcel in [*self._held.values()]:
            if parcel.rests_until <= now and self._owner(parcel, now) is not None:
                del self._held[parcel.position]
                self._put(parcel, now, returned=True)
                released = True
        return released

    def next_due(self) -> int | None:
        """Return when ``due`` has something to do; None: not at all."""
        return self._times[0][0] if self._times else None

    def wanted(self) -> int | None:
        """Return the position from which on messages are to be read from the file; None: none need be."""
        starts = [bucket.missing for bucket in self._buckets.values() if bucket.missing is not None and bucket.low]
        return min(starts) if starts else None

    @property
    def members(self) -> Sequence[str]:
        """The instances that are ready."""
        return list(self._members)

    def loaded(self, start: int, parcels: Sequence[Parcel], rest: int | None, now: int) -> None:
        """Take in what was read from the file: everything from ``start`` on, up to ``rest`` (None: the end)."""
        taking = {name for name, one in self._buckets.items() if one.missing is not None and one.missing >= start}
        for parcel in parcels:
            if parcel.position in self._known:
                continue
            owner = self._owner(parcel, now)
            bucket = self._buckets.get(owner) if owner is not None else None
            if bucket is not None:
                if owner not in taking and bucket.missing is not None and bucket.missing <= parcel.position:
                    continue
                if bucket.full:
                    bucket.missing = parcel.position
                    taking.discard(owner or "")
                    continue
            self._known.add(parcel.position)
            self._put(parcel, now, returned=True)
        for name in taking:
            bucket = self._buckets[name]
            bucket.missing = None if rest is None else max(rest, bucket.missing or 0)
        if self._unread is not None:
            self._miss(self._unread)
            self._unread = None

    def _put(self, parcel: Parcel, now: int, *, returned: bool = False) -> None:
        """Put a message where it belongs: to a lane, to all, on hold, or back to the file."""
        if parcel.rests_until > now:
            self._hold(parcel, parcel.rests_until)
            return
        owner = self._owner(parcel, now)
        if owner is None:
            self._hold(parcel, parcel.kept_until)
            return
        bucket = self._buckets.get(owner)
        if not self._buckets and parcel.tried is not None and parcel.instance is None:
            self._parked.append(parcel)
            return
        if bucket is None or self._another_life(parcel, owner):
            self._leave(parcel)
            return
        if not returned and (bucket.full or bucket.missing is not None):
            if bucket.missing is None:
                bucket.missing = parcel.position
            self._known.discard(parcel.position)
            self._leave_unread(parcel.position)
            return
        bucket.insert(parcel)
        if owner == parcel.tried and parcel.kept_until > now:
            self._kept[parcel.position] = parcel
            heapq.heappush(self._times, (parcel.kept_until, parcel.position))

    def _owner(self, parcel: Parcel, now: int) -> str | None:
        """Return whose a message is: an instance's, anybody's (""), or for now nobody's (None)."""
        if parcel.instance is not None:
            return parcel.instance
        if parcel.wanted:
            return parcel.wanted
        if parcel.home is not None and self._expects(parcel.home):
            return parcel.home
        owner = self._placed(parcel, self._peers)
        if parcel.free or parcel.tried == owner:
            return owner
        tried = parcel.tried
        if tried in self._members:
            return tried if now < self._patience(parcel, now) else owner
        lanes = [owner] if owner else list(self._members)
        behind = [lane for lane in lanes if self._floors.get(lane, 0) < parcel.position]
        if len(behind) == len(lanes):
            return owner
        if behind:
            return behind[0]
        # They have gone on meanwhile. The one that was to have it before may return.
        away = [peer for name, peer in self._away.items() if self._expects(name)]
        if tried is None:
            tried = self._placed(parcel, sorted([*self._peers, *away], key=_key))
        if any(tried == peer.key for peer in away) and now < self._patience(parcel, now):
            return None
        return owner

    @staticmethod
    def _placed(parcel: Parcel, peers: Sequence[Peer]) -> str:
        """Return whose a message is by its conversation or its id; anybody's if it has neither."""
        if parcel.placed is None or not peers:
            return ""
        return rendezvous(parcel.placed, peers).key if len(peers) > 1 else peers[0].key

    @staticmethod
    def _patience(parcel: Parcel, now: int) -> int:
        """Return until when a message is kept for an instance."""
        if not parcel.kept_until:
            left = PATIENCE if parcel.expires_at is None else (parcel.expires_at - now) // 2
            parcel.kept_until = now + min(PATIENCE, left)
        return parcel.kept_until

    def _another_life(self, parcel: Parcel, owner: str) -> bool:
        """Tell whether a message is pinned to a life of its instance that has ended, and its memory with it."""
        peer = self._members[owner] if parcel.instance is not None else None
        if peer is None or peer.durability != "ephemeral" or parcel.uid is None:
            return False
        return peer.uid != parcel.uid

    def _hold(self, parcel: Parcel, until: int) -> None:
        self._held[parcel.position] = parcel
        heapq.heappush(self._times, (until, parcel.position))

    def _leave_unread(self, position: int) -> None:
        if self._unread is None or position < self._unread:
            self._unread = position

    def _miss(self, position: int) -> None:
        """Have every lane read the file from a position on, if it would not do so from an earlier one."""
        for bucket in self._buckets.values():
            if bucket.missing is None or bucket.missing > position:
                bucket.missing = position

    def _leave(self, parcel: Parcel) -> None:
        """Leave a message to the file."""
        self._known.discard(parcel.position)
        self._lower(parcel.position)

    def _lower(self, position: int | None) -> None:
        if position is not None and (self._start is None or position < self._start):
            self._start = position

    @staticmethod
    def _horizon(own: _Bucket, common: _Bucket) -> int | None:
        if own.missing is None:
            return common.missing
        return own.missing if common.missing is None else min(own.missing, common.missing)
