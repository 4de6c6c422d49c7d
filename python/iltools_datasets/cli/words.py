"""Messages of the library in the words of the command line: which option to type instead of which argument to pass."""

from __future__ import annotations

import re

_RATE = "(--fps is another thing: the rate to resample to)"
_WORDS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), words)
    for pattern, words in (
        (r"\bpass overwrite=True\b", "pass --overwrite"),
        (r"\bpass on_nan='keep'", "pass --keep-nan"),
        (r"\bon_nan='drop'", "--on-nan drop"),
        (r"\bresume=True\b", "--resume"),
        (r"\bpass skip_present=True\b", "pass --skip-present"),
        (r"\bpolicy_config\b", "--policy-config"),
        (r"\bpass strict=False\b", "pass --no-strict"),
        (r"\bsay which with act_key=", "say which with --act-key"),
        (r"\bact_key=('[^']*')", r"--act-key \1"),
        (r"rename with concat_obs_to_key= or leave it out with exclude_keys=", "leave it out with --exclude-keys"),
        (r"\bleave it out with exclude_keys=", "leave it out with --exclude-keys"),
        (r"\bexclude_keys\b", "--exclude-keys"),
        (r"\bobs_keys\b", "--obs-keys"),
        (r"\bfloat_dtype\b", "--float-dtype"),
        (r"\bkeep_going=True\b", "--keep-going"),
        (r"\bselect=(?=')", "--select "),
        (r"^fps: expected", "--fps: expected"),
        (r"(^|: )option ([a-z_]+): ", r"\1-o \2: "),
        (r"\bor be None, got", "or be 'keep', got"),
        # What a source is told: `pass name=value`, several joined by "or".
        (r"\b(pass|or) ([a-z_]+=)(?=\S)", r"\1 -o \2"),
        (r"(-o fps=\S*[0-9])(?!.*another thing)", rf"\1 {_RATE}"),
    )
)


def in_words_of_the_command_line(message: str) -> str:
    """Return a message of the library with its arguments called as they are typed on the command line."""
    for pattern, words in _WORDS:
        message = pattern.sub(words, message)
    return message
