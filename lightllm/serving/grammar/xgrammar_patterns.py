r"""Regular expressions in the form that xgrammar takes, which reads `^` and `$` as nothing and `.` as any character.

Within a schema xgrammar takes a pattern for what stands between the quotation marks, without escapes: so there no
character may match that JSON has to escape. Classes are written anew without these.
"""

import re
from collections.abc import Sequence

from lightllm.serving.grammar.engine import UnenforceableError

Ranges = tuple[tuple[int, int], ...]  # of code points, in order, both ends among them

_PART = re.compile(
    r"\\x[0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}|\\.|\[\^?(?:\\.|[^\]\\])*\]|\(\?<(?![=!])|\(\?:|\(\?|.", re.DOTALL
)
_MEMBER = re.compile(r"\\x[0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}|\\.|.", re.DOTALL)
_KNOWN_ESCAPES = "dDwWsSnrtfv0xu"
_OPERATORS = frozenset({"(", "(?:", "(?<", ")", "|", "*", "+", "?", "{", "}", "[", "]"})
_CONTROLS = {"n": 10, "r": 13, "t": 9, "f": 12, "v": 11, "0": 0}
_CARET = ord("^")
_ALL: Ranges = ((0, 0x10FFFF),)
_NONE: Ranges = ()
_NOT_IN_JSON: Ranges = ((0, 0x1F), (ord('"'), ord('"')), (ord("\\"), ord("\\")))
_NEWLINE: Ranges = ((10, 10),)
_WHITE: Ranges = ((9, 13), (32, 32), (0xA0, 0xA0), (0x2028, 0x2029))
_WORD: Ranges = ((48, 57), (65, 90), (95, 95), (97, 122))


def whole(pattern: str) -> str:
    """For text that it has to match as a whole. Raises UnenforceableError."""
    branches = [_without_ends(branch) for branch in _branches(pattern)]
    return "|".join("".join(_written(part, _NONE) for part in parts) for parts, _, _ in branches)


def in_json(pattern: str) -> str:
    """For a string of JSON somewhere in which it has to match. Raises UnenforceableError."""
    anything = f"{CHARACTER}*"
    found: list[str] = []
    for branch in _branches(pattern):
        parts, is_first, is_last = _without_ends(branch)
        inner = "".join(_written(part, _NOT_IN_JSON) for part in parts)
        found.append(f"{'' if is_first else anything}{inner}{'' if is_last else anything}")
    return "|".join(found)


def _branches(pattern: str) -> list[list[str]]:
    """The parts of each of its alternatives."""
    depth, branches = 0, [[]]
    for part in _PART.findall(pattern):
        if part == "\\":
            raise UnenforceableError("a pattern ends with a backslash")
        if part == "(?" or (part[0] == "\\" and part[1].isalnum() and part[1] not in _KNOWN_ESCAPES):
            raise UnenforceableError(
                f"a pattern has {part}...: xgrammar knows no look-around, flags, references, boundaries, or properties "
                "of characters"
            )
        depth += (part[0] == "(") - (part == ")")
        if part == "|" and depth == 0:
            branches.append([])
        else:
            branches[-1].append(part)
    return branches


def _without_ends(parts: Sequence[str]) -> tuple[Sequence[str], bool, bool]:
    """Without ^ and $, and whether these were there."""
    is_first, is_last = parts[:1] == ["^"], parts[-1:] == ["$"]
    inner = parts[is_first : len(parts) - is_last]
    if "^" in inner or "$" in inner:
        raise UnenforceableError("a pattern has ^ or $ in its middle; xgrammar knows them only where it begins or ends")
    return inner, is_first, is_last


def _written(part: str, excluded: Ranges) -> str:
    """Classes, and what stands for one, without the excluded characters."""
    if part in _OPERATORS:
        return part
    if part == ".":
        return _class(_without(_without(_ALL, _NEWLINE), excluded))
    is_class = part[0] == "[" and len(part) > 1
    matched = _members(part[1:-1]) if is_class else _one(part)
    if not (left := _without(matched, excluded)):
        raise UnenforceableError(
            f"{part!r} of a pattern matches nothing, or what JSON escapes; in a pattern xgrammar writes no escapes"
        )
    return _class(left) if is_class or len(left) > 1 else part


def _members(inside: str) -> Ranges:
    """Of what stands between the brackets of a class."""
    negated, inside = inside.startswith("^"), inside.removeprefix("^")
    ranges: list[tuple[int, int]] = []
    members = _MEMBER.findall(inside)
    while members:
        first = _one(members.pop(0))
        if len(members) > 1 and members[0] == "-" and first[0][0] == first[-1][1]:
            first = ((first[0][0], _one(members[1])[-1][1]),)
            del members[:2]
        ranges += first
    others = _without(_ALL, ranges)
    return others if negated else _without(_ALL, others)


def _one(part: str) -> Ranges:
    """Of a character, or of an escape for some."""
    if part[0] != "\\":
        return ((ord(part), ord(part)),)
    if part[1] in "xu" and len(part) > 2:
        return ((int(part[2:], 16), int(part[2:], 16)),)
    if (known := {"d": ((48, 57),), "w": _WORD, "s": _WHITE}.get(part[1].lower())) is not None:
        return known if part[1].islower() else _without(_ALL, known)
    code = _CONTROLS.get(part[1], ord(part[1]))
    return ((code, code),)


def _without(ranges: Sequence[tuple[int, int]], others: Sequence[tuple[int, int]]) -> Ranges:
    left = list(ranges)
    for low, high in others:
        left = [
            piece
            for first, last in left
            for piece in ((first, min(last, low - 1)), (max(first, high + 1), last))
            if piece[0] <= piece[1]
        ]
    return tuple(left)


def _class(ranges: Ranges) -> str:
    if ranges == _ALL:
        return r"[\s\S]"
    if ranges[-1][1] == _ALL[-1][1]:  # as what is left out: xgrammar makes far smaller automata of that
        return f"[^{_listed(_without(_ALL, ranges))}]"
    if ranges == ((_CARET, _CARET),):
        return r"\^"
    if ranges[0][0] == _CARET:  # xgrammar takes one that comes first for a negation, escaped or not
        ranges = (*_without(ranges, ((_CARET, _CARET),)), (_CARET, _CARET))
    return f"[{_listed(ranges)}]"


def _listed(ranges: Ranges) -> str:
    return "".join(_code(a) if a == b else f"{_code(a)}-{_code(b)}" for a, b in ranges)


def _code(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x80 else chr(code)


CHARACTER = _class(_without(_ALL, _NOT_IN_JSON))  # that JSON need not escape
