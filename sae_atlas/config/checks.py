"""What is wrong with a config, in lines that name the key and the remedy: all of it at once."""

import inspect
from collections.abc import Callable, Iterable

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from sae_atlas.config import (
    activations,
    base_model,
    features,
    measurement,
    recipes,
    saved,
    start_from,
    texts,
    training,
)
from sae_atlas.config.keys import (
    NAME_PATTERN,
    NAME_WORDS,
    Section,
    about,
    allowed,
    allowed_entries,
    is_used,
    meaning,
    section_of,
    words,
)
from sae_atlas.config.sections import Config
from sae_atlas.io.errors import listed, nearest

# Each gives lines that name key and remedy. It looks at the sections of its parameters' names, if they are of the right shape.
CONTRADICTIONS: tuple[Callable[..., Iterable[str]], ...] = (
    training.problems,
    training.device_problems,
    training.length_problems,
    activations.problems,
    texts.problems,
    saved.source_problems,
    saved.key_problems,
    saved.recipe_problems,
    saved.features_problems,
    base_model.chat_problems,
    recipes.width_problems,
    recipes.finetune_problems,
    recipes.transcoder_problems,
    start_from.problems,
    measurement.evaluation_problems,
    measurement.task_problems,
    measurement.floors_problems,
    measurement.floors_target_problems,
    features.problems,
    features.layer_problems,
)
SECRETS = ("key_variable", "url")  # may hold a key by mistake, so their values are not repeated


def checked(config: dict) -> tuple[dict[str, Section | dict], list[str]]:
    """The sections of a config by name, those of the right shape; and what is wrong with it, a line each."""
    unknown = sorted(set(config) - set(Config.model_fields))
    problems = [f"{name}: no such key; {nearest(name, Config.model_fields)}" for name in unknown]
    sections: dict[str, Section | dict] = {}
    for name, field in Config.model_fields.items():
        if name not in config and field.is_required():
            problems.append(f"{name}: missing; {_first_sentence(field)}")
        elif name == "recipes":
            _add(sections, problems, name, *_recipes(config[name]))
        elif name in config:
            _add(sections, problems, name, *_section(section_of(field), config[name], name))
        elif field.default_factory:
            sections[name] = field.default_factory()
    if {"base_model", "corpus"} <= set(sections):
        model_problems = list(base_model.problems(sections["base_model"], sections["corpus"]))
        if model_problems:  # then its layers are not known
            problems += model_problems
            del sections["base_model"]
    for contradictions in CONTRADICTIONS:
        needed = inspect.signature(contradictions).parameters
        if set(needed) <= set(sections):
            problems += contradictions(**{name: sections[name] for name in needed})
    return sections, problems


def checked_recipe(values: object, where: str) -> tuple[Section | None, list[str]]:
    """A recipe that trains or one that takes SAEs of others, None where it is of the wrong shape; and what is wrong with it."""
    if not isinstance(values, dict) or "pretrained" not in values:
        recipe, problems = _section(recipes.Recipe, values, where)
        return recipe, problems or list(recipes.trained_problems(recipe, where))
    trains = set(values) & set(recipes.Recipe.model_fields) - set(recipes.Published.model_fields)
    lines = [
        f"{where}.{name}: does nothing with `pretrained`, which trains nothing; remove it" for name in sorted(trains)
    ]
    values = recipes.with_source({name: value for name, value in values.items() if name not in trains})
    recipe, problems = _section(recipes.Published, values, where)
    return recipe, lines + (problems or list(recipes.published_problems(recipe, where)))


def _add(sections: dict, problems: list[str], name: str, section: Section | dict | None, lines: list[str]) -> None:
    problems += lines
    if section is not None and not lines:
        sections[name] = section


def _recipes(values: object) -> tuple[dict | None, list[str]]:
    field = Config.model_fields["recipes"]
    if not isinstance(values, dict) or not values:
        return None, [f"recipes: {values!r} does not fit; write {words(field)}"]
    sections, problems = {}, []
    by_folder = {}  # as file systems that ignore case know them
    for name, recipe in values.items():
        if (other := by_folder.setdefault(str(name).lower(), name)) != name:
            problems.append(f"recipes: {other!r} and {name!r} are one folder where case is ignored (macOS); rename one")
        if not NAME_PATTERN.match(name):
            problems.append(f"recipes: {name!r} does not fit as a name; write {NAME_WORDS.text}")
        sections[name], lines = checked_recipe(recipe, f"recipes.{name}")
        problems += lines
    return sections, problems


def _section(kind: type[Section], values: object, where: str) -> tuple[Section | None, list[str]]:
    misplaced = list(_misplaced(kind, values, where)) if isinstance(values, dict) else []
    try:
        return kind.model_validate(values), misplaced
    except ValidationError as error:
        errors = sorted(error.errors(include_url=False, include_context=False), key=_order)
        return None, [_line(kind, each, where) for each in errors] + misplaced


def _order(error: dict) -> list[str]:
    """Errors are sorted by section and key; the keys that a section lacks come first."""
    return list(map(str, error["loc"][:-1] if error["type"] in ("missing", "extra_forbidden") else error["loc"]))


def _misplaced(kind: type[Section], values: dict, where: str):
    """Keys without an effect beside what the section's CHOICE says, and those it needs."""
    choice = values.get(kind.CHOICE)
    known = not kind.CHOICE or choice in allowed(kind.model_fields[kind.CHOICE])
    for name, field in kind.model_fields.items():
        if known and name in values and not is_used(field, choice):
            yield f"{where}.{name}: does nothing with {kind.CHOICE} `{choice}`; remove it"
        elif known and name not in values and choice in about(field).get("needed_by", []):
            yield f"{where}.{name}: missing; {kind.CHOICE} `{choice}` needs it"
        elif section_of(field) and isinstance(values.get(name), dict):
            yield from _misplaced(section_of(field), values[name], f"{where}.{name}")


def _line(kind: type[Section], error: dict, where: str) -> str:
    """An error of pydantic's at a key of the section `where`, as a line that says what to write."""
    key, value = ".".join(map(str, (where, *error["loc"]))), error["input"]
    holder, field = _field(kind, error["loc"])
    if error["type"] == "extra_forbidden":
        return f"{key}: no such key; {nearest(error['loc'][-1], holder.model_fields)}"
    if error["type"] == "missing":
        return f"{key}: missing; {_first_sentence(field)}"
    if error["type"] == "literal_error":
        return f"{key}: {value!r} is not allowed; {nearest(value, allowed_entries(field))}"
    if error["type"] == "model_type":
        return f"{key}: {value!r} does not fit; it has the keys {listed((section_of(field) if field else kind).model_fields)}"
    if field is None:  # an error of the section as a whole
        return f"{key}: {error['msg'].removeprefix('Value error, ')}"
    value_text = "what it holds" if error["loc"][-1] in SECRETS else repr(value)
    return f"{key}: {value_text} does not fit; write {words(field, example=True)} ({_first_sentence(field)})"


def _field(kind: type[Section], path: tuple) -> tuple[type[Section], FieldInfo | None]:
    """The innermost section on a path of keys, and its key there; None where it has none or the section itself is meant."""
    holder, field = kind, None
    for name in path:
        inside = section_of(field) if field else kind
        if inside is None:  # an entry of a list
            break
        holder, field = inside, inside.model_fields.get(name)
    return holder, field


def _first_sentence(field: FieldInfo) -> str:
    return meaning(field).split(". ")[0]
