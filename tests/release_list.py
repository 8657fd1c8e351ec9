"""sae_atlas/config/releases.parquet, from the list of releases of the installed SAELens; `make releases` writes it again."""

import json
from importlib.metadata import distribution
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import yaml

FILE = Path(__file__).parents[1] / "sae_atlas" / "config" / "releases.parquet"
LICENCE = FILE.with_name("releases.licence.txt")
SAYS_NOTHING_OF_NUMBERS = ("dataset_path", "model_name", "hook_name")  # keys of `config_overrides`
# Conversion functions whose config SAELens makes of names alone, without asking the hub.
FROM_NAMES = ("gemma_2", "gemma_2_transcoder", "qwen_scope")
SCHEMA = pa.schema(
    {
        "release": pa.string(),
        "id": pa.string(),
        "repository": pa.string(),
        "path": pa.string(),
        "conversion": pa.string(),  # null: SAELens' own format
        "model": pa.string(),
        "l0": pa.float64(),  # null where it is not stated, as the three below
        "d_in": pa.int64(),
        "d_sae": pa.int64(),
        "hook": pa.string(),
        "norm_scaling_factor": pa.float64(),  # by which activations were scaled in training; null where it is not stated
        "overrides": pa.string(),  # JSON: what SAELens puts in place of values in the SAE's own config; null: nothing
    }
)


def rows() -> list[dict]:
    """A row per SAE, in the order of the list."""
    from benchmarks.stubs import put_in_place

    put_in_place()
    from sae_lens.loading import pretrained_sae_loaders, pretrained_saes_directory

    text = Path(pretrained_saes_directory.__file__).parents[1].joinpath("pretrained_saes.yaml").read_text("utf-8")
    found = []
    for release, about in yaml.load(text, yaml.CSafeLoader).items():
        overrides = about.get("config_overrides") or {}
        overrides = {key: value for key, value in overrides.items() if key not in SAYS_NOTHING_OF_NUMBERS}
        conversion = about.get("conversion_func")
        for sae in about["saes"]:
            config = {}
            if conversion in FROM_NAMES:
                getter = pretrained_sae_loaders.NAMED_PRETRAINED_SAE_CONFIG_GETTERS[conversion]
                config = getter(about["repo_id"], sae["path"], None, False, None)
            found.append(
                {
                    "release": release,
                    "id": sae["id"],
                    "repository": about["repo_id"],
                    "path": str(sae["path"]),
                    "conversion": conversion,
                    "model": config.get("model_name", about["model"]),
                    "l0": sae.get("l0"),
                    "d_in": config.get("d_in"),
                    "d_sae": config.get("d_sae"),
                    "hook": config.get("hook_name"),
                    "norm_scaling_factor": sae.get("norm_scaling_factor"),
                    "overrides": json.dumps(overrides, sort_keys=True) if overrides else None,
                }
            )
    return found


def source() -> str:
    package = distribution("sae-lens")
    return f"pretrained_saes.yaml of SAELens {package.version}"


if __name__ == "__main__":
    (text,) = (file for file in distribution("sae-lens").files if file.name == "LICENSE")
    table = pa.Table.from_pylist(rows(), SCHEMA).replace_schema_metadata({"source": source(), "licence": "MIT"})
    parquet.write_table(table, FILE, compression="zstd", compression_level=19)
    LICENCE.write_text(f"releases.parquet is made from {source()}, under this licence:\n\n{text.read_text()}", "utf-8")
