"""The rate budget: even spacing, a pause and half the rate after a 429, and the way back."""

from __future__ import annotations

import asyncio

import pytest

from ingest.errors import ConfigError
from ingest.fetch.rate import RECOVERY, SLOWEST, Rate, per_second
from tests.unit.client_kit import FakeClock


@pytest.mark.parametrize(
    ("text", "expected"), [("20/s", 20.0), ("90/m", 1.5), ("3600/h", 1.0), ("3/10s", 0.3), ("0.5 / s", 0.5)]
)
def test_a_rate_is_requests_over_a_time(text: str, expected: float) -> None:
    assert per_second(text) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["20", "fast", "0/s", "20/0s", "-1/s", "20/week", "/s"])
def test_what_is_no_rate_is_refused_with_its_place(text: str) -> None:
    with pytest.raises(ConfigError, match=r"job\.toml: rate: .* is not a rate"):
        per_second(text, "job.toml: rate")


async def send(rate: Rate, clock: FakeClock, times: int) -> list[float]:
    sent = []
    for _ in range(times):
        await rate.acquire()
        sent.append(clock.monotonic())
    return sent


async def test_requests_are_spaced_evenly() -> None:
    clock = FakeClock()
    assert await send(Rate(4.0, clock), clock, 4) == [0.0, 0.25, 0.5, 0.75]


async def test_an_idle_source_does_not_save_up_a_burst() -> None:
    clock = FakeClock()
    rate = Rate(4.0, clock)
    await rate.acquire()
    clock.seconds = 100.0
    assert await send(rate, clock, 3) == [100.0, 100.25, 100.5]


async def test_the_budget_is_one_for_requests_at_the_same_time() -> None:
    clock = FakeClock()
    rate = Rate(10.0, clock)
    turns = await asyncio.gather(*(rate.acquire() for _ in range(5)))
    assert sorted(turns) == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])


async def test_without_a_rate_nothing_waits() -> None:
    clock = FakeClock()
    assert await send(Rate(None, clock), clock, 100) == [0.0] * 100
    assert clock.sleeps == []


@pytest.mark.parametrize("full", [4.0, None])
async def test_a_429_holds_every_request_back_until_its_wait_is_over(full: float | None) -> None:
    clock = FakeClock()
    rate = Rate(full, clock)
    sent = await rate.acquire()
    rate.slow(30.0, sent)
    turns = await asyncio.gather(*(rate.acquire() for _ in range(3)))
    assert min(turns) == pytest.approx(30.0)
    assert len(set(turns)) == 3


class HeldClock(FakeClock):
    """Its sleepers wake when told, so that something can happen meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.asleep = asyncio.Event()
        self.wake = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        self.asleep.set()
        await self.wake.wait()
        await super().sleep(seconds)


async def test_a_request_already_waiting_its_turn_is_held_back_too() -> None:
    clock = HeldClock()
    rate = Rate(1.0, clock)
    sent = await rate.acquire()
    waiting = asyncio.create_task(rate.acquire())
    await clock.asleep.wait()
    rate.slow(60.0, sent)
    clock.wake.set()
    assert await waiting >= 60.0


async def test_a_429_halves_the_rate_and_successes_give_it_back() -> None:
    clock = FakeClock()
    rate = Rate(8.0, clock)
    rate.slow(1.0, await rate.acquire())
    assert rate.current == 4.0
    rate.recover()
    assert rate.current == pytest.approx(4.0 + 8.0 * RECOVERY)
    for _ in range(100):
        rate.recover()
    assert rate.current == 8.0


async def test_429s_of_requests_sent_before_slowing_down_count_once() -> None:
    clock = FakeClock()
    rate = Rate(100.0, clock)
    sent = [await rate.acquire() for _ in range(8)]
    for time in sent:
        rate.slow(1.0, time)
    assert rate.current == 50.0
    rate.slow(1.0, await rate.acquire())
    assert rate.current == 25.0


async def test_the_rate_never_falls_to_nothing() -> None:
    clock = FakeClock()
    rate = Rate(64.0, clock)
    for _ in range(20):
        rate.slow(1.0, await rate.acquire())
    assert rate.current == 64.0 * SLOWEST


async def test_a_longer_wait_is_not_cut_by_a_shorter_one() -> None:
    clock = FakeClock()
    rate = Rate(None, clock)
    sent = await rate.acquire()
    rate.slow(30.0, sent)
    rate.slow(1.0, sent)
    assert await rate.acquire() == pytest.approx(30.0)


async def test_a_free_source_is_asked_at_half_its_speed_after_a_429_and_is_free_again_in_the_end() -> None:
    clock = FakeClock()
    rate = Rate(None, clock)
    for _ in range(20):
        await rate.acquire()
        clock.seconds += 0.1
    rate.slow(1.0, clock.monotonic())
    assert rate.current == pytest.approx(5.0, rel=0.05)
    for _ in range(100):
        rate.recover()
    assert rate.current is None
