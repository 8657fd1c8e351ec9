"""Conversations as text, in the format that the model was tuned on: its tokenizer's own chat template."""

from collections.abc import Callable

from sae_atlas.io.errors import AtlasError
from sae_atlas.texts.rows import plain_text


def chat_format(tokenizer) -> Callable[[object], str]:
    """A function that makes a list of messages (`role`, `content`) into text. It raises ValueError for anything else.

    Raises AtlasError if the tokenizer has no template.
    """
    from jinja2 import TemplateError

    if not tokenizer.chat_template:
        raise AtlasError(
            "corpus.chat: the base model's tokenizer has no chat template; remove the key, or give the folder its "
            "chat_template.jinja (of a model that was prepared before templates were read: --forcerun prepare_model)"
        )

    def format_chat(value: object) -> str:
        if not isinstance(value, list) or not value:
            raise ValueError(f"holds {repr(value)[:80]}, which is no list of messages")
        for message in value:
            if not isinstance(message, dict) or not {"role", "content"} <= set(message):
                raise ValueError(f"holds {repr(message)[:80]}, which is no message with `role` and `content`")
            plain_text(message["role"]), plain_text(message["content"])
        try:
            text = tokenizer.apply_chat_template(value, tokenize=False)
        except (TemplateError, TypeError, ValueError) as error:
            raise ValueError(f"holds messages that the chat template refuses ({error})") from error
        # Documents are joined with the start token; a template that writes it too would give two.
        return text.removeprefix(tokenizer.bos_token or "")

    return format_chat
