"""Name the latents of one layer (rule name_latents), with the key and the price of the config's endpoint."""

from pathlib import Path

from sae_atlas.stages.job import job

with job(snakemake) as run:
    endpoint = (snakemake.config["features"].get("names") or {}).get("endpoint", {})
    # Not params: neither changes a name.
    paid_with = {key: endpoint.get(key) for key in ("price", "key_variable")}
    run(cache=Path(snakemake.output.names).parents[1] / "answers", **paid_with)
