"""Why something failed, in one line that fits into a table."""


def reason_of(error: BaseException) -> str:
    """The kind of an exception and its message, in one line of at most some 300 letters."""
    text = ' '.join(str(error).split())
    return f'{type(error).__name__}: {text[:300]}{"..." * (len(text) > 300)}'
