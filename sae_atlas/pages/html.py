"""Fill HTML templates: every value is escaped; style and script stand inside the page, so that it is one file."""

from functools import cache

import jinja2
from markdown_it import MarkdownIt
from markupsafe import Markup

from sae_atlas.figures.style import short_number
from sae_atlas.io.sizes import format_seconds
from sae_atlas.publish.cards.markdown import number


def rendered(markdown: str) -> Markup:
    """Markdown as HTML. HTML in it is shown as text, links to scripts stay text."""
    return Markup(MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown))


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("sae_atlas.pages"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "seconds": format_seconds, "short": short_number}
    return environment


def fill(template: str, **facts) -> str:
    """The template of that name in pages/templates, filled."""
    return _environment().get_template(template).render(**facts)
