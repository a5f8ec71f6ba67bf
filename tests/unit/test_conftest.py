"""The net under the tests themselves."""

from __future__ import annotations

import asyncio
import os
import socket

import pytest

from tests.conftest import LeftTheMachine


@pytest.mark.parametrize("address", [("192.0.2.1", 80), ("example.invalid", 443)])
def test_a_test_cannot_reach_another_machine(address: tuple[str, int]) -> None:
    with socket.socket() as sock, pytest.raises(LeftTheMachine, match=address[0]):
        sock.connect(address)


async def test_an_asynchronous_client_cannot_reach_another_machine() -> None:
    with pytest.raises(LeftTheMachine, match=r"192\.0\.2\.1"):
        await asyncio.open_connection("192.0.2.1", 80)


def test_a_proxy_of_the_machine_is_not_seen_by_tests() -> None:
    assert not {name.lower() for name in os.environ} & {"http_proxy", "https_proxy", "all_proxy"}
