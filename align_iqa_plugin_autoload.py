"""What torch calls at its import; it hands over to `align_iqa_plugin.autoload`, which says what for.

torch turns an entry point that cannot be loaded into a failing ``import torch``. So the entry point leads to this file alone,
which is installed beside its metadata, also from an editable clone: the package itself may be deleted or damaged, and there
is a line on stderr (not a warning, which ``python -W error`` would raise).
"""

import sys
from contextlib import suppress


def install() -> None:
    """Call `align_iqa_plugin.autoload.install`. Never raises."""
    try:
        from align_iqa_plugin.autoload import install

        install()
    except Exception as error:
        with suppress(Exception):  # stderr is absent or closed
            sys.stderr.write(
                f'align-iqa-plugin is damaged ({type(error).__name__}: {error}), so pyiqa does not know its metric. '
                'Reinstall or uninstall it.\n'
            )
