"""Whatever a config holds: it is right, or told in lines that name the file; no traceback, no bomb, no strange file name."""

import re
import tempfile
from pathlib import Path

import huggingface_hub.constants
import pytest
import yaml
from fuzzing import damaged, damages, fuzzed, memory
from hypothesis import strategies as st

from sae_atlas.__main__ import main
from sae_atlas.config.read import complete_config, read_config
from sae_atlas.io.errors import AtlasError
from sae_atlas.publish.cards.names import sae_name
from sae_atlas.stages.atlas import Atlas
from workflow import ROOT, small

FULL = small(
    **{
        "floors": {"widths": [8, 16], "students": {"steps": 10, "evaluations": 10, "held_out_tokens": "1k"}},
        "features": {"layers": [0], "tokens": "1k", "names": {"endpoint": {"url": "https://a.org/v1", "model": "m"}}},
        "figures.colour_map": "magma",
        "release": {"author": "A", "licence": "mit"},
        "recipes.theirs": {
            "architecture": "topk",
            "expansion": 4,
            "k": 4,
            "pretrained": {"source": "hub", "id": "a/b", "format": "saelens", "file": "blocks.{layer}"},
        },
    }
)
HOSTILE = [
    "../../etc/passwd",
    "/etc/passwd",
    "~/x",
    "a/../../b",
    "$(touch /tmp/x)",
    "`id`",
    "; rm -rf .",
    "'\"",
    "a b",
    "a\n",
    "a\0",
    "-rf",
    ".",
    "..",
    "{recipe}",
    "{layer.__class__}",
    "{layer:99999999999d}",
    "{layer",
    "*",
    "a|b",
    "(",
    "con",
    "é",
    "a" * 300,
    "1" * 5000,
    "9" * 18 + "B",
    "0",
    "0k",
    "1.5",
    "٣k",
    "inf",
    "nan",
    "0-9999",
    "9999-0",
    "all",
    "final",
    "hub",
    "local",
    "package",
    "pretrain",
    "lora",
]
NUMBERS = [0, -1, 1, 2**31, 2**63, 10**40, 1e308, float("inf"), float("nan"), 0.5, True, None]
PLAIN = st.sampled_from([*HOSTILE, *NUMBERS]) | st.text(max_size=20)
VALUES = st.recursive(
    PLAIN,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(PLAIN.filter(lambda key: key == key), inner, max_size=3)
    ),
    max_leaves=6,
)
FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,230}")


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def keys(value, path=()):
    """Paths of all sections and values."""
    yield path
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from keys(inner, (*path, key))


def changed(config, path: tuple, name, value, rename: bool):
    """A copy with the value, or the name of the key, at the end of `path` replaced."""
    if not path:
        return value
    first, rest = path[0], path[1:]
    if isinstance(config, list):
        return [changed(each, rest, name, value, rename) if i == first else each for i, each in enumerate(config)]
    if not isinstance(config, dict):
        return config
    if not rest and rename:
        return {name if key == first else key: each for key, each in config.items()}
    return {key: changed(each, rest, name, value, rename) if key == first else each for key, each in config.items()}


def clean_or_told(config) -> bool:
    """Raises AssertionError if a config does neither of what it must; True if it is right."""
    try:
        atlas = Atlas(complete_config(config, "config.yaml"))
    except AtlasError as error:
        lines = str(error).splitlines()
        assert lines and all(line.startswith("config.yaml: ") and len(line) < 700 for line in lines)
        return False
    for recipe in atlas.recipes:
        assert FILE_NAME.fullmatch(atlas.release_name(recipe))
        for layer in atlas.layers[:2]:
            assert FILE_NAME.fullmatch(atlas.sae_name(recipe, layer))
            for snapshot in atlas.snapshots[:2]:
                atlas.identity(atlas.checkpoint_rule(recipe, snapshot), recipe=recipe, layer=layer, snapshot=snapshot)
    assert all(FILE_NAME.fullmatch(atlas.config[part]["name"]) for part in ("base_model", "corpus"))
    assert all(re.fullmatch(r"[0-9]+[kMB]?", snapshot) for snapshot in atlas.snapshots)
    return True


CHANGES = st.tuples(st.sampled_from(list(keys(FULL))), PLAIN.filter(lambda key: key == key), VALUES, st.booleans())


@fuzzed(300, changes=st.lists(CHANGES, min_size=1, max_size=3))
def test_any_value_anywhere_is_right_or_told(changes):
    config = FULL
    for path, name, value, rename in changes:
        config = changed(config, path, name, value, rename)
    with memory(300):
        clean_or_told(config)


def test_the_full_config_is_right():
    assert clean_or_told(FULL)


TEXT = yaml.safe_dump(FULL, sort_keys=False).encode()
YAML = [
    "&a ",
    "*a",
    "<<: *a\n",
    "[",
    "{",
    "]",
    "}",
    "!!python/object/apply:os.getpid []",
    "? ",
    "|",
    "---\n",
    "%YAML 9\n",
]
YAML += ["9" * 5000, "[" * 2000, "\t", "2020-01-01", "!!binary x", "!!timestamp x", "!!set {a}", "0x", "1:2:3"]
PIECES = st.sampled_from([*(piece.encode() for piece in YAML), b"\xff\xfe"])


@fuzzed(150, done=damages(), pieces=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), PIECES), max_size=4))
def test_any_text_is_read_or_told(done, pieces):
    content = damaged(TEXT, done)
    for fraction, piece in pieces:
        at = int(fraction * len(content))
        content = content[:at] + piece + content[at:]
    with tempfile.TemporaryDirectory() as folder, memory(300):
        file = Path(folder) / "config.yaml"
        file.write_bytes(content)
        try:
            read_config(file)
        except AtlasError as error:
            assert all(line.startswith(f"{file}: ") and len(line) < 1000 for line in str(error).splitlines())


def bomb(first: str, each: str, levels: int) -> str:
    """Every level names the one before it ten times."""
    return f"a0: &a0 {first}\n" + "".join(
        f"a{i}: &a{i} {each.replace('*', f'*a{i - 1}')}\n" for i in range(1, levels + 1)
    )


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (bomb("[x, x]", f"[{', '.join(['*'] * 10)}]", 12), "holds more than 20000 values"),
        (bomb("{x: 1}", "{" + ", ".join(f"k{i}: *" for i in range(10)) + "}", 12), "holds more than 20000 values"),
        (bomb("{x: 1, y: 2}", "{<<: [*, *]}", 40), "(holds more than 20000 values|is nested more than 24 deep)"),
        ("a: &a [*a]\n", "is nested more than 24 deep, or holds itself"),
        ("a: &a {b: *a}\n", "is nested more than 24 deep, or holds itself"),
        ("a: " + "[" * 5000 + "]" * 5000, "is nested more than 24 deep"),
        ("a: " + "9" * 5000, "cannot be read as YAML"),
        ("corpus: {seed: " + "9" * 100 + "}", r"corpus.seed: a number of 333 bits"),
        ("corpus: {seed: .nan}", "corpus.seed: nan is no number"),
        ("corpus: {name: 2020-01-01}", "corpus.name: YAML reads this as date; write it in quotes"),
        ('corpus: {name: "a\\n"}', "corpus.name: has characters that cannot be printed"),
        ("1: 2", "1: a key must be text"),
        ("x" * 2**19, "is larger than 262,144 bytes"),
        ("a: !!python/object/apply:os.system ['touch ran']", "cannot be read as YAML"),
        ("a: 1\n\tb: 2\n", r"cannot be read as YAML \(line 2, column 1: .*\); indent with spaces"),
        ("a: [1\nb: 2\n", r"cannot be read as YAML \(line 2, column 2: .*\); mend it"),
        ("[1, 2]", "is no config"),
    ],
)
def test_bombs_are_one_line(tmp_path, monkeypatch, text, line):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with memory(300), pytest.raises(AtlasError) as error:
        read_config(file)
    assert re.match(rf"{re.escape(str(file))}: {line}", str(error.value)), str(error.value)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_a_config_is_utf_8(tmp_path, encoding):
    (file := tmp_path / "config.yaml").write_bytes("corpus: {name: für}".encode(encoding))
    with pytest.raises(AtlasError, match=r"config\.yaml: byte \d+ is not UTF-8; save it as UTF-8$"):
        read_config(file)


def test_the_command_line_tells_it_before_snakemake_reads_it(tmp_path, capsys):
    """Snakemake runs code of a config that says `__use_yte__`; so one of others is looked at with `sae-atlas check` first."""
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(FULL | {"__use_yte__": True, "x": f"?open({str(tmp_path / 'ran')!r}, 'w')"}))
    assert main(["check", str(file)]) == 1
    assert "__use_yte__: no such key" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()
    file.write_text(yaml.safe_dump(FULL))
    assert main(["check", str(file)]) == 0


@pytest.mark.parametrize("file", ["../{layer}", "/etc/{layer}", "~/{layer}", "a/../../{layer}"])
def test_a_release_of_others_is_not_left(file):
    recipe = {**FULL["recipes"]["theirs"], "pretrained": {**FULL["recipes"]["theirs"]["pretrained"], "file": file}}
    with pytest.raises(AtlasError, match=r"pretrained\.file: .* leads out of the release"):
        complete_config(small(**{"recipes.theirs": recipe}), "config.yaml")


def test_no_rule_and_no_module_hands_anything_to_a_shell():
    """Rules have scripts, whose parameters are Python values; so there is nothing to quote."""
    rules = [*(ROOT / "workflow").rglob("*.smk"), ROOT / "Snakefile"]
    assert len(rules) > 10
    for file in rules:
        assert not re.search(r"^\s*(shell|run|wrapper):|\bshell\(", file.read_text(), re.MULTILINE), file
    for file in [*(ROOT / "sae_atlas").rglob("*.py"), *(ROOT / "workflow/scripts").glob("*.py")]:
        text = file.read_text()
        assert not re.search(r"os\.system|os\.popen|shell=True|(?<![.\w])(eval|exec)\(|pickle\.load", text), file


def test_every_wildcard_is_constrained():
    rules = (ROOT / "workflow/rules/common.smk").read_text().split("wildcard_constraints:")[1]
    constrained = re.findall(r"^    (\w+)=", rules, re.MULTILINE)
    assert {"recipe", "layer", "snapshot"} <= set(constrained)
    for file in (ROOT / "workflow/rules").glob("*.smk"):
        for logs in re.findall(r"^    log:\n\s+\"(.*)\",$", file.read_text(), re.M):
            found = set(re.findall(r"\{(\w+)", logs))
            assert found <= set(constrained) | {"comparison"}, file  # the survival page's own, constrained there


def test_long_names_still_fit_a_file_system():
    longest = sae_name("b" * 80, "x." + "s" * 40, 9999, 99999, 999_999_000, "r" * 80)
    assert len(f".{longest}.partial-1234567") <= 255
