"""The restoration model's tokenizer: the id of a character is its Unicode code point."""

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from sae_atlas.io.errors import AtlasError

SPACE = " "  # the model's padding; here it also begins documents
DAMAGE = "#"  # the model's sign for a damaged stretch; read in place of characters beyond the vocabulary
SURROGATES = 0xD800  # code points from here on are no characters


def code_point_tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """`vocabulary` ids. Raises AtlasError if they do not end between the two signs above and the surrogates."""
    if not ord(DAMAGE) < vocabulary <= SURROGATES:
        raise AtlasError(
            f"base_model.path: {vocabulary} is no number of characters; it ends beyond `#`, below {SURROGATES}"
        )
    tokenizer = Tokenizer(models.WordLevel({chr(point): point for point in range(vocabulary)}, unk_token=DAMAGE))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([AddedToken(SPACE, special=True, normalized=False)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=SPACE,
        pad_token=SPACE,
        unk_token=DAMAGE,
        clean_up_tokenization_spaces=False,
    )
