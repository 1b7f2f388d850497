"""What can still be read of a damaged database of the scores, as a new database."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path

from align_iqa_plugin.compare.store_check import add_copies
from align_iqa_plugin.compare.tables import LAYOUT, TABLES, VIEWS
from align_iqa_plugin.runtime.atomic import atomic_file

ORDERS = {'configurations': ['rowid'], 'scores': ['configuration', 'sha256', 'prompt']}  # in which SQLite stores the rows


def rescue(damaged: sqlite3.Connection, path: Path) -> int:
    """Write a database of the configurations and scores whose row is the same in its table and in the index TABLE_copy.

    Args:
        damaged: the connection, on which nothing else is done afterwards. Its file is not changed.
        path: of the new database.

    Returns:
        The number of scores in it; if it is 0, nothing is written.

    Raises:
        FileExistsError: there is a file at the path.
        OSError, sqlite3.Error: it cannot be written.
    """
    if path.exists():
        raise FileExistsError(path)
    damaged.execute('PRAGMA writable_schema = ON')  # to read a file whose end is cut off, too; nothing is written
    damaged.text_factory = lambda text: text.decode(errors='replace')  # such a row differs from its copy
    with closing(sqlite3.connect(':memory:')) as fresh:
        fresh.executescript(f'{TABLES}{VIEWS} PRAGMA user_version = {LAYOUT};')
        add_copies(fresh)
        for table, order in ORDERS.items():
            columns = _columns(fresh, table)
            there = _columns(damaged, table) or columns  # in earlier layouts a table has fewer
            columns = [name for name in columns if name in there]
            rows = _readable(damaged, f'{table} NOT INDEXED', columns, order)
            rows &= _readable(damaged, f'{table} INDEXED BY {table}_copy', columns, columns[::-1])
            fresh.executemany(f'INSERT INTO {table} ({", ".join(columns)}) VALUES ({", ".join("?" * len(columns))})', rows)
        fresh.commit()
        (count,) = fresh.execute('SELECT count(score) FROM scores').fetchone()
        if count:
            with atomic_file(path) as part, closing(sqlite3.connect(part)) as file:
                fresh.backup(file)
    return count


def _columns(database: sqlite3.Connection, table: str) -> list[str]:
    with suppress(sqlite3.Error):
        return [name for (name,) in database.execute('SELECT name FROM pragma_table_info(?)', [table])]
    return []


def _readable(database: sqlite3.Connection, source: str, columns: Sequence[str], order: Sequence[str]) -> set[tuple]:
    """The rows before the first page that cannot be read, and those behind the last one."""
    rows: set[tuple] = set()
    for direction in ('ASC', 'DESC'):
        keys = ', '.join(f'{key} {direction}' for key in order)
        with suppress(sqlite3.Error):
            rows.update(database.execute(f'SELECT {", ".join(columns)} FROM {source} ORDER BY {keys}'))
    return rows
