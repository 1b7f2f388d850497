"""Why something failed, as text that is safe to show: on its line, and without codes that control a terminal."""


def reason_of(error: BaseException) -> str:
    """The kind of an exception and its message, in one line of at most some 300 letters."""
    text = ' '.join(str(error).split())
    return f'{type(error).__name__}: {text[:300]}{"..." * (len(text) > 300)}'


def message_of(error: str | Exception) -> str:
    """The message of an exception; that of the operating system names the file, and no number.

    Its first line is followed by indented ones, so that no name in it can look like a line of its own.
    """
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        file = '' if error.filename is None else f"'{error.filename}': "
        text = f'{file}{error.strerror}.'
    return '\n  '.join(printable(line.strip()) for line in text.split('\n'))


def printable(text: str) -> str:
    """Without line breaks, and without the codes by which a file's name could control the terminal."""
    return ''.join(letter if letter.isprintable() else '\N{REPLACEMENT CHARACTER}' for letter in text)
