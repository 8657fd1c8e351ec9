"""What YAML reads otherwise than it stands in a config is said with its line, by the command line and by Snakemake."""

import pytest
import yaml

from sae_atlas.__main__ import main
from sae_atlas.config.misread import check_misread
from sae_atlas.config.read import read_config
from sae_atlas.io.errors import AtlasError
from workflow import ROOT, run, small, snakemake

SAFE = """
corpus: {revision: "064", tokens: 007, context: 0x10, seed: 1_000, held_out_tokens: -0}
a: &a {k: 8, l: 0}
b: {<<: *a, k: 9}
c: {<<: *a, <<: {k: 7}, d: 0.5}
"""
MISREAD = """
recipes:
  topk-32: {k: 32}
  other: {k: 064, <<: {expansion: -010}}
  topk-32: {k: 48}
activations: {layers: [000, 010, "020"]}
training: {tokens: 1:30, snapshots: [1:30.5]}
"a b": 1
training: {}
a b: 2
'training': {}
recipes2:
  - pretrained: {file: {010: x}, file: {}}
"""
LINES = [
    "recipes.topk-32 stands twice (lines 3 and 5); rename or remove one",
    'recipes.other.k: 064 (line 4) is read as 52 by YAML; write 64, or "064" where text is meant',
    'recipes.other.expansion: -010 (line 4) is read as -8 by YAML; write -10, or "-010" where text is meant',
    'activations.layers.1: 010 (line 6) is read as 8 by YAML; write 10, or "010" where text is meant',
    "training stands 3 times (lines 7, 9 and 11); rename or remove one",
    'training.tokens: 1:30 (line 7) is read as 90 by YAML; write 90, or "1:30" where text is meant',
    'training.snapshots.0: 1:30.5 (line 7) is read as 90.5 by YAML; write 90.5, or "1:30.5" where text is meant',
    "a b stands twice (lines 8 and 10); rename or remove one",
    "recipes2.0.pretrained.file stands twice (lines 13 and 13); rename or remove one",
    'recipes2.0.pretrained.file.010: 010 (line 13) is read as 8 by YAML; write 10, or "010" where text is meant',
]


@pytest.fixture
def wrong(tmp_path):
    """A config that is right but for a recipe that stands twice and a number in base 8."""
    text = yaml.safe_dump(small(), sort_keys=False).replace("\n  l1:\n", "\n  topk:\n")
    file = tmp_path / "wrong.yaml"
    file.write_text(text.replace("seed: 0\n", "seed: 010\n", 1))
    return file


def test_repeated_keys_and_misread_numbers_are_told_all_at_once(tmp_path):
    files = {"safe.yaml": SAFE, "wrong.yaml": MISREAD}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "no-yaml.yaml").write_text("a: [")
    with pytest.raises(AtlasError) as refused:
        check_misread([tmp_path / name for name in (*files, "no-yaml.yaml", "not-there.yaml")])
    assert sorted(str(refused.value).splitlines()) == sorted(f"{tmp_path / 'wrong.yaml'}: {line}" for line in LINES)


def test_a_file_that_holds_itself_is_looked_at_once(tmp_path):
    (tmp_path / "c.yaml").write_text("a: &a\n  b: [*a, 010]\n")
    with pytest.raises(AtlasError, match=r"c\.yaml: a\.b\.1: 010 \(line 2\) is read as 8") as refused:
        check_misread([tmp_path / "c.yaml"])
    assert "\n" not in str(refused.value)


def test_configs_that_come_with_the_workflow_are_read_as_they_stand():
    files = sorted((ROOT / "config").glob("*.yaml"))
    assert len(files) > 5
    check_misread(files)


def test_the_command_line_tells_it(wrong, capsys):
    assert main(["check", str(wrong)]) == 1
    told = capsys.readouterr().err
    assert f"{wrong}: recipes.topk stands twice (lines " in told
    assert f"{wrong}: base_model.seed: 010 (line " in told and "is read as 8 by YAML; write 10" in told
    with pytest.raises(AtlasError, match="stands twice"):
        read_config(wrong)


def test_snakemake_tells_it_of_every_config_file(wrong, tmp_path):
    right = tmp_path / "right.yaml"
    right.write_text(yaml.safe_dump(small(), sort_keys=False))
    for files in ([wrong], [wrong, right]):
        done = snakemake(tmp_path, right, "--dry-run", "--configfile", *map(str, files), check=False)
        assert done.returncode and "Traceback" not in done.stdout, done.stdout
        assert f"{wrong}: recipes.topk stands twice (lines " in done.stdout
        assert f"{wrong}: base_model.seed: 010 (line " in done.stdout
    assert snakemake(tmp_path, right, "--dry-run").returncode == 0


def test_the_config_of_another_workflow_is_its_own(tmp_path):
    """A time of its own, say; what an atlas as a module gets is a part of it."""
    config = yaml.safe_dump({"sae": small()}, sort_keys=False)
    (tmp_path / "config.yaml").write_text(f"begins: 12:30\n{config}")
    (tmp_path / "Snakefile").write_text(
        f'configfile: "config.yaml"\n\n\nmodule atlas:\n    snakefile:\n        "{ROOT}/Snakefile"\n'
        '    config:\n        config["sae"]\n\n\nuse rule * from atlas\n'
    )
    command = ["-m", "snakemake", "--cores", "1", "--directory", str(tmp_path), "--dry-run", "all"]
    done = run(*command, "--snakefile", str(tmp_path / "Snakefile"))
    assert done.returncode == 0, done.stdout
