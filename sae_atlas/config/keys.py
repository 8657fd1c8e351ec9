"""How a key of the config is declared: its type, range and default, what it means, and where it has an effect."""

import re
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Annotated, Any, ClassVar, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, WrapValidator
from pydantic.fields import FieldInfo

from sae_atlas.io.sizes import parse_size


class Section(BaseModel):
    """A section of the config: its fields are its keys. Keys that it does not have are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, regex_engine="python-re")
    CHOICE: ClassVar[str] = ""  # the key whose value decides which other keys have an effect, such as `source`

    def plain(self) -> dict:
        """The section as the jobs get it. Keys that were not given and have no default are absent."""
        return self.model_dump()


@dataclass(frozen=True)
class Words:
    """What a value of a type must be, as it is said in error lines and tables; a range may follow `text`."""

    text: str
    example: str = ""


def key(
    meaning: str | None = None,
    default: Any = ...,
    *,
    otherwise: str | None = None,
    needed_by: Sequence[str] = (),
    used_by: Sequence[str] = (),
    **limits,
) -> Any:
    """A key of a section.

    meaning: its first sentence is shown in error lines, all of it in config/README.md; None of a section, whose class has it.
    default: a value, or a section's class; without it the key must be given, unless there is `otherwise`, which says what holds
    then, or `needed_by` or `used_by`: a key that is not given is absent from the plain section. needed_by, used_by: values of
    the section's CHOICE with which the key must or may be given; without them always. limits: `ge`, `gt`, `le`, `lt`,
    `min_length`, ...
    """
    users = (*needed_by, *used_by)
    about = {"needed_by": list(needed_by), "used_by": list(users)} if users else {}
    about |= {"otherwise": otherwise} if otherwise else {}
    kinds: dict[str, Any] = {"default": default}
    if isinstance(default, type):
        kinds = {"default_factory": default}
    elif default is ... and (users or otherwise):
        kinds = {"default": None, "exclude_if": lambda value: value is None}
    return Field(description=meaning, json_schema_extra=about, **kinds, **limits)


def later(meaning: str, default: Any, *, used_by: Sequence[str] = (), **limits) -> Any:
    """A key that is newer than finished atlases: at its default it is absent, as from their identities."""
    return key(meaning, default, used_by=used_by, exclude_if=lambda value: value == default, **limits)


def about(field: FieldInfo) -> dict:
    """Arguments of `key` for the field beside its meaning: needed_by, used_by, otherwise."""
    return field.json_schema_extra or {}


def is_used(field: FieldInfo, choice: str) -> bool:
    """Has the key an effect where the CHOICE of its section is this?"""
    return choice in about(field).get("used_by", [choice])


def meaning(field: FieldInfo) -> str:
    """The field's own words, or those of the section it holds."""
    if field.description is not None:
        return field.description
    said = section_of(field).__doc__
    return said[0].lower() + said[1:].removesuffix(".")


def section_of(field: FieldInfo) -> type[Section] | None:
    """The class of the section that a field holds."""
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, Section) else None


def allowed(field: FieldInfo) -> list | None:
    """All values that a field can have, where they are listed."""
    return list(get_args(field.annotation)) if get_origin(field.annotation) is Literal else None


def allowed_entries(field: FieldInfo) -> list | None:
    """All values that a field, or an entry of its list, can have, where they are listed."""
    entries = (list(get_args(each)) for each in get_args(field.annotation) if get_origin(each) is Literal)
    return allowed(field) or next(entries, None)


def words(field: FieldInfo, example: bool = False) -> str:
    """What a value of the field must be: "a whole number from 1"; with an example of it ", as 8 or 10M"."""
    about = field.metadata
    if not any(isinstance(each, Words) for each in about):  # in `... | None`
        inside = list(_nested(field.annotation))
        about = [each for part in inside for each in (part.metadata if isinstance(part, FieldInfo) else [part])]
    said = next(each for each in about if isinstance(each, Words))
    kinds = {Ge: "from", Gt: "above", Le: "to", Lt: "below"}
    limits = [f" {word} {astuple(each)[0]}" for kind, word in kinds.items() for each in about if isinstance(each, kind)]
    return "".join([said.text, *limits, f", as {said.example}" * bool(example and said.example)])


def _nested(annotation: Any):
    yield from get_args(annotation)
    for each in get_args(annotation):
        yield from _nested(each)


# --- types ------------------------------------------------------------------------------------------------------------


def each_once(values: list) -> list:
    if len(set(values)) < len(values):
        raise ValueError
    return values


def _whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError
    return parse_size(value)


def _number(value: object, as_float) -> float:
    if isinstance(value, bool):
        raise ValueError
    return as_float(value)


def _number_as_written(value: object, as_float) -> float | int:
    number = _number(value, as_float)
    return value if isinstance(value, int) else number


def _layers(value: object) -> str | list[int]:
    if isinstance(value, list):
        fits = (
            value and all(type(each) is int and 0 <= each <= 9999 for each in value) and len(set(value)) == len(value)
        )
    else:
        fits = isinstance(value, str) and re.fullmatch("all|[0-9]{1,4}-[0-9]{1,4}", value)
    if not fits:
        raise ValueError
    return value


def _paths(value: object) -> str | list[str]:
    if not all(isinstance(each, str) and each for each in (value if isinstance(value, list) else [value])) or not value:
        raise ValueError
    return value


def _by_layer(value: object) -> str | dict[str, str]:
    """A map's keys become text, in the order of the layers: `{"0": ..., "11": ...}`."""
    if isinstance(value, dict):
        layers = [_layer(each) for each in value]
        if (
            not layers
            or len(set(layers)) < len(layers)
            or not all(isinstance(each, str) and each for each in value.values())
        ):
            raise ValueError
        return {str(layer): text for layer, text in sorted(zip(layers, value.values(), strict=True))}
    if not isinstance(value, str) or not value:
        raise ValueError
    return value


def _layer(value: object) -> int:
    if type(value) is not int and not (isinstance(value, str) and re.fullmatch("[0-9]{1,4}", value)):
        raise ValueError
    if not 0 <= int(value) <= 9999:
        raise ValueError
    return int(value)


@dataclass(frozen=True)
class OrText:
    """For a type that is also read from text: the pattern of the text in its JSON schema."""

    pattern: str

    def __get_pydantic_json_schema__(self, core_schema, handler) -> dict:
        return {"anyOf": [handler(core_schema), {"type": "string", "pattern": self.pattern}]}


SIZE = "8 or 10M"

Whole = Annotated[int, BeforeValidator(_whole), OrText(r"^[0-9.]+[kMB]?$"), Words("a whole number", SIZE)]
FINITE = Field(allow_inf_nan=False)
NUMBER = OrText(r"^[-+.0-9eE]+$")
Real = Annotated[float, FINITE, WrapValidator(_number), NUMBER, Words("a number")]
# A whole number stays one, as it stands in the identities of finished atlases: 10 there is not 10.0.
Number = Annotated[float, FINITE, WrapValidator(_number_as_written), NUMBER, Words("a number")]
Text = Annotated[str, Field(strict=True), Words("text")]
Switch = Annotated[bool, Field(strict=True), Words("`true` or `false`")]
Paths = Annotated[
    str | list[str],
    PlainValidator(_paths, json_schema_input_type=str | list[str]),
    Words("a path or a list of paths"),
]
ByLayer = Annotated[
    str | dict[str, str],
    PlainValidator(_by_layer, json_schema_input_type=str | dict[str, str]),
    Words("text, or a map from layer to text", "{0: a, 1: b}"),
]
NAME_PATTERN = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$")
NAME_WORDS = Words("at most 80 letters, digits, dots, dashes and underscores")
Name = Annotated[str, Field(strict=True, pattern=NAME_PATTERN), NAME_WORDS]
HubId = Annotated[
    str,
    Field(strict=True, pattern=r"^(?!.*[.][.])[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?$"),
    Words("`owner/name` or `name`"),
]
Revision = Annotated[
    str,
    Field(strict=True, pattern=r"^(?!.*[.][.])[A-Za-z0-9][A-Za-z0-9._/-]*$"),
    Words("a branch, tag or commit"),
]
Layers = Annotated[
    str | list[int],
    PlainValidator(_layers, json_schema_input_type=str | list[int]),
    Words('`all`, a list of block indices, or a range such as "0-23"'),
]
