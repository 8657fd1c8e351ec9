# What lies on disk as it is asked for is used as it is; what is outdated is made again.
#
# Snakemake's own triggers look at times, at what `.snakemake/` remembers and at the set of inputs, and which of them count is
# said on the command line. Here the identity decides that every output carries (sae_atlas/io/provenance.py): an input that is
# current is named as `ancient(before_update(...))`, for which Snakemake looks for no job, so no trigger can run one; one that
# is outdated is handed to Snakemake as it hands itself incomplete files, to be made again whatever else it knows.
# Outputs are marked `update()`: Snakemake does not remove them before the job that makes them again, and restores them if it fails.
import os
import sys
from pathlib import Path

# Scripts run in processes of their own (and in conda environments); they find the library beside this workflow.
LIBRARY = str(Path(str(workflow.current_basedir)).parents[1])
sys.path.insert(0, LIBRARY)
os.environ.update(PYTHONPATH=os.pathsep.join(filter(None, [LIBRARY, os.getenv("PYTHONPATH")])))

from sae_atlas.config.dtype import SETTLED, begun_in
from sae_atlas.config.misread import check_misread
from sae_atlas.config.read import complete_config
from sae_atlas.io.errors import AtlasError
from sae_atlas.io.provenance import carries
from sae_atlas.plan.site_check import check_config
from sae_atlas.stages.atlas import Atlas
from sae_atlas.stages.contents import MEMORY, RECORDS, local_contents
from sae_atlas.stages.versions import ORIGINS, begun_with
from snakemake.logging import logger

# Of a job that fails at its first try Snakemake says of every output that it cannot be restored. There was none.
logger.addFilter(lambda line: not str(line.msg).endswith("no backup found."))
KEPT_DTYPES = {}  # file that keeps what base_model.dtype `auto` stands for -> the dtype, of every atlas that says so
MUST_CARRY = {}  # input of a job -> identities that the job must find in it
PATHS = workflow.modifier.path_modifier  # of this workflow: as a module of another it may have a prefix


def current_or_made(path, identities, used_up=False, by_time=False):
    """A path as an input that must carry these identities. used_up: a temporary folder of arrays, removed after use.

    by_time: of a rule whose outputs carry no identity, and are older than what they were made from only if it was made again.
    """
    if workflow.execution_settings is None:  # nothing is run: a report or a graph shows every job
        return path
    lies = PATHS.modify(path)  # as a module of another workflow; the path that is returned, Snakemake itself modifies
    if carries(Path(lies, "zarr.json") if used_up else lies, identities):
        # Never ancient() alone: Snakemake does not look at jobs behind one that runs, and an ancient input does not make them run.
        if used_up:
            return path
        return before_update(path) if by_time else ancient(before_update(path))
    if Path(lies).exists():
        workflow.dag.forcefiles.add(lies)
    return path


def expected(wildcards, input):
    """Identities that a job must find in its inputs, by path, as far as rules of ours make them.

    A param of its own: one that depends on the inputs is none whose change runs a job again.
    """
    return {str(path): MUST_CARRY[path] for path in input if path in MUST_CARRY}


def read_atlas(values, lies):
    """The atlas of a config, checked and resolved, and of what its files hold. lies: where a path of its results is on disk.

    Raises AtlasError for a mistake, which names the config's file.
    """
    file = str((workflow.configfiles or ["config"])[-1])
    is_remote = workflow.remote_exec  # a job of a run that was checked
    if not is_remote and not workflow.modifier.skip_configfile:  # a module's config is a part of another workflow's
        check_misread(workflow.configfiles)
    kept_dtype = Path(lies(SETTLED))
    checked = complete_config(values, file, kept_dtype)
    if not is_remote:
        check_config(checked, file)
    if values["base_model"].get("dtype") == "auto":
        if is_remote and not begun_in(kept_dtype):
            raise AtlasError(
                f"{file}: base_model.dtype: auto is not settled for the nodes of a cluster; write the dtype"
            )
        KEPT_DTYPES[kept_dtype] = checked["base_model"]["dtype"]

    def on_disk(*patterns):
        return [path for pattern in patterns for path in Path().glob(lies(pattern))]

    begun = begun_with(on_disk(ORIGINS))
    contents = local_contents(checked, file, on_disk(*RECORDS), Path(lies(MEMORY)), begun)
    return Atlas(checked, begun, contents=contents)
