"""Releases of SAEs that a recipe may name, and what is in one of them."""

from sae_atlas.config.releases import Release, all_releases, source
from sae_atlas.io.errors import AtlasError


def list_releases(word: str | None = None) -> str:
    """A line per release: its name, model, number of SAEs, and its format or why it is not read. `word`: only releases that
    have it in name, repository or model; of the release of that name a line per SAE: id, L0 and path in the repository.

    Raises AtlasError where no release has the word.
    """
    releases = all_releases()
    if word in releases:
        return "\n".join(_saes(releases[word]))
    chosen = [release for release in releases.values() if word is None or _has(release, word)]
    if not chosen:
        raise AtlasError(f"no release has {word!r} in its name, repository or model; `sae-atlas releases` lists all")
    rows = [("release", "model", "SAEs", "format"), *map(_row, chosen)]
    return "\n".join([*_aligned(rows), "", f"{len(chosen)} releases of {source()}"])


def _has(release: Release, word: str) -> bool:
    return any(word.lower() in text.lower() for text in (release.name, release.repository, *release.models))


def _row(release: Release) -> tuple[str, str, str, str]:
    kind = f"refused: {release.refusal}" if release.refusal else release.reader.format
    return release.name, ", ".join(release.models), f"{len(release.saes):,}", kind


def _saes(release: Release) -> list[str]:
    yes_or_no = f"refused: {release.refusal}" if release.refusal else f"format {release.reader.format}"
    l0_of = {name: "" if l0 is None else f"{l0:g}" for name, l0 in release.l0_of.items()}
    rows = [(name, l0_of[name], sae["path"]) for name, sae in release.saes.items()]
    about = f"{release.name}: {len(rows):,} SAEs of {', '.join(release.models)} in {release.repository}, {yes_or_no}"
    return [about, "", *_aligned([("sae", "L0", "path"), *rows])]


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
