"""Writes `arbitrage/scripts.toml`: which code points are letters and marks of which script.

Python's `unicodedata` has no script property, but the name of a letter begins with its script. A
range runs on over code points that are not assigned; nothing else is bridged.

    python scripts/list_scripts.py
"""

from __future__ import annotations

import sys
import unicodedata
from pathlib import Path

TARGET = Path(__file__).parents[1] / "arbitrage/scripts.toml"
SCRIPTS = {
    "ANGSTROM": "Latn",
    "ARABIC": "Arab",
    "ARMENIAN": "Armn",
    "BENGALI": "Beng",
    "BOPOMOFO": "Bopo",
    "CJK": "Hani",
    "CYRILLIC": "Cyrl",
    "DEVANAGARI": "Deva",
    "ETHIOPIC": "Ethi",
    "GEORGIAN": "Geor",
    "GREEK": "Grek",
    "GUJARATI": "Gujr",
    "GURMUKHI": "Guru",
    "HANGUL": "Hang",
    "HEBREW": "Hebr",
    "HENTAIGANA": "Hira",
    "HIRAGANA": "Hira",
    "IDEOGRAPHIC": "Hani",
    "KANNADA": "Knda",
    "KATAKANA": "Kana",
    "KELVIN": "Latn",
    "KHMER": "Khmr",
    "LAO": "Laoo",
    "LATIN": "Latn",
    "MALAYALAM": "Mlym",
    "MONGOLIAN": "Mong",
    "MYANMAR": "Mymr",
    "OHM": "Grek",
    "ORIYA": "Orya",
    "ROMAN": "Latn",
    "SINHALA": "Sinh",
    "TAMIL": "Taml",
    "TELUGU": "Telu",
    "THAI": "Thai",
    "TIBETAN": "Tibt",
    "VEDIC": "Deva",
}
COMMON = {
    *("MATHEMATICAL", "MODIFIER", "DOUBLE-STRUCK", "SCRIPT", "BLACK-LETTER", "FEMININE"),
    *("MASCULINE", "MICRO", "ALEF", "BET", "GIMEL", "DALET", "SUPERSCRIPT", "SUBSCRIPT"),
    *("TURNED", "ROTATED", "EULER", "PLANCK", "KATAKANA-HIRAGANA", "VERTICAL", "MASU"),
    *("INFORMATION", "COMBINING", "VARIATION", "CARON"),
}
"""First words of the names of letters that stand in texts of any script: signs and symbols."""

HEADER = """\
# Letters and marks by script (ISO 15924): code points in hexadecimal, `first-last` or one alone.
# Zyyy: letters of no script of their own (signs, symbols). What is not here is of another script.
# Written by scripts/list_scripts.py from the names of Unicode {version}; do not edit.

"""


def script_of(code: int) -> str | None:
    """The script of a letter or mark, "" for an unassigned code point, None for anything else."""
    character = chr(code)
    category = unicodedata.category(character)
    if category == "Cn":
        return ""
    if category[0] not in "LM":
        return None
    words = unicodedata.name(character, "").split()
    first = words[1] if words[:1] in (["FULLWIDTH"], ["HALFWIDTH"]) else words[0] if words else ""
    return "Zyyy" if first in COMMON else SCRIPTS.get(first)


def ranges() -> dict[str, list[tuple[int, int]]]:
    """Script -> its ranges, first and last code point included."""
    found: dict[str, list[tuple[int, int]]] = {}
    running: str | None = None
    for code in range(sys.maxunicode + 1):
        script = script_of(code)
        if script == "":
            continue
        if script and script == running:
            found[script][-1] = (found[script][-1][0], code)
        elif script:
            found.setdefault(script, []).append((code, code))
        running = script
    return found


def written(parts: list[tuple[int, int]]) -> str:
    """Ranges as they stand in the file."""
    return " ".join(f"{a:04X}" if a == b else f"{a:04X}-{b:04X}" for a, b in parts)


def main() -> None:
    """Writes the file."""
    lines = [f'{script} = "{written(parts)}"\n' for script, parts in sorted(ranges().items())]
    header = HEADER.format(version=unicodedata.unidata_version)
    TARGET.write_text(header + "".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
