"""Completion for bash, loaded where a shell asks for one."""

from __future__ import annotations

import shlex

from click.shell_completion import BashComplete, CompletionItem, add_completion_class


@add_completion_class
class _Bash(BashComplete):
    """Completion for bash, which ends a word at a colon, and has what it is given typed as it is."""

    _typed = 0
    """Characters of the word up to its last colon. Bash leaves them as they are."""

    def get_completion_args(self) -> tuple[list[str], str]:
        before, last = super().get_completion_args()
        words: list[str] = []
        for word in (*before, last):
            if words and word and (word.startswith(":") or words[-1].endswith(":")):
                words[-1] += word
            else:
                words.append(word)
        self._typed = words[-1].rfind(":") + 1
        return words[:-1], words[-1]

    def format_completion(self, item: CompletionItem[str]) -> str:
        if item.type == "plain":
            item.value = shlex.quote(item.value[self._typed :])
        return super().format_completion(item)
