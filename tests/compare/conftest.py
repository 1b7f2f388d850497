"""What several tests of the comparison need: tables of scores of copies."""

import numpy as np
import pandas
import pytest

from align_iqa_plugin.compare.behaviour import behaviour_images
from align_iqa_plugin.compare.store import LabelledImage


@pytest.fixture(scope='session')
def copy_table():
    """Makes a table as `Store.copy_table` gives it, of a metric whose score of a copy is a function of image, copy and level.

    A score of NaN is a failure.
    """

    def make(images, score, *, metric='toy', dataset='set', lower_better=False):
        labelled = [LabelledImage(name, f'/{name}', f'sha of {name}') for name in images]
        copies = sorted(behaviour_images(labelled, len(labelled), seed=0), key=lambda each: [*images, ''].index(each.image))
        rows = [
            {'dataset': dataset, 'metric': metric, 'image': each.image, 'prompt': '', 'copy': each.copy, 'level': each.level}
            | {'path': each.path, 'sha256': each.sha256, 'score': float(score(each.image, each.copy, each.level))}
            for each in copies
        ]
        table = pandas.DataFrame(rows).assign(lower_better=lower_better, uses_prompt=False)
        return table.assign(reason=np.where(table['score'].isna(), 'broke', ''))

    return make
