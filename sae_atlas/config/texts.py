"""The section `corpus`, and the text that a base model is tuned on."""

from typing import ClassVar, Literal

from sae_atlas.config.keys import HubId, Name, Revision, Section, Text, Whole, key


class Source(Section):
    """Where a text comes from."""

    CHOICE: ClassVar[str] = "source"

    name: Name = key("name in file names and titles")
    source: Literal["hub", "package", "local"] = key("`hub`, `package` (embedded) or `local` (a file)")
    id: HubId = key("data set", needed_by=["hub"])
    revision: Revision = key("branch, tag or commit", otherwise="`main`", used_by=["hub"])
    subset: Text = key("configuration of the data set", otherwise="its own default", used_by=["hub"])
    split: Text = key("split of the data set", otherwise="`train`", used_by=["hub"])
    field: Text = key("column of a data set, `.jsonl` or `.parquet` file that holds the text", otherwise="`text`",
                      used_by=["hub", "local"])  # fmt: skip
    package: Text = key("name of an embedded text, such as `wikipedia-introductions`", needed_by=["package"])
    topic: Text = key("documents of this topic alone, such as `Mathematics`", otherwise="all", used_by=["package"])
    path: Text = key(
        "a `.txt` (documents are separated by blank lines), `.jsonl` or `.parquet` file", needed_by=["local"]
    )


class Domain(Source):
    """The text that a model is tuned on. Context, held-out tokens and seed are those of the section `corpus`."""

    tokens: Whole = key("train tokens of the domain", ge=1)


class Corpus(Source):
    """The text that the model reads."""

    context: Whole = key("tokens per context", ge=8, le=2**20)
    tokens: Whole = key("train tokens that the corpus holds. Training may use fewer, and more of them later", ge=1)
    held_out_tokens: Whole = key(
        "tokens that are split off first, by whole documents, and never trained on", 16_000, ge=1
    )
    seed: Whole = key("seed of the order of documents and contexts", 0, ge=0)
