"""The record of a comparison: an SQLite database of every score, from which all tables are made.

A score is identified by what it depends on: the bytes of the image, the prompt, and the *configuration* of the metric (its
name, its options, its weights, the version of the code). It is written as soon as it is known, and never computed again; a
failure is kept with its reason, and the next run tries again. Processes on one machine may share a database. An index over
all columns of each table, TABLE_copy, tells a damaged row (`store_check.py`), and what is not damaged is read (`rescue.py`).

The module `tables` describes its tables.
"""

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from align_iqa_plugin.compare.rescue import rescue
from align_iqa_plugin.compare.store_check import add_copies, check_definitions, check_rows, definitions, drop_copies
from align_iqa_plugin.compare.tables import FROM_LAYOUT_1, FROM_LAYOUT_2, FROM_LAYOUT_3, LAYOUT, NOT_SCORED, TABLES, VIEWS
from align_iqa_plugin.runtime.counts import counted

if TYPE_CHECKING:
    import pandas

BUSY_SECONDS = 60  # how long a process waits for another one's writing, which takes milliseconds


class StoreError(Exception):
    """The database cannot be used; the message names it and says why."""


@dataclass(frozen=True)
class LabelledImage:
    """One image of a data set, or a copy; the fields are the columns of the table `images` from `image` on."""

    image: str
    path: str
    sha256: str
    prompt: str = ''
    prompt_id: str = ''
    generator: str = ''
    style: str = ''
    mos: float = float('nan')
    mos_std: float = float('nan')
    mos_align: float = float('nan')
    other_prompt: str = ''
    problem: str = ''
    copy: str = ''
    level: int = 0


@dataclass(frozen=True)
class Configuration:
    """What a metric's scores depend on, and how to read them; the fields are columns of the table `configurations`."""

    metric: str
    options: str
    weights_sha256: str
    code_version: str
    score_range: str = ''
    lower_better: bool = False
    uses_prompt: bool = False

    @property
    def key(self) -> str:
        """Hash of the metric's name, options, weights and code: a score of another key is another score."""
        parts = [self.metric, self.options, self.weights_sha256, self.code_version]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


@dataclass(frozen=True)
class Pending:
    """An image that lacks scores, and the prompts that it is to be scored with."""

    sha256: str
    path: str
    prompts: tuple[str, ...]


@dataclass(frozen=True)
class Result:
    """What became of one image with one prompt: a score, or the reason why there is none."""

    sha256: str
    prompt: str
    score: float | None
    reason: str = ''
    seconds: float | None = None
    batch: int = 1
    std: float | None = None


class Store:
    """The database in a file; see `tables` for what is in it.

    It is created if there is none, and one of an earlier layout is brought to the present one. It is checked when it is opened:
    a damaged one is not used, and what can be read of scores.sqlite goes to scores.rescued.sqlite.

    Raises:
        StoreError: the file is another database, or none, is damaged, or cannot be read or written.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        try:
            # two processes that create a database at once would fail at the change to WAL, for which SQLite does not wait
            (locks := self.path.with_name('.locks')).mkdir(exist_ok=True)
            with FileLock(locks / self.path.name, timeout=BUSY_SECONDS), ExitStack() as problem:
                self._database = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None)
                problem.callback(self._database.close)
                try:
                    self._create()
                except sqlite3.OperationalError:
                    raise
                # a message of SQLite may quote bytes of the file that are no text
                except (sqlite3.Error, UnicodeDecodeError) as error:
                    raise StoreError(
                        f"'{self.path}' cannot be used as the database of the scores, because it is damaged, or no database "
                        f'({error}): {self._way_out()}.'
                    ) from error
                problem.pop_all()
        except sqlite3.Error as error:
            raise StoreError(
                f"'{self.path}' cannot be used as the database of the scores: {error}. Move it away, or choose another folder."
            ) from error
        except Timeout as error:
            raise StoreError(f"'{self.path}' is held by another process for more than {BUSY_SECONDS} s.") from error
        except OSError as error:
            raise StoreError(f"'{self.path}' cannot be opened: {error.strerror}.") from error

    def _create(self) -> None:
        check_rows(self._database, self.path.stat().st_size if self.path.exists() else 0)
        (layout,) = self._database.execute('PRAGMA user_version').fetchone()
        (tables,) = self._database.execute('SELECT count(*) FROM sqlite_master').fetchone()
        if layout not in ((1, 2, 3, LAYOUT) if tables else (0,)):
            raise StoreError(f"'{self.path}' is not a database of this version: choose another folder.")
        self._database.execute('PRAGMA journal_mode = WAL')
        self._database.execute('PRAGMA synchronous = NORMAL')
        if layout != LAYOUT:
            change = {0: f'{TABLES}{VIEWS}', 1: FROM_LAYOUT_1, 2: FROM_LAYOUT_2, 3: FROM_LAYOUT_3}[layout]
            old = drop_copies(self._database)
            self._database.executescript(f'BEGIN IMMEDIATE; {old} {change} PRAGMA user_version = {LAYOUT}; COMMIT;')
        add_copies(self._database)
        with closing(sqlite3.connect(':memory:')) as fresh:
            fresh.executescript(f'{TABLES}{VIEWS}')
            add_copies(fresh)
            check_definitions(self._database, definitions(fresh))

    def _way_out(self) -> str:
        """What to do about a damaged database, of which what can be read is written beside it."""
        rescued = self.path.with_stem(f'{self.path.stem}.rescued')
        again = 'put back a copy of it, or move it away, and the command computes its scores again'
        try:
            count = rescue(self._database, rescued)
        except FileExistsError:
            found = 'was rescued from it, or from another, before'
        except (OSError, sqlite3.Error) as error:
            return f'{again}; what can be read of it cannot be kept: {error}'
        else:
            found = f'has {counted(count, "score")} that can be read of it'
            if not count:
                return again
        return f"put back a copy of it, or put '{rescued}' in its place, which {found}, and the command computes the rest"

    def __enter__(self) -> 'Store':
        return self

    def __exit__(self, *exception) -> None:
        self._database.close()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction, which waits for those of other processes: all that is written inside is kept, or nothing."""
        try:
            self._database.execute('BEGIN IMMEDIATE')
            try:
                yield self._database
            except BaseException:
                self._database.execute('ROLLBACK')
                raise
            self._database.execute('COMMIT')
        except sqlite3.Error as error:
            raise StoreError(f"'{self.path}' cannot be written: {error}.") from error

    @contextmanager
    def claim(self, configuration: Configuration, *, wait: bool = True) -> Iterator[bool]:
        """Keep other processes from scoring with this configuration at the same time; gives whether that succeeded.

        The claim ends with the process, however it ends.

        Args:
            wait: until the other process has finished, where one has the claim.
        """
        locks = self.path.with_name('.locks')
        locks.mkdir(exist_ok=True)
        lock = FileLock(locks / configuration.key[:16], timeout=-1 if wait else 0)
        try:
            lock.acquire()
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def check_images(self, datasets: Mapping[str, Sequence[LabelledImage]]) -> None:
        """See that data sets have images in common with those of their names here, whose labels they are to replace.

        Raises:
            StoreError: one has none: it is another table of that name, or another part of one.
        """
        for name, images in datasets.items():
            query = "SELECT DISTINCT sha256 FROM images WHERE dataset = :dataset AND copy = '' AND sha256 != ''"
            known = {sha256 for (sha256,) in self._read(query, {'dataset': name})}
            new = {each.sha256 for each in images} - {''}
            if known and new and known.isdisjoint(new):
                raise StoreError(
                    f"'{self.path.parent}' has a data set '{name}' without any of these images, whose results would be "
                    'replaced: choose another folder with --out, or give the table another name.'
                )

    def put_images(self, dataset: str, images: Sequence[LabelledImage]) -> None:
        """Replace the labels of a data set, and its copies; scores are kept, since they belong to the images' contents."""
        marks = ', '.join('?' * (2 + len(fields(LabelledImage))))
        with self._writing() as database:
            database.execute('DELETE FROM images WHERE dataset = ?', [dataset])
            rows = ((dataset, position, *astuple(image)) for position, image in enumerate(images))
            database.executemany(f'INSERT INTO images VALUES ({marks})', rows)

    def put_metric(self, configuration: Configuration, device: str) -> None:
        """From now on, this configuration is the one of its metric that counts."""
        names = ', '.join(field.name for field in fields(Configuration))
        marks = ', '.join('?' * (1 + len(fields(Configuration))))
        with self._writing() as database:
            database.execute(
                f'INSERT INTO configurations (configuration, {names}) VALUES ({marks}) '
                'ON CONFLICT (configuration) DO UPDATE SET score_range = excluded.score_range, '
                'lower_better = excluded.lower_better, uses_prompt = excluded.uses_prompt',
                [configuration.key, *astuple(configuration)],
            )
            database.execute(
                "INSERT INTO metrics VALUES (?, ?, 1, '', ?, NULL, NULL) ON CONFLICT (metric) DO UPDATE SET "
                # what was measured on another device or with other weights no longer counts
                'decode_seconds = iif(configuration IS excluded.configuration, decode_seconds, NULL), '
                'peak_mb = iif(configuration IS excluded.configuration AND device = excluded.device, peak_mb, NULL), '
                "configuration = excluded.configuration, device = excluded.device, available = 1, reason = ''",
                [configuration.metric, configuration.key, device],
            )

    def put_unavailable(self, metric: str, reason: str) -> None:
        """The metric cannot be loaded; scores that it gave before are kept."""
        with self._writing() as database:
            database.execute(
                "INSERT INTO metrics VALUES (?, NULL, 0, ?, '', NULL, NULL) "
                'ON CONFLICT (metric) DO UPDATE SET available = 0, reason = excluded.reason',
                [metric, reason],
            )

    def put_costs(self, metric: str, *, decode_seconds: float | None, peak_mb: float | None) -> None:
        """What was measured of a metric; None leaves what was measured before."""
        with self._writing() as database:
            database.execute(
                'UPDATE metrics SET decode_seconds = coalesce(?, decode_seconds), peak_mb = coalesce(?, peak_mb) '
                'WHERE metric = ?',
                [decode_seconds, peak_mb, metric],
            )

    def put_comparison(self, dataset: str, metric: str) -> None:
        """The metric is asked for on the data set: the tables have rows for the two."""
        with self._writing() as database:
            database.execute('INSERT OR IGNORE INTO comparisons VALUES (?, ?)', [dataset, metric])

    def pending(self, dataset: str, configuration: Configuration) -> list[Pending]:
        """The images and copies of a data set that lack a score of this configuration, each content once, in their order."""
        wanted = (
            "SELECT sha256, path, position, 0 AS shuffled, '' AS prompt FROM images WHERE dataset = :dataset AND problem = ''"
        )
        if configuration.uses_prompt:
            wanted = wanted.replace("'' AS prompt", 'prompt') + (
                ' UNION ALL SELECT sha256, path, position, 1, other_prompt FROM images '
                "WHERE dataset = :dataset AND problem = '' AND other_prompt != ''"
            )
        rows = self._read(
            f'SELECT sha256, path, prompt FROM ({wanted}) AS wanted WHERE NOT EXISTS (SELECT 1 FROM scores WHERE '
            'configuration = :configuration AND scores.sha256 = wanted.sha256 AND scores.prompt = wanted.prompt '
            'AND score IS NOT NULL) ORDER BY position, shuffled',
            {'dataset': dataset, 'configuration': configuration.key},
        )
        paths: dict[str, str] = {}
        prompts: dict[str, dict[str, None]] = {}
        for sha256, path, prompt in rows:
            paths.setdefault(sha256, path)
            prompts.setdefault(sha256, {})[prompt] = None
        return [Pending(sha256, path, tuple(prompts[sha256])) for sha256, path in paths.items()]

    def _read(self, query: str, values: Mapping[str, str]) -> list[tuple]:
        try:
            return self._database.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise StoreError(f"'{self.path}' cannot be read: {error}.") from error

    def put_scores(self, configuration: Configuration, results: Iterable[Result], device: str) -> None:
        """Write results in one transaction. A score that is there stays; a failure is replaced by the new result."""
        rows = [
            (configuration.key, each.sha256, each.prompt, each.score, each.reason, each.seconds, each.batch, device, each.std)
            for each in results
        ]
        with self._writing() as database:
            database.executemany(
                'INSERT INTO scores (configuration, sha256, prompt, score, reason, seconds, batch, device, std) '
                'VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (configuration, sha256, prompt) DO UPDATE SET '
                'score = excluded.score, std = excluded.std, reason = excluded.reason, '
                'seconds = excluded.seconds, batch = excluded.batch, device = excluded.device, scored_at = excluded.scored_at '
                'WHERE scores.score IS NULL',
                rows,
            )

    def score_table(self) -> 'pandas.DataFrame':
        """A row for each data set, metric and image.

        Columns: dataset, metric, image, path, sha256, prompt, prompt_id, generator, style, mos, mos_std, mos_align, score
        (NaN where there is none), std (of the error of the score), reason ('' where there is a score), lower_better,
        uses_prompt, shuffled_score (the score with `other_prompt`, for metrics that take prompts), seconds. Numbers that are
        not known are NaN, texts ''.
        """
        return self._table('SELECT * FROM score_table')

    def copy_table(self) -> 'pandas.DataFrame':
        """A row for each data set, metric and copy, with the images of the sample as copies named 'original'.

        Metrics that were not asked to score the copies of a data set are left out. Columns: dataset, metric, image and prompt
        (of the image that was copied; '' for none), copy, level, path (the URI of the copy), sha256, score, reason,
        lower_better, uses_prompt; missing values as in `score_table`.
        """
        table = self._table('SELECT * FROM copy_table')
        tried = (table['copy'] != 'original') & (table['reason'] != NOT_SCORED)
        return table[tried.groupby([table['dataset'], table['metric']]).transform('any')].reset_index(drop=True)

    def metric_table(self) -> 'pandas.DataFrame':
        """A row for each metric that was asked for.

        Columns: metric, available, reason, score_range, device, seconds (mean for one image of the data sets, warm, without
        decoding), decode_seconds, peak_mb, options (JSON), weights_sha256, code_version, lower_better, uses_prompt.
        """
        return self._table(
            "SELECT metric, available, reason, coalesce(score_range, '') AS score_range, device, "
            '(SELECT avg(seconds) FROM scores WHERE scores.configuration = metrics.configuration '
            'AND scores.device = metrics.device '
            "AND scores.sha256 IN (SELECT sha256 FROM images WHERE copy = '')) AS seconds, "
            "decode_seconds, peak_mb, coalesce(options, '{}') AS options, coalesce(weights_sha256, '') AS weights_sha256, "
            "coalesce(code_version, '') AS code_version, coalesce(lower_better, 0) AS lower_better, "
            'coalesce(uses_prompt, 0) AS uses_prompt '
            'FROM metrics LEFT JOIN configurations USING (configuration, metric) ORDER BY metric'
        )

    def _table(self, query: str) -> 'pandas.DataFrame':
        import pandas

        try:
            table = pandas.read_sql_query(query, self._database)
        except (sqlite3.Error, pandas.errors.DatabaseError) as error:
            raise StoreError(f"'{self.path}' cannot be read: {error}.") from error
        kinds: dict[str, type] = dict.fromkeys(('available', 'lower_better', 'uses_prompt'), bool)
        numbers = ('mos', 'mos_std', 'mos_align', 'score', 'std', 'shuffled_score', 'seconds', 'decode_seconds', 'peak_mb')
        kinds |= dict.fromkeys(numbers, float)
        return table.astype({name: kind for name, kind in kinds.items() if name in table})
