"""Search, comparison and character sets."""

import typing

type Json = typing.Any


def use_regex() -> Json:
    """Matches approximately, by sets and by recursion."""
    import regex

    return [
        regex.findall(r"(?:cat){e<=1}", "cat cut dog cot"),
        regex.sub(r"\p{Lu}", "x", "ABCdé"),
        bool(regex.fullmatch(r"(\((?:[^()]|(?1))*\))", "(a(b)c)")),
    ]


def use_rapidfuzz() -> Json:
    """Compares strings, one with many."""
    from rapidfuzz import fuzz, process

    words = [f"word {n}" for n in range(200)]
    return [process.extractOne("word 77", words)[2], round(fuzz.ratio("this is", "this was"), 2)]


def use_levenshtein() -> Json:
    """Distances and edits."""
    import Levenshtein

    return [Levenshtein.distance("kitten", "sitting"), Levenshtein.editops("ab", "b")]


def use_charset_normalizer() -> Json:
    """Detects encodings."""
    from charset_normalizer import from_bytes

    return str(
        from_bytes("Überraschung, größer als gedacht. ".encode("cp1252") * 20).best().encoding
    )
