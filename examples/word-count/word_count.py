"""A cell that counts the words of texts."""

import re
from collections import Counter
from dataclasses import dataclass

from cellmesh import Cell, Message

cell = Cell("word-count", services=["word-count"])


@dataclass
class Text:
    """What is asked: a text, and how many of its most frequent words are wanted."""

    text: str
    top: int = 3


@cell.on("query")
def count(message: Message) -> dict[str, object]:
    """Count; a payload that is no ``Text`` is rejected, and its message becomes a dead letter."""
    asked = message.decode(Text)
    words = Counter(re.findall(r"[^\W\d_]+(?:['\u2019-][^\W\d_]+)*", asked.text.lower()))
    return {
        "words": words.total(),
        "different": len(words),
        "top": [{"word": word, "count": times} for word, times in words.most_common(max(asked.top, 0))],
    }
