"""How much of SAELens' registry of published SAEs is read, counted entry by entry; docs/formats.md says the same number."""

import re
from collections import Counter

from benchmarks.stubs import put_in_place
from sae_atlas.config.conversions import CONVERSIONS
from sae_atlas.publish.formats.gemma_scope import EMBEDDING
from sae_atlas.publish.formats.load import FORMATS
from workflow import ROOT

put_in_place()  # of packages that the peers import and none of this needs


def test_every_conversion_of_saelens_has_a_format_or_a_reason():
    from sae_lens.loading.pretrained_sae_loaders import NAMED_PRETRAINED_SAE_LOADERS

    assert set(CONVERSIONS) == {None, *NAMED_PRETRAINED_SAE_LOADERS}
    for said in CONVERSIONS.values():
        assert said.format in FORMATS or len(said.refusal.split()) > 5


def test_the_share_of_the_registry_that_is_read():
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    entries, read = Counter(), Counter()
    for about in get_pretrained_saes_directory().values():
        for path in about.saes_map.values():
            entries[about.conversion_func] += 1
            of_embeddings = about.conversion_func == "gemma_2" and EMBEDDING in path.split("/")
            read[about.conversion_func] += (CONVERSIONS[about.conversion_func].format in FORMATS) and not of_embeddings
    share = read.total() / entries.total()
    assert share >= 0.99
    text = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
    stated = re.search(r"([\d,]+) of the ([\d,]+) SAEs .* \(([\d.]+) %\)", text)
    assert stated, "docs/formats.md states no share"
    assert [int(each.replace(",", "")) for each in stated.groups()[:2]] == [read.total(), entries.total()]
    assert stated[3] == f"{100 * share:.2f}"
