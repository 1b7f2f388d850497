"""Align-IQA, a quality metric for AI-generated images, as a plugin for pyiqa.

Importing this package imports neither torch nor pyiqa: it only asks for the metric to be listed once pyiqa is there
(`autoload.py`). The network, the dataset and the training model are found by pyiqa through `register.py`.
"""

from align_iqa_plugin.autoload import install

__version__ = '0.3.0'

install()
