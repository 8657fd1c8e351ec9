"""Conversations in the model's own format: the embedded instruct model's tokenizer, and templates that refuse."""

import json

import numpy as np
import pytest

from models import write_tokenizer
from sae_atlas.base_models.byte_tokenizer import byte_tokenizer
from sae_atlas.base_models.prepare import named_tokenizer
from sae_atlas.config.read import complete_config
from sae_atlas.corpus import open_corpus, tokenize
from sae_atlas.io.errors import AtlasError
from sae_atlas.publish.cards.facts import Origin
from sae_atlas.stages.atlas import Atlas
from sae_atlas.texts.chat import chat_format
from workflow import small

CHAT = [{"role": "user", "content": "How many legs has a spider?"}, {"role": "assistant", "content": "Eight."}]
FORMATTED = (
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    "<|im_start|>user\nHow many legs has a spider?<|im_end|>\n<|im_start|>assistant\nEight.<|im_end|>\n"
)


@pytest.fixture(scope="module")
def tokenizer():
    return named_tokenizer("package")


def write(folder, tokenizer, rows, **text):
    (folder / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = {"source": "local", "path": str(folder / "chat.jsonl"), "chat": True, **text}
    tokenize(write_tokenizer(folder, tokenizer), folder / "a.zarr", text, 64, 600, 200, 0)
    return open_corpus(folder / "a.zarr")


def test_messages_are_formatted_by_the_models_own_template(tmp_path, tokenizer):
    """The template survives the prepared folder, and its marks become the tokens that they name."""
    corpus = write(tmp_path, tokenizer, [{"messages": CHAT}] * 40)
    stream = tokenizer.decode(corpus.tokens[:].ravel())
    assert f"<|endoftext|>{FORMATTED}<|endoftext|>" in stream
    mark, start = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|endoftext|>"])
    tokens, mask = corpus.tokens[:], corpus.mask[:]
    assert (tokens == mark).any() and (mask == (tokens != start)).all()


def test_special_tokens_of_the_template_are_left_out_and_a_conversation_stays_one_document(tmp_path, tokenizer):
    corpus = write(tmp_path, tokenizer, [{"turns": {"all": CHAT}}] * 40, field="turns.all", exclude=["special"])
    tokens, mask = corpus.tokens[:], corpus.mask[:]
    special = np.isin(
        tokens, tokenizer.all_special_ids + tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    )
    assert (mask == ~special).all() and special.mean() > 0.1
    numbers = corpus.documents(range(len(tokens)))
    assert (np.diff(numbers, axis=1)[:, 1:] == (tokens == tokenizer.bos_token_id)[:, 2:]).all()
    assert corpus.attributes["train_tokens"] == mask[corpus.held_out :].sum() >= 600


@pytest.mark.parametrize(
    ("row", "line"),
    [
        ({"messages": "hello"}, r"column 'messages' holds 'hello', which is no list of messages"),
        ({"messages": []}, r"holds \[\], which is no list of messages"),
        ({"messages": [{"from": "human", "value": "x"}]}, r"holds \{'from': .*no message with `role` and `content`"),
        ({"messages": [{"role": "user", "content": None}]}, r"holds None, which is no text"),
        ({"text": "x"}, r"no column 'messages'; there is text"),
    ],
)
def test_what_is_no_conversation_is_named(tmp_path, tokenizer, row, line):
    with pytest.raises(AtlasError, match=rf"corpus\.field: .*{line}.*chat\.jsonl, row 2\)"):
        write(tmp_path, tokenizer, [{"messages": CHAT}, row])


def test_a_template_that_refuses_or_writes_the_start_token_and_a_tokenizer_without_one(tmp_path):
    tokenizer = byte_tokenizer()
    with pytest.raises(AtlasError, match=r"corpus\.chat: the base model's tokenizer has no chat template"):
        write(tmp_path, tokenizer, [{"messages": CHAT}])
    tokenizer.chat_template = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}"
    assert chat_format(tokenizer)(CHAT) == "How many legs has a spider?Eight."
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(AtlasError, match=r"the chat template refuses \(roles must alternate\) .*row 1\)"):
        write(tmp_path, tokenizer, [{"messages": CHAT}])


@pytest.mark.parametrize("template", ["chat_template.jinja", "tokenizer_config.json", None])
def test_a_tokenizer_without_a_template_is_refused_when_the_config_is_read(tmp_path, template):
    corpus = {"name": "c", "source": "local", "path": "c.jsonl", "chat": True, "context": 32, "tokens": "8k"}
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{{ messages }}" if template else None
    tokenizer.save_pretrained(tmp_path, save_jinja_files=template == "chat_template.jinja")
    (tmp_path / "config.json").write_text('{"num_hidden_layers": 3}')
    local = {"name": "mine", "source": "local", "path": str(tmp_path)}
    refused = r"corpus\.chat: the tokenizer of .* has no chat template; remove it or take an instruct model"
    if template:
        assert (tmp_path / template).is_file()
        assert complete_config(small(corpus=corpus, base_model=local), "c.yaml")["corpus"]["chat"]
    else:
        with pytest.raises(AtlasError, match=refused):
            complete_config(small(corpus=corpus, base_model=local), "c.yaml")
    with pytest.raises(AtlasError, match=refused):
        complete_config(small(corpus=corpus), "c.yaml")  # bytes
    embedded = {"name": "smollm2", "source": "package", "package": "smollm2-135m-instruct"}
    assert complete_config(small(corpus=corpus, base_model=embedded), "c.yaml")["corpus"]["chat"]


def test_keys_that_came_later_leave_identities_as_they_are():
    given = {"chat": False, "bad_rows": "refuse", "exclude": []}
    corpus = {"name": "c", "source": "local", "path": "c.jsonl", "context": 32, "tokens": "8k"}
    atlases = [Atlas(complete_config(small(corpus=each), "c.yaml")) for each in (corpus, corpus | given)]
    assert len({atlas.identity("tokenize") for atlas in atlases}) == 1
    assert set(atlases[0].settings("tokenize")["text"]) == {"source", "path"}
    others = [{"chat": True}, {"bad_rows": "skip"}, {"exclude": ["special"]}, {"field": "body"}]
    section = {"name": "smollm2", "source": "package", "package": "smollm2-135m-instruct"}
    configs = [small(corpus=corpus | each, base_model=section) for each in [{}, *others]]
    assert len({Atlas(complete_config(each, "c.yaml")).identity("tokenize") for each in configs}) == 5


def test_cards_say_how_a_text_was_read():
    text = {"source": "local", "path": ["/home/me/a.jsonl", "b.csv.gz"], "chat": True, "exclude": ["special", "<x>"]}
    assert Origin("m", {}, "t", {"text": text}).text_source == "local a.jsonl, b.csv.gz, exclude special <x>, chat"
    assert Origin("m", {}, "t", {"text": {"source": "local", "path": "/a/b.txt"}}).text_source == "local b.txt"
    lines = {"source": "local", "path": "b.txt", "exclude": ["\n", "▁a", "<x>"]}
    assert Origin("m", {}, "t", {"text": lines}).text_source == r"local b.txt, exclude \n ▁a <x>"
