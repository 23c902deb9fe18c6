"""Registrations that replicas share, whichever of them a cell talks to."""

import asyncio
from typing import Any

import pytest

from cellmesh.protocol.problems import Problem
from cellmesh_operator.errors import ApiError
from support import eventually_async
from unit.discovery.fake_api import CELLS, LEASES, cell
from unit.discovery.replicas import replicas

pytestmark = pytest.mark.anyio


async def test_a_registration_with_one_replica_is_known_to_all() -> None:
    """Expect the same peers and the same ETag everywhere, and one Lease."""
    async with replicas(3) as three:
        one, *_ = three
        one.register("pure", level=3.2)
        await three.see("pure")
        assert {replica.answer()["etag"] for replica in three} == {one.answer()["etag"]}
        assert {replica.answer()["peers"][0]["level"] for replica in three} == {3.2}
        assert len(three.api.leases()) == 1


async def test_a_cell_that_leaves_at_another_replica_is_gone_everywhere() -> None:
    """Expect no peer and no Lease."""
    async with replicas() as both:
        one, two = both
        one.register("pure")
        await both.see("pure")
        await two.leave("pure")
        await both.see()
        await eventually_async(lambda: not both.api.leases(), within=5, message="the Lease to be gone")


async def test_beats_at_one_replica_keep_the_cell_with_all_and_every_second_one_is_written() -> None:
    """Expect a living cell to be known for ever, at half the writes."""
    async with replicas() as both:
        one, _ = both
        one.register("pure")
        await both.see("pure")
        for _ in range(12):
            await both.pass_time(5)
            assert await one.beat("pure")
            await both.see("pure")
        await both.written()
        assert one.sharing.writes == {"register": 1, "renew": 6}


async def test_beats_that_take_turns_keep_the_cell_with_all() -> None:
    """Expect it known for ever when each beat goes to another replica."""
    async with replicas() as both:
        one, two = both
        one.register("pure")
        await both.see("pure")
        for number in range(12):
            await both.pass_time(5)
            assert await (two, one)[number % 2].beat("pure")
            await both.written()
            await both.see("pure")


async def test_a_silent_cell_is_gone_from_all_after_fifteen_seconds() -> None:
    """Expect it with all just before, with none and without a Lease after."""
    async with replicas() as both:
        one, two = both
        one.register("pure")
        await both.see("pure")
        await both.pass_time(5)
        await two.beat("pure")
        await both.written()
        await both.pass_time(14.5)
        assert [replica.names() for replica in both] == [["pure"], ["pure"]]
        await both.pass_time(1)
        await both.see()
        assert both.api.leases() == {}
        assert sum(replica.discovery.counters.expired for replica in both) == 1


async def test_a_cell_whose_replica_died_is_let_go_by_the_others() -> None:
    """Expect it to stay for as long as the dead one may have heard it, and not longer."""
    async with replicas() as both:
        one, two = both
        one.register("pure")
        await both.see("pure")
        one.sharing.expire = lambda _now: None  # type: ignore[method-assign] - as if it were dead
        await both.pass_time(22)
        assert two.names() == ["pure"]
        await both.pass_time(1)
        await both.see()


async def test_a_beat_that_no_watch_has_told_of_finds_the_lease() -> None:
    """Expect 200 at a replica whose watch lags, and 404 for a name that nobody has."""
    async with replicas() as both:
        one, two = both
        both.api.silent = True
        one.register("pure")
        await both.written()
        assert two.names() == []
        assert await two.beat("pure")
        assert not await two.beat("nobody")
        both.api.silent = False


async def test_a_cell_may_leave_where_no_watch_has_told_of_it() -> None:
    """Expect the Lease to be found, and removed."""
    async with replicas() as both:
        one, two = both
        both.api.silent = True
        one.register("pure")
        await both.written()
        await two.leave("pure")
        await both.written()
        assert both.api.leases() == {}
        both.api.silent = False


async def test_a_replica_that_starts_knows_what_is_shared() -> None:
    """Expect the registration from its first list, with a full time to live."""
    async with replicas() as both:
        one, two = both
        one.register("pure")
        await both.see("pure")
        two.discovery.registry.discard(("m", "pure", "pure"))
        two.sharing.mirror._held.clear()
        both.api.cut()
        await both.see("pure")


async def test_the_newest_registration_wins_with_all() -> None:
    """Expect the second one's port, whichever replica took it, and it to stay so after a beat at the first."""
    async with replicas() as both:
        one, two = both
        one.register("pure", port=1)
        await both.see("pure")
        two.register("pure", port=2)
        await both.written()
        await eventually_async(lambda: ports(both) == [2, 2], within=5, message="the newest port")
        await both.pass_time(8)
        await one.beat("pure")
        await both.written()
        assert ports(both) == [2, 2]


async def test_a_beat_that_meets_a_newer_registration_does_not_undo_it() -> None:
    """Expect the newer content when the replica that was beaten had not seen it yet."""
    async with replicas() as both:
        one, two = both
        one.register("pure", port=1)
        await both.see("pure")
        both.api.silent = True
        two.register("pure", port=2)
        await eventually_async(lambda: not two.sharing.unwritten, within=5, message="the newer to be written")
        await both.pass_time(8)
        await one.beat("pure")
        await both.written()
        both.api.silent = False
        both.api.cut()
        await eventually_async(lambda: ports(both) == [2, 2], within=5, message="the newest port")


def ports(both: Any) -> list[int]:
    """Return the port that each replica tells of its only peer."""
    return [replica.answer()["peers"][0]["port"] for replica in both]


async def test_what_two_replicas_write_at_once_is_settled() -> None:
    """Expect both to agree after registering the same cell at the same moment."""
    async with replicas() as both:
        for replica, port in zip(both, (1, 2), strict=True):
            replica.register("pure", port=port)
        await both.written()
        await eventually_async(lambda: len(set(ports(both))) == 1, within=5, message="agreement")
        assert len(both.api.leases()) == 1


async def test_while_the_api_server_is_away_registrations_and_beats_are_taken_and_none_expires() -> None:
    """Expect both kinds to be answered, the silent to stay, and all of it to be shared afterwards."""
    async with replicas() as both:
        one, two = both
        one.register("silent")
        await both.see("silent")
        both.api.away = True
        both.api.cut()
        await eventually_async(lambda: not any(r.cluster.in_contact for r in both), within=5, message="the loss")
        two.register("late")
        await both.pass_time(60)
        assert await two.beat("late")
        assert one.names() == ["silent"]
        assert two.names() == ["late", "silent"]
        both.api.away = False
        await eventually_async(lambda: all(r.cluster.in_contact for r in both), within=10, message="contact")
        await both.written()
        await eventually_async(lambda: "late" in one.names(), within=10, message="the late one to be shared")


async def test_after_the_api_server_was_away_cells_have_time_to_be_heard() -> None:
    """Expect the silent to stay for as long as after a start, and then to go."""
    async with replicas(settle=6.0) as both:
        one, _ = both
        one.register("pure")
        await both.see("pure")
        both.api.away = True
        both.api.cut()
        await both.pass_time(60)
        both.api.away = False
        await eventually_async(lambda: all(r.cluster.in_contact for r in both), within=10, message="contact")
        await both.pass_time(5)
        assert one.names() == ["pure"]
        await both.pass_time(2)
        await both.see()


async def test_a_registration_that_was_renewed_elsewhere_does_not_expire_here() -> None:
    """Expect the deletion of a version that is not the newest any more to be refused, and the cell to stay."""
    async with replicas() as both:
        one, two = both
        one.register("pure")
        await both.see("pure")
        both.api.silent = True
        for _ in range(10):
            await both.pass_time(4)
            assert await two.beat("pure")
            await both.written()
            assert one.names() == ["pure"]
        assert [replica.discovery.counters.expired for replica in both] == [0, 0]
        both.api.silent = False


async def test_an_edited_label_is_no_sign_of_life() -> None:
    """Expect a silent cell to be gone in time although somebody writes its Lease."""
    async with replicas() as both:
        one, _ = both
        one.register("pure")
        await both.see("pure")
        for number in range(3):
            await both.pass_time(4)
            (lease,) = both.api.leases().values()
            lease["metadata"]["labels"]["note"] = str(number)
            version = both.api.put(LEASES, lease)["metadata"]["resourceVersion"]
            await eventually_async(lambda v=version: versions(both) == {v}, within=5, message="the edit to be seen")
        await both.pass_time(4)
        await both.see()


def versions(both: Any) -> set[str]:
    """Return the versions in which replicas know their only Lease."""
    return {replica.sharing._lease(("m", "pure", "pure")).version for replica in both}


async def test_what_a_replica_let_go_is_gone_there_before_a_watch_says_so() -> None:
    """Expect neither an expired registration nor one that was taken back to wait for an echo."""
    async with replicas(1) as alone:
        (one,) = alone
        for name in ("silent", "leaver"):
            one.register(name)
        await alone.written()
        alone.api.silent = True
        await one.leave("leaver")
        await alone.pass_time(15)
        await alone.written()
        assert (one.names(), alone.api.leases(), one.sharing._lease(("m", "leaver", "leaver"))) == ([], {}, None)
        alone.api.silent = False


async def test_a_lease_under_a_cells_name_is_not_taken_in_and_removed() -> None:
    """Expect what a replica wrote that did not know of the Cell to be cleared away."""
    async with replicas() as both:
        one, _ = both
        one.register("pure")
        await both.see("pure")
        (lease,) = both.api.leases().values()
        both.api.put(CELLS, cell("pure"))
        await eventually_async(lambda: not both.api.leases(), within=5, message="the Lease to be gone")
        both.api.put(LEASES, {**lease, "metadata": {**lease["metadata"], "uid": "another"}})
        await eventually_async(lambda: not both.api.leases(), within=5, message="the Lease to be gone again")
        assert [replica.names() for replica in both] == [[], []]


async def test_a_beat_during_the_deletion_of_its_lease_brings_it_back() -> None:
    """Expect the cell to be known and shared, whatever the order."""
    async with replicas() as both:
        one, _ = both
        one.register("pure")
        await both.see("pure")
        reached, go_on = asyncio.Event(), asyncio.Event()

        async def hold() -> None:
            reached.set()
            await go_on.wait()

        both.api.stop_before = lambda verb: hold() if verb == "delete" else None
        for replica in both:
            replica.now += 15
            for reflector in replica.cluster.reflectors:
                reflector.confirmed = replica.now
        one.discovery.tick()
        await reached.wait()
        assert await one.beat("pure")
        go_on.set()
        await both.written()
        await both.see("pure")
        assert len(both.api.leases()) == 1


async def test_a_deregistration_spares_the_successor_that_registered_meanwhile_elsewhere() -> None:
    """Expect a new registration at another replica to survive the late deletion of the old one."""
    async with replicas() as both:
        one, two = both
        one.register("pure", port=1)
        await both.see("pure")
        go_on = asyncio.Event()
        both.api.stop_before = lambda verb: go_on.wait() if verb == "delete" else None
        await one.leave("pure")
        two.register("pure", port=2)
        await eventually_async(lambda: not two.sharing.unwritten, within=5, message="the successor's write")
        go_on.set()
        await both.written()
        await both.see("pure")
        assert ports(both) == [2, 2]


async def test_a_lease_deleted_by_hand_ends_the_registration() -> None:
    """Expect it gone everywhere, and the cell told to register again at its next beat."""
    async with replicas() as both:
        one, _ = both
        one.register("pure")
        await both.see("pure")
        (name,) = both.api.leases()
        both.api.remove(LEASES, "d", name)
        await both.see()
        assert not await one.beat("pure")


async def test_a_registration_under_a_cells_name_is_refused() -> None:
    """Expect 409, and no Lease."""
    async with replicas() as both:
        one, _ = both
        both.api.put(CELLS, cell("pure"))
        await eventually_async(lambda: one.answer("pure")["known"], within=5, message="the Cell")
        with pytest.raises(Problem, match="is a Cell of mesh m") as caught:
            one.register("pure")
        assert (caught.value.code, caught.value.http_status, both.api.leases()) == ("name_taken", 409, {})


async def test_a_registration_gives_way_to_a_cell_that_comes_later_with_its_lease() -> None:
    """Expect the Cell's name to be free of it on all replicas."""
    async with replicas() as both:
        one, _ = both
        one.register("pure")
        await both.see("pure")
        both.api.put(CELLS, cell("pure"))
        await both.see()
        await eventually_async(lambda: not both.api.leases(), within=5, message="the Lease to be gone")
        assert all(replica.answer("pure")["known"] for replica in both)


async def test_the_bound_counts_what_others_took() -> None:
    """Expect 429 at a replica that has taken none itself."""
    async with replicas(max_registrations=2) as both:
        one, two = both
        one.register("a")
        one.register("b")
        await both.see("a", "b")
        with pytest.raises(Problem) as caught:
            two.register("c")
        assert caught.value.http_status == 429


async def test_a_refused_write_is_tried_again_and_the_registration_still_expires() -> None:
    """Expect the cell to be served by its replica although no Lease may be made, and not for ever."""
    async with replicas() as both:
        one, _ = both
        both.api.refuse["create"] = ApiError(403, "Forbidden", "exceeded quota")
        one.register("pure")
        await eventually_async(lambda: one.sharing.failures > 1, within=5, message="attempts")
        assert one.names() == ["pure"]
        for _ in range(16):
            for replica in both:
                replica.now += 1
                for reflector in replica.cluster.reflectors:
                    reflector.confirmed = replica.now
                replica.discovery.tick()
        await eventually_async(lambda: tick(one) == [], within=5, message="the silent to be gone")


def tick(replica: Any) -> list[str]:
    """Look at the clock, and return who is there."""
    replica.discovery.tick()
    return list(replica.names())


async def test_a_lease_that_nobody_understands_does_no_harm() -> None:
    """Expect it to be left alone, and others to be shared."""
    async with replicas() as both:
        one, _ = both
        both.api.put(
            LEASES,
            {"metadata": {"name": "strange", "namespace": "d", "annotations": {"cellmesh.dev/peer": "{"}}, "spec": {}},
        )
        one.register("pure")
        await both.see("pure")
        assert "strange" in both.api.leases()
