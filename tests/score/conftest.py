"""Small grey images in an empty working folder."""

from pathlib import Path

import pytest
from PIL import Image


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def grey(folder):
    """Saves grey images in the working folder: ``grey('a/b.png', 99)``."""

    def save(*names, value=99, size=(40, 40)) -> None:
        for name in names:
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Image.new('L', size, value).save(name)

    return save
