"""The tables and views of the database of the scores, in SQL.

For queries by hand (``sqlite3 DIR/scores.sqlite``); unknown texts are '', unknown numbers NULL:

``images``          the labels: one row for each image of a data set, in the order of `position`; after them the copies on
                    which the behaviour of metrics is tested, where that was asked for
    dataset, position   the key
    image, path         its name in the labels, and its file
    sha256              of the file's bytes; '' where there is no such file, and `problem` then says so
    prompt, prompt_id, generator, style
    other_prompt        the prompt of another image, for the control with prompts shuffled; '' where there is none
    mos, mos_std, mos_align   higher is better: mean and standard deviation of the opinion scores on quality (or whatever is
                        the main target), and their mean on how well the image shows its prompt
    copy, level         '' and 0 for an image; else how the copy is made of `image` (degradations.py, copies.py), 'original'
                        for the image itself as one of the sample
``configurations``  what a score depends on beside image and prompt
    configuration       the key: SHA-256 of the next four
    metric              pyiqa's name
    options             JSON
    weights_sha256      of the network's tensors
    code_version        of this package and of pyiqa
    score_range, lower_better (0, 1), uses_prompt (0, 1)
``scores``
    configuration, sha256, prompt   the key; `prompt` is '' where the metric takes none, or the image has none
    score               NULL where there is none, and `reason` then says why
    reason
    seconds             for this image, without decoding; NULL for the first call of a process, which is slower
    batch               images in that call
    device, scored_at   (UTC)
    std                 of the error of the score, in its unit; NULL where the metric states none
``metrics``         which configuration of each metric counts at present, and what it costs
    metric              the key
    configuration       the one last loaded; NULL if it never was
    available (0, 1), reason   why it could not be loaded the last time
    device, decode_seconds (mean for one image), peak_mb (for one image, weights included)
``comparisons``     (dataset, metric): what was asked for
``score_table``     a view of all these: a row for each data set, metric and image
``copy_table``      the same for the copies

For example, the mean score of each generator::

    SELECT metric, generator, avg(score) FROM score_table GROUP BY metric, generator;
"""

LAYOUT = 4
"""Of the tables below, as PRAGMA user_version. In 1, of version 0.3.0, images.problem had another name; 2 had no copies, and 3
no scores.std."""
NOT_SCORED = 'is not scored yet.'

TABLES = """
CREATE TABLE images (
    dataset TEXT, position INTEGER, image TEXT, path TEXT, sha256 TEXT, prompt TEXT, prompt_id TEXT, generator TEXT, style TEXT,
    mos REAL, mos_std REAL, mos_align REAL, other_prompt TEXT, problem TEXT, copy TEXT DEFAULT '', level INTEGER DEFAULT 0,
    PRIMARY KEY (dataset, position)
);
CREATE TABLE configurations (
    configuration TEXT PRIMARY KEY, metric TEXT, options TEXT, weights_sha256 TEXT, code_version TEXT, score_range TEXT,
    lower_better INTEGER, uses_prompt INTEGER
);
CREATE TABLE scores (
    configuration TEXT, sha256 TEXT, prompt TEXT, score REAL, reason TEXT, seconds REAL, batch INTEGER, device TEXT,
    scored_at TEXT DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ')), std REAL,
    PRIMARY KEY (configuration, sha256, prompt)
) WITHOUT ROWID;
CREATE TABLE metrics (
    metric TEXT PRIMARY KEY, configuration TEXT, available INTEGER, reason TEXT, device TEXT, decode_seconds REAL, peak_mb REAL
);
CREATE TABLE comparisons (dataset TEXT, metric TEXT, PRIMARY KEY (dataset, metric)) WITHOUT ROWID;
"""
_REASON = (
    f"CASE WHEN problem != '' THEN problem WHEN own.configuration IS NULL THEN '{NOT_SCORED}' ELSE own.reason END AS reason"
)
_OWN_SCORES = """
FROM comparisons JOIN images USING (dataset) JOIN metrics USING (metric) JOIN configurations USING (configuration)
LEFT JOIN scores AS own
    ON own.configuration = metrics.configuration AND own.sha256 = images.sha256
    AND own.prompt = CASE WHEN uses_prompt THEN images.prompt ELSE '' END
"""
VIEWS = f"""
CREATE VIEW score_table AS
SELECT
    images.dataset, metrics.metric, images.image, images.path, images.sha256, images.prompt, images.prompt_id, images.generator,
    images.style, images.mos, images.mos_std, images.mos_align, own.score, own.std, {_REASON},
    lower_better, uses_prompt, other.score AS shuffled_score, own.seconds
{_OWN_SCORES}
LEFT JOIN scores AS other
    ON uses_prompt AND other_prompt != ''
    AND other.configuration = metrics.configuration AND other.sha256 = images.sha256 AND other.prompt = other_prompt
WHERE copy = '' ORDER BY images.dataset, metrics.metric, images.position;
CREATE VIEW copy_table AS
SELECT
    images.dataset, metrics.metric, images.image, images.prompt, copy, level, images.path, images.sha256, own.score, {_REASON},
    lower_better, uses_prompt
{_OWN_SCORES}
WHERE copy != '' ORDER BY images.dataset, metrics.metric, images.position;
"""
_WITH_STD = f'ALTER TABLE scores ADD COLUMN std REAL; {VIEWS}'
FROM_LAYOUT_3 = f'DROP VIEW copy_table; DROP VIEW score_table; {_WITH_STD}'
FROM_LAYOUT_2 = f"""
DROP VIEW score_table;
ALTER TABLE images ADD COLUMN copy TEXT DEFAULT '';
ALTER TABLE images ADD COLUMN level INTEGER DEFAULT 0;
{_WITH_STD}
"""
FROM_LAYOUT_1 = FROM_LAYOUT_2.replace(';', '; ALTER TABLE images RENAME COLUMN fault TO problem;', 1)
