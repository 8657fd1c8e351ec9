"""Saving and sharding: what is kept, in which order, with which normaliser; damage is named."""

import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
import zarr
from zarr.codecs import Crc32cCodec

from sae_atlas.activations.coding import Grid, encode
from sae_atlas.activations.outliers import median_norm
from sae_atlas.activations.save import _stored, save_activations
from sae_atlas.activations.shard import geometric_median, shard_activations
from sae_atlas.activations.store import open_store
from sae_atlas.base_models.load import load
from sae_atlas.base_models.prepare import prepare
from sae_atlas.corpus import open_corpus, tokenize
from sae_atlas.io.errors import AtlasError, Damaged
from sae_atlas.io.log import job_log

MODEL = {
    "source": "random",
    "architecture": "gpt_neox",
    "sizes": {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32},
    "seed": 0,
    "tokenizer": "bytes",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A prepared random model and a corpus."""
    folder = tmp_path_factory.mktemp("model")
    prepare(folder / "provenance.json", **MODEL)
    text = folder / "text.txt"
    text.write_text("\n\n".join(f"Document {number} says {number * 37}." for number in range(400)))
    source = {"source": "local", "path": str(text)}
    tokenize(folder / "provenance.json", folder / "corpus.zarr", source, 16, 3000, 500, 0)
    return folder


def save(place, output, start=0, stop=1000, dtype="float16", site="resid_post", layers=(0, 2), batch=7):
    save_activations(
        place / "provenance.json",
        place / "corpus.zarr",
        output,
        list(layers),
        site,
        start,
        stop,
        dtype,
        "float32",
        batch,
    )
    return zarr.open_group(output, mode="r")


def test_all_layers_of_a_pass_are_the_models_own_without_masked_positions(place, tmp_path):
    saved = save(place, tmp_path / "a.zarr", dtype="float32")
    model, _ = load(place / "provenance.json", "float32")
    corpus = open_corpus(place / "corpus.zarr")
    window = corpus.window(0, 1000)
    tokens = torch.from_numpy(corpus.tokens[window.start : window.stop].astype(np.int64))
    mask = corpus.mask[window.start : window.stop]
    # hidden_states: the embedding, then the stream after every block but the last, then the final norm's output
    hidden = model(tokens, output_hidden_states=True).hidden_states
    np.testing.assert_allclose(saved["layer00"][:], hidden[1].numpy()[mask], atol=1e-5)
    assert saved["layer02"].shape == (mask.sum(), 16)
    assert saved.attrs["masked"] == (~mask).sum()


def test_the_batch_of_contexts_does_not_change_what_is_saved(place, tmp_path):
    one, other = (save(place, tmp_path / f"{n}.zarr", dtype="float32", batch=n)["layer02"][:] for n in (1, 64))
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_overflow_and_nan_are_named():
    with pytest.raises(
        AtlasError, match=r"layer 4: activation 70000 does not fit float16.*activations\.dtype: float32"
    ):
        _stored(torch.tensor([[70_000.0]]), "float16", 4)
    assert _stored(torch.tensor([[70_000.0]]), "float32", 4)[0, 0] == 70_000
    with pytest.raises(AtlasError, match="layer 4: the model gives NaN"):
        _stored(torch.tensor([[float("nan")]]), "float16", 4)


def test_an_unknown_module_is_refused_before_the_work(place, tmp_path):
    with pytest.raises(AtlasError, match=r"no module 'gpt_neox\.layers\.\{layer\}\.mpl'"):
        save(place, tmp_path / "a.zarr", site="gpt_neox.layers.{layer}.mpl")
    assert not (tmp_path / "a.zarr").exists()


def raw(path, rows: np.ndarray):
    """Activations as save_activations leaves them, of one layer."""
    group = zarr.create_group(path, zarr_format=3)
    group.create_array("layer03", data=rows, chunks=(100, rows.shape[1]), compressors=[Crc32cCodec()])
    group.attrs.update({"base_model": {}, "site": "resid_post", "window": [0, len(rows)], "masked": 5})
    return path


def shard(source, output, compression="none", outlier_norm=10.0, seed=0, dtype="float16"):
    shard_activations(source, output, 3, dtype, compression, outlier_norm, 400, 100, seed)
    return open_store(output)


@pytest.fixture
def rows():
    """1,050 rows; the first value of a row is its number, exact in float16."""
    values = np.random.default_rng(0).normal(size=(1050, 6)).astype(np.float16) * 20
    values[:, 0] = np.arange(1050)
    return values


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_a_store_holds_every_row_once_shuffled_within_its_shard(rows, tmp_path, compression):
    store = shard(raw(tmp_path / "raw.zarr", rows), tmp_path / "store.zarr", compression)
    read = np.concatenate(list(store.batches(50)))
    assert read.dtype == np.float32
    for first in (0, 400, 800):
        numbers = read[first : first + 400, 0]
        assert sorted(numbers) == list(range(first, min(first + 400, 1050)))
        assert (numbers != np.sort(numbers)).any()
    np.testing.assert_array_equal(read[np.argsort(read[:, 0])], rows.astype(np.float32))


def test_the_normaliser_centres_and_scales_to_one(rows, tmp_path):
    store = shard(raw(tmp_path / "raw.zarr", rows), tmp_path / "store.zarr")
    scaled = (rows.astype(np.float64) - store.input.mean) * store.input.scale
    np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose((scaled**2).sum(axis=1).mean(), 1, rtol=1e-4)


def test_a_dimension_with_a_large_mean_does_not_spoil_the_scale(tmp_path):
    rows = np.random.default_rng(0).standard_normal((4000, 64)).astype(np.float32)
    rows[:, 5] = 10_000 + rows[:, 5]
    store = shard(raw(tmp_path / "raw.zarr", rows), tmp_path / "store.zarr", dtype="float32")
    centred = rows.astype(np.float64) - rows.mean(axis=0, dtype=np.float64)
    assert store.attrs["spread"] == pytest.approx((centred**2).sum(axis=1).mean(), rel=1e-6)


def test_outliers_are_dropped_and_counted(rows, tmp_path):
    rows = rows.copy()
    rows[:, 0] = 1
    rows[[3, 700]] *= 500
    store = shard(raw(tmp_path / "raw.zarr", rows), tmp_path / "store.zarr")
    assert store.rows == 1048
    assert store.attrs["dropped"] == {"mask": 5, "outlier": 2}
    assert np.abs(np.concatenate(list(store.batches(8)))).max() < 200


@pytest.mark.parametrize("share", [0.4, 0.9])
def test_rows_of_zeros_make_no_outliers_of_the_others(rows, tmp_path, share):
    rows, zero = rows.copy(), np.random.default_rng(1).random(1050) < share
    rows[:, 0], zero[3] = 1, False
    rows[3] *= 500
    rows[zero] = 0
    store = shard(raw(tmp_path / "raw.zarr", rows), tmp_path / "store.zarr")
    assert store.attrs["dropped"] == {"mask": 5, "outlier": 1}
    assert store.rows == 1049 and (store.attrs["norm_quantiles"]["0.5"] == 0) == (share > 0.5)


@pytest.mark.parametrize("count", [1, 100, 1001])
def test_the_median_norm_is_the_plain_one_where_no_norm_is_zero(count):
    norms = np.random.default_rng(0).exponential(size=count).astype(np.float32)
    assert median_norm(norms) == np.median(norms) and median_norm(norms).dtype == np.float32
    assert median_norm(torch.from_numpy(norms)) == np.median(norms)
    assert median_norm(np.concatenate([norms, np.zeros(2 * count, np.float32)])) == np.median(norms)
    assert median_norm(np.zeros(count)) == median_norm(torch.zeros(count)) == 0
    assert np.isnan(median_norm(np.array([1, 0, np.nan])))


def test_reading_from_a_row_on_is_the_rest_and_a_partial_batch_is_left_out(rows, tmp_path):
    store = shard(raw(tmp_path / "raw.zarr", rows), tmp_path / "store.zarr")
    whole = list(store.batches(64))
    assert [len(batch) for batch in whole] == [64] * 16
    np.testing.assert_array_equal(np.concatenate(list(store.batches(64, 128))), np.concatenate(whole[2:]))


def test_a_reading_that_is_given_up_waits_for_no_thread(rows, tmp_path):
    """It ends wherever its memory is freed, be it in a thread that holds a lock which an ending thread needs."""

    def readers():
        return {thread.ident for thread in threading.enumerate() if thread.name.startswith("store_")}

    store = shard(raw(tmp_path / "raw.zarr", rows), tmp_path / "store.zarr")
    next(store.batches(10))
    before = readers()
    next(store.batches(10))
    assert before and readers() == before


@pytest.mark.parametrize("batch", [50, 64, 100, 250])
def test_batches_may_lie_across_chunks(rows, tmp_path, batch):
    store = shard(raw(tmp_path / "raw.zarr", rows), tmp_path / "store.zarr")
    stored = zarr.open_array(tmp_path / "store.zarr", mode="r")[:].astype(np.float32)  # Zarr's own reading
    for start in (0, 130):
        read = np.concatenate(list(store.batches(batch, start)))
        np.testing.assert_array_equal(read, stored[start : start + (1050 - start) // batch * batch])


@pytest.fixture
def uneven():
    """1,050 rows with a dimension 100 times the others, one far from 0 and one that never changes."""
    values = np.random.default_rng(1).normal(size=(1050, 6))
    values[:, 1] *= 100
    values[:, 2] += 50
    values[:, 3] = 7
    return values.astype(np.float16)


def read_both(uneven, tmp_path, compression, **how):
    """A store of `how`, what it gives, and what one of float16 with the same order of rows gives."""
    raw(tmp_path / "raw.zarr", uneven)
    store = shard(tmp_path / "raw.zarr", tmp_path / "store.zarr", compression, **how)
    plain = shard(tmp_path / "raw.zarr", tmp_path / "plain.zarr", compression)
    np.testing.assert_array_equal(
        store.input.mean, plain.input.mean
    )  # the normaliser is that of the activations themselves
    assert store.input.scale == plain.input.scale
    return store, plain, *(np.concatenate(list(each.batches(50))) for each in (store, plain))


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_int8_is_within_half_a_step_of_every_dimensions_own_range(uneven, tmp_path, compression):
    store, _, read, values = read_both(uneven, tmp_path, compression, dtype="int8")
    half = (uneven.max(axis=0).astype(np.float32) - uneven.min(axis=0)) / 254 / 2
    assert (np.abs(read - values) <= half * 1.001 + 1e-6).all()
    assert zarr.open_array(store.path, mode="r").dtype == np.int8


def test_what_does_not_fit_the_precision_is_an_error():
    """A NaN has no level, nor has what lies outside the range."""
    grid = Grid.over(np.zeros(2), np.ones(2))
    for value in (np.nan, 1.1):
        with pytest.raises(AtlasError, match=r"does not fit a store of int8; set activations\.dtype: float32"):
            encode(np.array([[0.5, value]], np.float32), grid)


def damage_bit(file):
    content = bytearray(file.read_bytes())
    content[150] ^= 1
    file.write_bytes(content)


def damage_length(file):
    file.write_bytes(file.read_bytes()[:-100])


def damage_index(file):
    content = bytearray(file.read_bytes())
    content[-30] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("dtype", ["float16", "int8"])
@pytest.mark.parametrize("compression", ["none", "zstd"])
@pytest.mark.parametrize("damage", [damage_bit, damage_index, damage_length], ids=["bit flip", "index", "truncated"])
def test_damage_is_one_line_with_the_remedy(rows, tmp_path, damage, compression, dtype):
    store = shard(raw(tmp_path / "raw.zarr", rows), tmp_path / "store.zarr", compression, dtype=dtype)
    damage(tmp_path / "store.zarr" / "c" / "1" / "0")
    with pytest.raises(AtlasError, match=r"store\.zarr: chunk [4-7] .*Delete it and rerun; it will be rebuilt\."):
        list(store.batches(50))


def test_a_missing_shard_is_not_read_as_zeros(rows, tmp_path):
    shard(raw(tmp_path / "raw.zarr", rows), tmp_path / "store.zarr")
    (tmp_path / "store.zarr" / "c" / "2" / "0").unlink()
    with pytest.raises(AtlasError, match="shard 2 is missing"):
        open_store(tmp_path / "store.zarr")


def test_damaged_attributes_are_never_believed(rows, tmp_path):
    """Any byte of the metadata altered: refused, or (white space) nothing changed."""
    store = shard(raw(tmp_path / "raw.zarr", rows), tmp_path / "store.zarr")
    file = tmp_path / "store.zarr" / "zarr.json"
    whole, refused = file.read_bytes(), 0
    for place in range(0, len(whole), 37):
        content = bytearray(whole)
        content[place] ^= 1
        file.write_bytes(content)
        try:
            found = open_store(tmp_path / "store.zarr")
            assert (found.attrs, found.rows, found.input.scale) == (store.attrs, store.rows, store.input.scale)
        except AtlasError as error:
            assert "Delete it and rerun" in str(error)
            refused += 1
    assert refused > 10


@pytest.mark.parametrize("how", ["flip", "remove"])
def test_damaged_activations_make_no_store(rows, tmp_path, how):
    source = raw(tmp_path / "raw.zarr", rows)
    file = source / "layer03" / "c" / "4" / "0"
    damage_bit(file) if how == "flip" else file.unlink()
    with pytest.raises(AtlasError, match=r"layer03: chunk 4 .* Delete the activations and rerun"):
        shard(source, tmp_path / "store.zarr")
    assert not (tmp_path / "store.zarr").exists()


@pytest.mark.parametrize("content", ["", "{}", '{"zarr_format": 3, "node_ty'])
@pytest.mark.parametrize("of", ["zarr.json", "layer03/zarr.json"])
def test_damaged_attributes_of_activations_are_one_line(rows, tmp_path, of, content):
    source = raw(tmp_path / "raw.zarr", rows)
    (source / of).write_text(content)
    with pytest.raises(Damaged, match=r"raw\.zarr: (holds no readable layer03|its attributes are not whole)\. Delete"):
        shard(source, tmp_path / "store.zarr")
    assert not (tmp_path / "store.zarr").exists()


def test_a_full_disk_leaves_the_log_one_line_and_the_disk_clean(rows, tmp_path):
    """A file system of 64 kB, and a store that does not fit."""
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", small], capture_output=True).returncode:
        pytest.skip("mounting needs root")
    try:
        source = raw(tmp_path / "raw.zarr", np.repeat(rows, 10, axis=0))
        with pytest.raises(SystemExit), job_log(tmp_path / "log"):
            shard(source, small / "store.zarr")
        assert "the disk is full" in (tmp_path / "log").read_text()
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", small], check=True)


def test_no_variance_is_refused(tmp_path):
    with pytest.raises(AtlasError, match="every token has the same activation"):
        shard(raw(tmp_path / "raw.zarr", np.ones((500, 4), np.float16)), tmp_path / "store.zarr")


def test_geometric_median_is_not_moved_by_a_far_point():
    points = np.array([[0.0, 0], [1, 0], [0, 1], [1, 1], [1e6, 1e6]])
    assert np.linalg.norm(geometric_median(points) - [0.5, 0.5]) < 1


@pytest.mark.parametrize("stage", ["shard", "train"])
def test_lean_stages_do_not_import_transformers(stage):
    module = {"shard": "sae_atlas.activations.shard", "train": "sae_atlas.training.train"}[stage]
    heavy = {"shard": ["torch", "transformers", "datasets"], "train": ["transformers", "datasets", "pandas"]}[stage]
    code = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_what_float16_would_round_away_is_refused():
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(64, 16, generator=generator)
    for size in (1e-4, 1e-8):
        rounded = (size * values).half().float()
        lost = ((rounded - size * values) ** 2).sum() / ((size * values) ** 2).sum()
        if size == 1e-8:
            assert lost > 1e-3
            with pytest.raises(AtlasError, match=r"layer 2: activations of 1e-08 lose digits in float16; set"):
                _stored(size * values, "float16", 2)
        else:
            assert lost < 1e-6 and len(_stored(size * values, "float16", 2)) == 64
        assert len(_stored(size * values, "float32", 2)) == 64
    assert not _stored(torch.zeros(4, 16), "float16", 2).any()
