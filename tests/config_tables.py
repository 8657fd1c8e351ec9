"""The tables of config/README.md, from the classes of the sections; `make tables` writes them again."""

import re

from pydantic.fields import FieldInfo

from sae_atlas.config.keys import Section, about, allowed, meaning, section_of, words
from sae_atlas.config.recipes import Pretrained, Recipe
from sae_atlas.config.sections import Config
from sae_atlas.io.errors import listed
from sae_atlas.io.sizes import format_size
from workflow import ROOT

README = ROOT / "config" / "README.md"
OF_RECIPES = {
    "recipes": Recipe,
    "pretrained": Pretrained,
}  # which of its own forms a recipe has is seen only when it is read
TABLE = re.compile(r"(<!-- keys of (\S+) -->\n).*?(?=<!-- end -->)", re.DOTALL)


def with_tables(page: str) -> str:
    """The page with the keys of a section between every `<!-- keys of SECTION -->` and `<!-- end -->`.

    Keys of a section in it stand in the same table, unless it has one of its own.
    """
    apart = {match[2] for match in TABLE.finditer(page)}
    head = "| key | meaning | value | default |\n|---|---|---|---|\n"
    return TABLE.sub(lambda match: match[1] + head + "".join(_rows(_named(match[2]), match[2], "", apart)), page)


def _named(path: str) -> type[Section]:
    """The section at a dotted path of keys."""
    kind = Config
    for name in path.split("."):
        kind = OF_RECIPES.get(name) or section_of(kind.model_fields[name])
    return kind


def _rows(kind: type[Section], path: str, prefix: str, apart: set[str]):
    for name, field in kind.model_fields.items():
        inside = section_of(field)
        said = [f"`{prefix}{name}`", _meaning(field), _value(field), _default(field)]
        yield f"| {' | '.join(said)} |\n".replace("|  |", "| |")
        if inside and inside is not kind and f"{path}.{name}" not in apart:
            yield from _rows(inside, f"{path}.{name}", f"{prefix}{name}.", apart)


def _meaning(field: FieldInfo) -> str:
    users = about(field).get("used_by")
    said = meaning(field).replace("||", "\\|\\|")
    return f"with {listed(users)}: {said}" if users else said


def _value(field: FieldInfo) -> str:
    if section_of(field):
        return "a section"
    return listed(allowed(field)) if allowed(field) else words(field)


def _default(field: FieldInfo) -> str:
    if "otherwise" in about(field):
        return about(field)["otherwise"]
    if field.is_required() or field.default is None or field.default_factory or field.default in ("", []):
        return ""
    values = field.default if isinstance(field.default, list) else [field.default]
    if isinstance(field.default, bool):
        return f"`{str(field.default).lower()}`"
    shown = ", ".join(format_size(each) if isinstance(each, int) else str(each) for each in values)
    return f"`[{shown}]`" if isinstance(field.default, list) else f"`{shown}`"


if __name__ == "__main__":
    README.write_text(with_tables(README.read_text(encoding="utf-8")), encoding="utf-8")
