"""Numbers of things in sentences."""


def counted(number: int, one: str, more: str = '') -> str:
    """ "1 image", "0 images" or "1,200 images".

    Args:
        one: what there is one of, with the words that follow from it if need be, such as 'image has'.
        more: of any other number, such as 'images have'; by default `one` with an s.
    """
    return f'{number:,} {one if number == 1 else more or f"{one}s"}'
