"""What engines share: connections that write, connections that read, and what is said when one breaks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from ingest.errors import ConfigError, Stop


def refuse_option(error: TypeError, *, opened: bool) -> None:
    """ConfigError where a driver was given an option of the URL that it does not have."""
    if not opened and "unexpected keyword argument" in str(error):
        option = str(error).partition("argument ")[2]
        raise ConfigError(
            f"has an option that the driver does not take: {option}",
            where="database.url",
            hint="leave it out",
        ) from None


class Connected(ABC):
    """An engine by its connections."""

    _writer: AsyncEngine
    _reader: AsyncEngine

    def writer(self) -> AbstractAsyncContextManager[AsyncConnection]:
        return self._connection(self._writer)

    def reader(self) -> AbstractAsyncContextManager[AsyncConnection]:
        return self._connection(self._reader)

    @abstractmethod
    def _connection(self, engine: AsyncEngine) -> AbstractAsyncContextManager[AsyncConnection]:
        """A connection of its own; Stop when it cannot be had, or breaks."""

    async def close(self) -> None:
        await self._writer.dispose()
        await self._reader.dispose()


class Server(Connected):
    """The engine of a server's database."""

    def __init__(self, url: sa.URL, scheme: str, drivers: Sequence[str]) -> None:
        #: `drivers`: those there are, the preferred one first
        driver = url.drivername.partition("+")[2] or drivers[0]
        if driver not in drivers:
            raise ConfigError(
                f"{driver} is not a driver this version uses", where="database.url", hint=" or ".join(drivers)
            )
        self._scheme, self._url = scheme, url.set(drivername=f"{scheme}+{driver}")

    @property
    def place(self) -> str:
        port = f":{self._url.port}" if self._url.port else ""
        return f"{self._scheme}://{self._url.host or ''}{port}/{self._url.database or ''}"

    async def exists(self) -> bool:
        async with self.reader():
            return True

    async def compact(self, tables: Collection[sa.Table]) -> None:
        async with self.writer() as connection:
            alone = await connection.execution_options(isolation_level="AUTOCOMMIT")
            for table in tables:
                await alone.exec_driver_sql(self._anew(alone.dialect.identifier_preparer.format_table(table)))

    def words(self, connection: sa.Connection) -> list[str]:
        return []

    @property
    def files(self) -> list[Path]:
        return []

    @staticmethod
    @abstractmethod
    def _anew(table: str) -> str:
        """The statement that writes a table anew from what is in it."""

    @asynccontextmanager
    async def _connection(self, engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
        opened = False
        try:
            async with engine.connect() as connection:
                opened = True
                yield connection
        except sa.exc.IntegrityError:
            raise
        except TypeError as error:
            refuse_option(error, opened=opened)
            raise
        except (sa.exc.DBAPIError, sa.exc.InvalidRequestError, OSError) as error:
            if opened and not isinstance(error, sa.exc.DBAPIError):
                raise
            raise self._stop(error, opened=opened) from error

    def _stop(self, error: Exception, *, opened: bool) -> Stop:
        """What is said of a connection that cannot be had, or broke."""
        said = self._said(error)
        if not opened:
            return Stop(f"cannot be reached: {said}", where=self.place, hint="check database.url")
        return Stop(said, where=self.place, hint="the run goes on from here when it is put right")

    @abstractmethod
    def _said(self, error: Exception) -> str:
        """What went wrong, without the values of a row."""

    def _not_installed(self, error: ModuleNotFoundError) -> ConfigError:
        """What is said where a driver is missing."""
        hint = f"pip install 'ingest[{self._scheme}]'"
        return ConfigError(f"{error.name} is not installed", where="database.url", hint=hint)
