"""Write an SAE on disk, of any format that is read, as the checkpoint at which a recipe's training begins."""

from pathlib import Path

from sae_atlas.config.start_files import files_of_start, start_file
from sae_atlas.io.files import sha256
from sae_atlas.io.log import logger
from sae_atlas.io.provenance import current_record
from sae_atlas.publish.formats.load import format_of, read
from sae_atlas.saes.checkpoint import save


def import_start(checkpoint: str | Path, path: str, layer: int, is_transcoder: bool = False) -> None:
    """Write `checkpoint`. path: `start_from.path` of the recipe; is_transcoder: of formats whose files do not say it.

    Which site and model it was trained on may be others than the config's. Raises AtlasError if nothing there is an SAE.
    """
    file = start_file(path, layer)
    kind = format_of(file)
    sae = read(file, kind, is_transcoder)
    logger.info("%s: %s, %d latents", file, kind, sae["config"]["d_sae"])
    files = {"files_sha256": {each.name: sha256(each) for each in files_of_start(file)}, "record": current_record()}
    save(checkpoint, sae["model_state"], sae["config"] | files, sae["stats"])
