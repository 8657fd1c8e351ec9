"""What is pushed is what is listed; a dry run sends nothing; the token is sent to the hub and nowhere else."""

import os
import subprocess
import sys

import pytest
import yaml
from hub import serve
from published import Run

from sae_atlas.__main__ import main
from workflow import ROOT

TOKEN = "hf_a-secret-of-this-test"


def push(hub, home, folder, *arguments, token=TOKEN):
    """`sae-atlas push` in a process of its own: the hub's client reads its environment when it is imported."""
    known = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "PYTHONPATH": str(ROOT)}
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")} | known
    environment |= {"HF_TOKEN": token} if token else {}
    command = [sys.executable, "-m", "sae_atlas", "push", str(folder), "--repo-id", "someone/their-saes", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def contents(folder) -> dict:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_release_arrives_whole_in_one_commit(tmp_path):
    folder = Run(tmp_path).publish()
    with serve() as hub:
        done = push(hub, tmp_path / "home", folder)
    assert done.returncode == 0, done.stderr
    assert hub.files == contents(folder)
    assert {"README.md", "config.yaml", "plots/2_metrics_heatmap.png", "sae_layer01_final.pt"} <= set(hub.files)
    assert sum("/commit/" in path for _, path, _ in hub.requests) == 1
    assert done.stdout.splitlines()[-1] == f"published at {hub.url}/someone/their-saes/commit/{'a' * 40}"
    api = [authorization for _, path, authorization in hub.requests if "/api/models/" in path]
    assert set(api) == {f"Bearer {TOKEN}"}
    assert all(authorization is None for _, path, authorization in hub.requests if path.startswith("/lfs/"))
    assert TOKEN not in done.stdout + done.stderr


def test_the_folder_of_one_sae_can_be_pushed_too(tmp_path):
    folder = Run(tmp_path).card()
    with serve() as hub:
        assert push(hub, tmp_path / "home", folder).returncode == 0
    assert hub.files == contents(folder)


def test_a_dry_run_lists_files_and_sizes_and_asks_the_hub_nothing(tmp_path):
    folder = Run(tmp_path).publish()
    with serve() as hub:
        done = push(hub, tmp_path / "home", folder, "--dry-run", token=None)
    assert done.returncode == 0 and hub.requests == []
    for name, content in contents(folder).items():
        assert f"{len(content):>15,}  {name}\n" in done.stdout
    total = sum(map(len, contents(folder).values()))
    assert f"{total:>15,}  bytes in {len(contents(folder))} files" in done.stdout
    assert "nothing was uploaded" in done.stdout


def test_without_a_token_or_with_a_refusal_one_line_says_so(tmp_path):
    folder = Run(tmp_path).publish()
    with serve() as hub:
        done = push(hub, tmp_path / "home", folder, token=None)
        assert done.stderr == "error: no token for the hub; set HF_TOKEN or run `hf auth login`\n"
        hub.refuse = 403
        done = push(hub, tmp_path / "home", folder)
    assert done.returncode == 1 and hub.files == {}
    assert (
        done.stderr.startswith("error: someone/their-saes: the hub refused (status 403)") and TOKEN not in done.stderr
    )


def list_weights_only(folder) -> None:
    """As releases did before they listed all their files."""
    sums = folder / "SHA256SUMS"
    sums.write_text("".join(line for line in sums.read_text().splitlines(keepends=True) if ".pt" in line))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: (folder / "secrets.txt").write_text("x"), "secrets.txt: no part of what is published"),
        (lambda folder: (folder / "README.md").unlink(), "README.md: is missing"),
        (lambda folder: (folder / "sae_layer00_1k.pt").unlink(), "sae_layer00_1k.pt: is missing"),
        (lambda folder: (folder / "SHA256SUMS").unlink(), "neither a release"),
        (lambda folder: (folder / "plots" / "9_mine.png").write_bytes(b""), "9_mine.png: no part of what is published"),
        (
            lambda folder: (folder / "README.md").write_text("# Mine"),
            "README.md: is not the file that was published here",
        ),
        (lambda folder: list_weights_only(folder), "does not list README.md and config.yaml"),
    ],
)
def test_a_folder_that_is_not_whole_is_refused(tmp_path, capsys, spoil, words):
    folder = Run(tmp_path).publish()
    spoil(folder)
    assert main(["push", str(folder), "--repo-id", "a/b", "--dry-run"]) == 1
    assert words in capsys.readouterr().err


def test_another_config_beside_a_card_is_nothing_that_was_published(tmp_path, capsys):
    (tmp_path / "model_card.md").write_text("# Mine")
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    assert main(["push", str(tmp_path), "--repo-id", "a/b", "--dry-run"]) == 1
    assert "neither a release (SHA256SUMS) nor a published SAE" in capsys.readouterr().err


def test_a_changed_checkpoint_is_refused(tmp_path, capsys):
    folder = Run(tmp_path).publish()
    path = folder / "sae_layer00_1k.pt"
    content = path.read_bytes()
    path.unlink()  # a hard link
    path.write_bytes(content[:-1])
    assert main(["push", str(folder), "--repo-id", "a/b", "--dry-run"]) == 1
    assert "sae_layer00_1k.pt: is not the file that was published here" in capsys.readouterr().err


def test_a_link_to_elsewhere_is_refused(tmp_path, capsys):
    folder = Run(tmp_path).publish()
    (tmp_path / "private").write_text("x")
    picture = next((folder / "plots").glob("*.png"))
    picture.unlink()
    picture.symlink_to(tmp_path / "private")
    assert main(["push", str(folder), "--repo-id", "a/b", "--dry-run"]) == 1
    assert f"{picture}: is a link that leads out of the folder" in capsys.readouterr().err


def test_the_workflow_never_pushes():
    for file in [ROOT / "Snakefile", *ROOT.glob("workflow/**/*.*")]:
        assert "exports.hub" not in file.read_text(), file


def test_the_config_of_a_release_is_the_one_its_page_shows(tmp_path):
    run = Run(tmp_path)
    folder = run.publish()
    shown = (folder / "README.md").read_text().split("```yaml\n")[1].split("```")[0]
    assert yaml.safe_load((folder / "config.yaml").read_text()) == yaml.safe_load(shown)
