"""Whether a database of scores is as it was written: a byte that a disk or a copy changed must not become another score.

SQLite has no checksums, but its `integrity_check` compares every row with its entries in the indexes. So each table gets an
index over all its columns, `TABLE_copy`: a second copy of what it holds.
"""

import sqlite3


def add_copies(database: sqlite3.Connection) -> None:
    """Give each table the index that its rows are compared with, where it has none yet."""
    for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
        columns = [name for (name,) in database.execute('SELECT name FROM pragma_table_info(?)', [table])]
        # in another order, since an index in the order of a table's key would be that key
        database.execute(f'CREATE INDEX IF NOT EXISTS {table}_copy ON {table} ({", ".join(reversed(columns))})')


def drop_copies(database: sqlite3.Connection) -> str:
    """SQL that takes the indexes of `add_copies` away, before a table gets other columns."""
    indexes = database.execute("SELECT name FROM sqlite_master WHERE type = 'index' AND name = tbl_name || '_copy'").fetchall()
    return ' '.join(f'DROP INDEX {name};' for (name,) in indexes)


def check_rows(database: sqlite3.Connection, size: int) -> None:
    """sqlite3.DatabaseError where a row differs from its copy, or the file's structure is damaged.

    Args:
        size: of the file, in bytes.
    """
    (page,) = database.execute('PRAGMA page_size').fetchone()
    if size % page:  # SQLite takes a file of one byte for an empty one, and would write a new database into it
        raise sqlite3.DatabaseError('its end is cut off')
    (found,) = database.execute('PRAGMA integrity_check(1)').fetchone()
    if found != 'ok':
        raise sqlite3.DatabaseError(' '.join(found.split()))


def check_definitions(database: sqlite3.Connection, expected: set[str]) -> None:
    """sqlite3.DatabaseError where a table, a view or an index of ours is not defined as it is `expected` to be."""
    missing = expected - definitions(database)
    if missing:
        raise sqlite3.DatabaseError(f'a definition is changed: {min(missing).split("(")[0].strip()}')


def definitions(database: sqlite3.Connection) -> set[str]:
    """The SQL of views and indexes, and the columns of tables, whose SQL depends on the version that made them."""
    sql = "SELECT sql FROM sqlite_master WHERE type != 'table' AND sql IS NOT NULL"
    columns = (
        "SELECT printf('%s (%s %s %d', tables.name, columns.name, columns.type, columns.pk) "
        "FROM sqlite_master AS tables, pragma_table_info(tables.name) AS columns WHERE tables.type = 'table'"
    )
    return {text for query in (sql, columns) for (text,) in database.execute(query)}
