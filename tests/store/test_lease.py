"""Tests of leadership on a hand-set clock: taken, renewed, trusted, lost and released."""

from __future__ import annotations

import pytest

from hermes_celery.errors import LeaseLost
from hermes_celery.scheduling.lease import LEASE_MS, RENEW_SECONDS, Lease
from hermes_celery.store import Database
from hermes_celery.store.leases import read_leaders
from tests.support import HandClock, Store


def lease(store: Store, owner: str) -> Lease:
    return Lease(store.database, owner=owner, clock=store.clock)


def test_only_one_beat_leads(store: Store) -> None:
    first, second = lease(store, "a"), lease(store, "b")
    assert first.hold() == 1
    assert second.hold() is None
    assert 0 < second.free_in_seconds <= LEASE_MS / 1000


def test_a_leader_renews_its_lease_only_when_it_is_time(store: Store) -> None:
    mine = lease(store, "a")
    assert mine.hold() == 1
    store.database.call("DEL", store.database.keys.lease)
    store.clock.advance(RENEW_SECONDS - 0.01)
    assert mine.hold() == 1
    store.clock.advance(0.02)
    assert mine.hold() == 2


def test_a_leader_stops_by_its_own_clock_before_its_lease_can_have_expired(store: Store) -> None:
    mine = lease(store, "a")
    mine.hold()
    store.clock.advance(LEASE_MS / 1000 * 0.89)
    assert mine.token == 1
    store.clock.advance(LEASE_MS / 1000 * 0.02)
    assert mine.token is None
    with pytest.raises(LeaseLost):
        mine.require()


def test_the_lease_counts_from_before_the_renewal_was_sent(store: Store) -> None:
    class SlowAnswer(HandClock):
        """A clock that advances by a third of a lease at each reading."""

        def monotonic(self) -> float:
            self.seconds += LEASE_MS / 1000 / 3
            return self.seconds

    slow = SlowAnswer()
    mine = Lease(store.database, owner="a", clock=slow)
    mine.hold()
    assert [mine.token for _ in range(3)][-1] is None


def test_a_leader_that_slept_past_its_term_finds_another_and_stands_by(store: Store) -> None:
    first, second = lease(store, "a"), lease(store, "b")
    first.hold()
    store.database.call("DEL", store.database.keys.lease)
    assert second.hold() == 2
    store.clock.advance(10)
    assert first.hold() is None
    assert second.hold() == 2


def test_a_beat_releases_its_lease_at_once_and_no_other_beats(store: Store) -> None:
    first, second = lease(store, "a"), lease(store, "b")
    first.hold()
    first.release()
    assert second.hold() == 2
    first.release()
    third = lease(store, "c")
    assert third.hold() is None


def test_fencing_tokens_only_rise(store: Store) -> None:
    tokens = []
    for owner in "abcde":
        mine = lease(store, owner)
        tokens.append(mine.hold())
        mine.release()
    assert tokens == [1, 2, 3, 4, 5]


def test_a_token_that_a_failover_lost_is_never_used_again(
    valkey: Database, clock: HandClock
) -> None:
    """The replica that became the master has not received the last term."""
    store, keys = Store(valkey, clock), valkey.keys
    first, second = lease(store, "a"), lease(store, "b")
    first.hold()
    first.release()
    assert first.hold() == 2
    valkey.call("SET", keys.term, 1)
    valkey.call("HSET", keys.leader, "server", "the one before")
    valkey.call("DEL", keys.lease)
    assert second.hold() == 1002
    # The first one still trusts its own clock; its writes are fenced, and it stands by.
    assert first.token == 2
    with pytest.raises(LeaseLost):
        store.due.advance([], token=2, now_ms=clock.ms)
    clock.advance(RENEW_SECONDS + 0.01)
    assert first.hold() is None
    assert second.hold() == 1002


@pytest.mark.parametrize("terms", [1, 2, 5])
def test_on_an_emptied_server_no_beat_leads_with_a_term_that_a_living_beat_knows(
    store: Store, terms: int
) -> None:
    first, second = lease(store, "a"), lease(store, "b")
    for _ in range(terms):
        first.release()
        first.hold()
    assert first.token == terms
    assert second.hold() is None
    keys = store.database.keys
    store.database.call("DEL", keys.lease, keys.term, keys.leader)
    store.clock.advance(RENEW_SECONDS + 0.01)
    # This holds for every beat that asks first, also for the standby.
    assert second.hold() == terms + 1000
    assert first.hold() is None
    store.database.call("DEL", keys.lease, keys.term, keys.leader)
    assert first.hold() == terms + 2000


def test_a_term_written_by_hand_is_not_remembered(store: Store) -> None:
    first, second = lease(store, "a"), lease(store, "b")
    first.hold()
    store.database.call("SET", store.database.keys.term, "9" * 15)
    assert second.hold() is None
    keys = store.database.keys
    store.database.call("DEL", keys.lease, keys.term, keys.leader)
    assert second.hold() == 1


@pytest.mark.parametrize("term", ["007", "00", "0" * 15, "9" * 16, "+7", "-1", "7 ", "", "٣"])
def test_a_term_that_cannot_be_incremented_is_reported_and_does_not_prevent_leading(
    store: Store, term: str
) -> None:
    keys = store.database.keys
    store.database.call("SET", keys.term, term)
    assert keys.term in [fault.key for fault in read_leaders(store.database).faults]
    assert lease(store, "a").hold() == store.clock.ms
    assert read_leaders(store.database).faults == []


@pytest.mark.parametrize("term", [0, 7, 10, 10**14])
def test_the_next_term_is_the_stored_term_plus_one(store: Store, term: int) -> None:
    store.database.call("SET", store.database.keys.term, term)
    assert read_leaders(store.database).term == term
    assert lease(store, "a").hold() == term + 1


def test_a_leader_whose_token_exceeds_the_stored_term_does_not_block_the_others(
    valkey: Database, clock: HandClock
) -> None:
    store = Store(valkey, clock)
    first, second = lease(store, "a"), lease(store, "b")
    first.hold()
    valkey.call("SET", valkey.keys.term, 0)
    clock.advance(RENEW_SECONDS + 0.01)
    # The server kept the lease and lost the term: the leader must ask again and is refused.
    assert first.hold() is None
    valkey.call("DEL", valkey.keys.lease)
    assert second.hold() == 1
    assert first.hold() is None
