"""What torch.save or numpy.savez wrote, checked before anything in it is read; and read as NumPy arrays.

Without torch: to import it takes four times as long as to write a card, for which every SAE has a job.
"""

import math
import pickle
import pickletools
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from sae_atlas.io.errors import REMAKE, AtlasError, Damaged, reason
from sae_atlas.io.log import DISK_ERRORS

PLAIN = re.compile(
    r"collections OrderedDict|torch (\w+Storage|Size|device|b?float\w*|u?int\w+|bool|complex\w+)"
    r"|torch\._utils (_rebuild_tensor_v2|_rebuild_parameter)|torch\.nn\.parameter Parameter"
)


def read_checked(path: str | Path, read: Callable[[zipfile.ZipFile], object], remedy: str = REMAKE) -> dict:
    """What `read` makes of the archive at `path`, which is whole and holds a dictionary of tensors and plain values.

    Raises AtlasError if the file is missing, truncated, altered or holds code. remedy: what to do about such a file; by
    default it is one that the workflow makes (Damaged). Nothing in it is ever run.
    """
    path = Path(path)
    if not path.is_file():
        raise AtlasError(f"{path}: is not there. {'Rerun; it will be rebuilt.' if remedy == REMAKE else remedy}")
    try:
        with zipfile.ZipFile(path) as archive:
            if any(each.compress_type != zipfile.ZIP_STORED for each in archive.infolist()):
                raise AtlasError(f"{path}: is compressed, which may unpack to any size; no checkpoint is. {remedy}")
            broken = archive.testzip()  # torch does not look at the sums
            plain = not broken and all(map(_is_plain, _pickles(archive)))
            if broken:
                raise _damaged(path, f"{broken} fails its checksum (crc32)", remedy)
            value = read(archive) if plain else None
    except pickle.UnpicklingError:  # torch's own text tells how to run it
        plain = False
    except (zipfile.BadZipFile, EOFError) as error:
        raise _damaged(path, f"cut short or no checkpoint ({reason(error)})", remedy) from error
    except OSError as error:
        if error.errno in DISK_ERRORS:
            raise
        raise AtlasError(f"{path}: damaged or no checkpoint ({reason(error)}). {remedy}") from error
    except AtlasError:
        raise
    except Exception as error:  # damage shows as errors of many kinds
        raise AtlasError(f"{path}: damaged or no checkpoint ({reason(error)}). {remedy}") from error
    if not plain:
        raise AtlasError(f"{path}: holds more than tensors and plain values; it may be code and is not run")
    if not isinstance(value, dict):
        raise AtlasError(f"{path}: holds {type(value).__name__}, not a dictionary. {remedy}")
    return value


def read_arrays(path: str | Path) -> dict:
    """A file of ours as `saes.checkpoint.load_tensors` reads it, with read-only NumPy arrays in place of tensors."""
    return read_checked(path, lambda archive: _Arrays(archive).load())


def read_npz(path: str | Path, remedy: str) -> dict[str, np.ndarray]:
    """The arrays that numpy.savez wrote, by name. Raises AtlasError as read_checked does."""

    def read(archive: zipfile.ZipFile) -> dict[str, np.ndarray]:
        arrays = {}
        for name in archive.namelist():
            with archive.open(name) as file:
                arrays[name.removesuffix(".npy")] = np.lib.format.read_array(file, allow_pickle=False)
        return arrays

    return read_checked(path, read, remedy)


def _damaged(path: Path, what: str, remedy: str) -> AtlasError:
    """For what is certain: the same bytes will never load. An error of the disk or of memory may pass."""
    return Damaged(path, what) if remedy == REMAKE else AtlasError(f"{path}: {what}. {remedy}")


def _pickles(archive: zipfile.ZipFile) -> Iterator[bytes]:
    return (archive.read(each) for each in archive.infolist() if each.filename.endswith(".pkl"))


def _is_plain(content: bytes) -> bool:
    """Does a pickle name only what tensors are made of? torch also lets a few names through that can ask for any memory."""
    names = [
        str(said) for code, said, _ in pickletools.genops(content) if code.name in ("GLOBAL", "STACK_GLOBAL", "INST")
    ]
    return all(PLAIN.fullmatch(name) for name in names)


def _array(storage: np.ndarray, offset: int, shape: tuple, stride: tuple, *_) -> np.ndarray:
    """In place of torch._utils._rebuild_tensor_v2, for tensors that lie in their storage row by row."""
    if stride != tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape))):
        raise ValueError("a tensor is not contiguous")
    return storage[offset : offset + math.prod(shape)].reshape(shape)


NAMES = {  # that a checkpoint's pickle may hold -> what takes their place
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _array,
    ("torch", "FloatStorage"): "<f4",
    ("torch", "DoubleStorage"): "<f8",
    ("torch", "LongStorage"): "<i8",
}


class _Arrays(pickle.Unpickler):
    """Makes arrays of the archive's `data.pkl`; what it names beside NAMES is refused."""

    def __init__(self, archive: zipfile.ZipFile):
        (pickled,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
        super().__init__(archive.open(pickled))
        self.archive, self.folder = archive, pickled.removesuffix("data.pkl")

    def find_class(self, module: str, name: str):
        return NAMES[module, name]

    def persistent_load(self, saved: tuple) -> np.ndarray:
        _, dtype, key, *_ = saved
        return np.frombuffer(self.archive.read(f"{self.folder}data/{key}"), dtype)
