"""What the rows of saved activations are called: by their own text, where there is one, or by their number."""

from sae_atlas.io.errors import AtlasError
from sae_atlas.texts.documents import read_in_order


class Labels:
    """Row -> its text on one line, or `row 17`. Those of several rows to a context begin with a space, as words do."""

    def __init__(self, row_texts: dict | None, rows: int, context: int):
        """row_texts: config section `corpus` where it has a `path`. Raises AtlasError unless that holds a text for each row."""
        self.texts = list(read_in_order({"source": "local", **row_texts})) if row_texts else None
        self.before = " " if context > 1 else ""
        if self.texts is not None and len(self.texts) != rows:
            raise AtlasError(
                f"corpus.path: holds {len(self.texts)} texts for {rows} rows of activations; give one for each"
            )

    def __call__(self, rows: list[int]) -> str:
        return "".join(self.before + self._of(row) for row in rows)

    def _of(self, row: int) -> str:
        return f"row {row}" if self.texts is None else " ".join(self.texts[row].split())
