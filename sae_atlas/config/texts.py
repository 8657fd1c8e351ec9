"""The section `corpus`, and the text that a base model is tuned on."""

from typing import Annotated, ClassVar, Literal

from sae_atlas.config.keys import HubId, Name, Paths, Revision, Section, Switch, Text, Whole, Words, key, later

TEXTS = ("hub", "package", "local")
SHORTEST = 8  # context of a text
PATH = (
    "a file, a folder or a list of them: `.txt` (documents are separated by blank lines), `.jsonl`, `.csv` or `.parquet`, "
    "each also with `.gz` or `.zst`. A relative path is seen from the folder of the run, or from the config's own"
)
EXCLUDE = (
    "tokens that are read but neither trained on nor measured, as they stand in the vocabulary; `special` for all "
    "special tokens"
)
Excluded = Annotated[list[Text], Words("a list of tokens")]


class Source(Section):
    """Where a text comes from."""

    CHOICE: ClassVar[str] = "source"

    name: Name = key("name in file names and titles")
    source: Literal["hub", "package", "local"] = key("`hub`, `package` (embedded) or `local` (files)")
    id: HubId = key("data set", needed_by=["hub"])
    revision: Revision = key("branch, tag or commit", otherwise="`main`", used_by=["hub"])
    subset: Text = key("configuration of the data set", otherwise="its own default", used_by=["hub"])
    split: Text = key("split of the data set", otherwise="`train`", used_by=["hub"])
    field: Text = key(
        "column of a data set or file that holds the text, or a path of keys in it, as `data.text`",
        otherwise="`text`; with `chat` `messages`", used_by=["hub", "local"],
    )  # fmt: skip
    chat: Switch = later(
        "documents are conversations: lists of messages with `role` and `content`, formatted by the chat template of the base "
        "model's tokenizer", False, used_by=["hub", "local"],
    )  # fmt: skip
    bad_rows: Literal["refuse", "skip"] = later(
        "what becomes of rows that hold no text: the run ends with the first one's place (`refuse`), or they are counted and "
        "left out (`skip`), unless none of the first 10,000 holds any", "refuse", used_by=["hub", "local"],
    )  # fmt: skip
    package: Text = key("name of an embedded text, such as `wikipedia-introductions`", needed_by=["package"])
    topic: Text = key("documents of this topic alone, such as `Mathematics`", otherwise="all", used_by=["package"])
    path: Paths = key(PATH, needed_by=["local"])
    exclude: Excluded = later(EXCLUDE, [])


class Domain(Source):
    """The text that a model is tuned on. Context, held-out tokens and seed are those of the section `corpus`."""

    tokens: Whole = key("train tokens of the domain", ge=1)


class Corpus(Source):
    """The text that the model reads."""

    source: Literal["hub", "package", "local", "rows"] = key(
        "`hub`, `package` (embedded), `local` (files), or `rows` in place of activations (base_model.source `activations` "
        "or `synthetic`): below, a token is then a row of them"
    )
    field: Text = key(
        "column of a data set or file that holds the text, or a path of keys in it, as `data.text`",
        otherwise="`text`; with `chat` `messages`", used_by=["hub", "local", "rows"],
    )  # fmt: skip
    path: Paths = key(
        f"{PATH}. Of `rows` the text of every row, in their order: in `.txt` a paragraph, else a row of the file",
        needed_by=["local"], used_by=["rows"],
    )  # fmt: skip
    exclude: Excluded = later(EXCLUDE, [], used_by=TEXTS)
    context: Whole = key(
        "tokens per context, from 8 on; of `rows` how many neighbours belong together, as the patches of an image do. By "
        "default every row stands alone",
        needed_by=TEXTS, used_by=["rows"], ge=1, le=2**20,
    )  # fmt: skip
    tokens: Whole = key("train tokens that the corpus holds. Training may use fewer, and more of them later", ge=1)
    held_out_tokens: Whole = key(
        "tokens that are split off first, by whole documents, of `rows` by contexts, and never trained on", 16_000, ge=1
    )
    seed: Whole = key("seed of the order of documents and contexts", 0, ge=0)

    def plain(self) -> dict:
        values = super().plain()
        return values | {"context": values.get("context", 1)} if self.source == "rows" else values


def problems(corpus: Corpus):
    if corpus.source != "rows" and corpus.context is not None and corpus.context < SHORTEST:
        yield f"corpus.context: {corpus.context} is less than {SHORTEST}, the least for text; raise it"
    if corpus.source == "rows" and corpus.field and not corpus.path:
        yield "corpus.field: does nothing without `path`, the file of the rows' text; remove it or name the file"
