"""Sections of option files as pydantic models, and what is wrong with one of them as sentences.

A section rejects keys that it does not declare. Numbers are kept as they are written: 10 stays an integer where any number
may stand, and 2e2 becomes one where a whole number has to.
"""

import inspect
import re
import types
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from reprlib import repr as shortened
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, Strict, ValidationError, WrapValidator, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from align_iqa_plugin.runtime.names import suggest


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _as_written(value: Any, check: Callable[[Any], float]) -> Any:
    check(value)
    return value


Flag = Annotated[bool, Strict()]
Text = Annotated[str, Strict(), Field(min_length=1)]
Whole = Annotated[int, Strict(), BeforeValidator(_whole)]
Count = Annotated[int, Strict(), Field(ge=1), BeforeValidator(_whole)]
FromZero = Annotated[int, Strict(), Field(ge=0), BeforeValidator(_whole)]
Number = Annotated[float, Strict(), Field(allow_inf_nan=False), WrapValidator(_as_written)]
Positive = Annotated[float, Strict(), Field(allow_inf_nan=False, gt=0), WrapValidator(_as_written)]
NotNegative = Annotated[float, Strict(), Field(allow_inf_nan=False, ge=0), WrapValidator(_as_written)]
Share = Annotated[float, Strict(), Field(allow_inf_nan=False, ge=0, le=1), WrapValidator(_as_written)]


class Section(BaseModel):
    """A section whose unknown keys are named, with near misses, together with all else that is wrong in it."""

    model_config = ConfigDict(extra='forbid', protected_namespaces=(), arbitrary_types_allowed=True)

    removed_keys: ClassVar[Mapping[str, str]] = {}
    """What to say of keys that a user may still have, such as those of an older version."""

    @model_validator(mode='wrap')
    @classmethod
    def _name_unknown_keys(cls, section: Any, check: Callable[[Any], 'Section']) -> 'Section':
        try:
            return check(section)
        except ValidationError as error:
            raise ValidationError.from_exception_data(
                cls.__name__, [cls._explained(found) for found in error.errors()]
            ) from None

    @classmethod
    def _explained(cls, found: Any) -> InitErrorDetails:
        loc, kind, sentence = found['loc'], found['type'], found['msg']
        if len(loc) == 1 and kind in ('extra_forbidden', 'invalid_key'):
            name, kind = (str(found['input']) if kind == 'invalid_key' else loc[0]), 'unknown_key'
            loc, sentence = (name,), cls.removed_keys.get(name) or f'unknown key{suggest(name, cls.model_fields)}'
        # as an error of our own, since pydantic's do not keep their sentence when they are raised again
        reason = PydanticCustomError(kind, '{sentence}', {'sentence': sentence})
        return InitErrorDetails(type=reason, loc=loc, input=found['input'])


def plain(section: Section) -> dict:
    """A section as a dict of the keys that were given."""
    return section.model_dump(exclude_unset=True, warnings=False)


def problem(sentence: str) -> PydanticCustomError:
    """An error for a validator to raise: the sentence follows the key and a colon."""
    return PydanticCustomError('problem', '{sentence}', {'sentence': sentence})


def problems(found: Iterable[tuple[Sequence[str], str]]) -> ValidationError:
    """Several errors for one validator to raise, each with the keys that lead to it."""
    errors = [InitErrorDetails(type=problem(sentence), loc=tuple(keys), input=None) for keys, sentence in found]
    return ValidationError.from_exception_data('section', errors)


def missing(keys: Iterable[Sequence[str]]) -> ValidationError:
    """Keys that are not there, for one validator to raise."""
    errors = [InitErrorDetails(type='missing', loc=tuple(key), input=None) for key in keys]
    return ValidationError.from_exception_data('section', errors)


def sentences(error: ValidationError, section: Any, name: str = 'the file') -> list[str]:
    """A sentence for each problem, with the dotted key that it is at.

    Args:
        section: what was checked.
        name: of the section itself.
    """
    grouped: dict[str, list] = {}
    for found in error.errors():
        key, value = _place(found, section)
        grouped.setdefault(key, []).append((found['type'], found['msg'], value))
    lines = []
    for key, errors in grouped.items():
        expected = [words for kind, message, _ in errors if (words := _expected(kind, message))]
        if len(expected) == len(errors):  # the members of a union have one each
            choices = ' or '.join(dict.fromkeys(expected)).replace(' or be ', ' or ')
            lines.append(f'{key or name} should {choices}, not {shortened(errors[0][2])}.')
        else:
            lines += [_sentence(key, kind, message, name) for kind, message, _ in errors]
    return lines


def failure(name: object, found: Sequence[str]) -> str:
    """One message for all problems of a file or a section."""
    if len(found) == 1:
        return f'{name}: {found[0]}'
    return '\n'.join([f'{name}: {len(found)} problems', *(f'  {sentence}' for sentence in found)])


def _place(found: Any, value: Any) -> tuple[str, Any]:
    """The dotted key of an error and the value there; pydantic puts names of types behind the keys."""
    names = []
    for part in found['loc']:
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(value, Sequence) and not isinstance(value, str) and isinstance(part, int) and part < len(value):
            value = value[part]
        else:
            if found['type'] in ('missing', 'unknown_key', 'problem'):
                names.append(str(part))
            if part == '[key]':
                value = found['input']
            break
        names.append(str(part))
    return '.'.join(names), value


def _sentence(key: str, kind: str, message: str, name: str) -> str:
    if kind == 'missing':
        above, _, last = key.rpartition('.')
        return f"{above or name} lacks the key '{last}'."
    verb = re.match(r'(has|is|lacks|needs|was) ', message)
    return f'{key or name}{" " if verb else ": "}{message}'


def _expected(kind: str, message: str) -> str | None:
    """What has to follow 'should' in pydantic's sentence about a value."""
    if kind in ('model_type', 'model_attributes_type', 'dict_type'):
        return 'be a section of keys'
    _, should, expected = message.partition(' should ')
    ours = kind in ('problem', 'unknown_key', 'missing')
    return re.sub(r' after validation, not \d+$', '', expected) if should and not ours else None


def known_name(name: str, choices: Collection[str], *, renamed: Mapping[str, str] | None = None) -> str:
    """The name, if it is one of `choices`; otherwise an error for a validator."""
    if name not in choices:
        raise problem((renamed or {}).get(name) or f"unknown name '{name}'{suggest(name, choices)}")
    return name


def fields_of(function: Callable, given: Collection[str] = ()) -> dict[str, Any]:
    """The keywords of a function or class as fields for `pydantic.create_model`, without those `given` to it by others."""
    try:
        hints = get_type_hints(function.__init__ if inspect.isclass(function) else function)
    except (NameError, TypeError, AttributeError, SyntaxError):  # annotations that name what is imported for a type checker
        hints = {}
    return {
        name: (_kind(hints.get(name), parameter.default), ... if parameter.default is parameter.empty else parameter.default)
        for name, parameter in inspect.signature(function).parameters.items()
        if name not in given and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    }


KINDS: dict[Any, Any] = {bool: Flag, int: Whole, float: Number, str: Text, dict: dict[str, Any], type(None): None}
KINDS_BY_DEFAULT: dict[type, Any] = {bool: Flag, int: Number, float: Number, str: Text}


def _kind(hint: Any, default: Any) -> Any:
    """What a keyword takes by its annotation, or else by its default; anything where neither says."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint in KINDS:
        return KINDS[hint]
    if origin is Literal:
        return hint
    if origin in (list, Sequence) or (origin is tuple and arguments[1:] == (...,)):
        return types.GenericAlias(list, (_kind(arguments[0], None),))
    if origin in (Union, types.UnionType):  # of what YAML can write: no tensors
        members = [_kind(member, None) for member in arguments if member in KINDS or get_origin(member)]
        if any(member is not None for member in members):
            return Union[tuple(members)]  # noqa: UP007  of a list
    return KINDS_BY_DEFAULT.get(type(default), Any)
