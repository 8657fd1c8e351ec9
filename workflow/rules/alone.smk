# A folder that a run can be in, and one run at a time.
import sys
from pathlib import Path

from sae_atlas.config.dtype import keep
from sae_atlas.io.errors import AtlasError
from sae_atlas.io.files import take_back
from sae_atlas.io.locks import hold_lock

try:
    str(Path.cwd()).encode()
except UnicodeEncodeError:  # tokenizers and safetensors open no such file
    encoding = sys.getfilesystemencoding()
    sys.exit(f"{Path.cwd()}: this name is no text in {encoding}; rename the folder, or run with LC_ALL=C.UTF-8")


# Snakemake's own lock outlives a killed run; this one ends with its process.
onstart:
    try:
        hold_lock("results/.lock")
        take_back(Path(".snakemake/backups"), Path())
        for kept, dtype in KEPT_DTYPES.items():
            keep(dtype, kept)
    except AtlasError as error:
        sys.exit(f"{error}")
    except BlockingIOError:
        sys.exit(f"{Path('results').absolute()}: another run is at work here; wait for it or stop it first.")
    except OSError as error:
        sys.exit(
            f"{Path('results').absolute()}: cannot be written ({error.strerror}). Nothing is lost; mend it and run again."
        )
