"""The end of a sentence about an unknown name: the near miss, or what there is to choose from."""

from collections.abc import Iterable
from difflib import get_close_matches


def suggest(name: object, choices: Iterable[object], *, limit: int = 30) -> str:
    """ "; did you mean 'stages'?" where a choice is close to `name`, else '; choose from a, b.'

    Args:
        limit: of the choices that are listed.
    """
    choices = sorted(map(str, choices))
    close = get_close_matches(str(name), choices, n=1)
    if close:
        return f"; did you mean '{close[0]}'?"
    if not choices:
        return '; there is none to choose from.'
    return f'; choose from {", ".join(choices[:limit])}{" ..." if len(choices) > limit else ""}.'
