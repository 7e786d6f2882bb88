"""Words that llama-server reads as others: an option that is on, off or auto takes several words for each. Found by running it."""

from __future__ import annotations

from collections.abc import Mapping

from reconciler.backends._vocabulary import Option

ON_OFF = frozenset({"on", "off"})
_MEANT: Mapping[str, str] = {
    **dict.fromkeys(("1", "true", "enabled"), "on"),
    **dict.fromkeys(("0", "false", "disabled"), "off"),
    "-1": "auto",
}
"""As it prints in its own help what it calls them (llama-server 0.5.0; ``yes`` and other cases are refused by it)."""


def meant(option: Option, text: str) -> str:
    """The option's own word for what was written; the text itself for anything else."""
    if set(option.choices) >= ON_OFF and text not in option.choices:
        word = _MEANT.get(text, text)
        return word if word in option.choices else text
    return text
