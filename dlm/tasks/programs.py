"""The program that an answer stands for: code in whatever dress a model gives it.

The dress is taken off, the code is left as it is: what is wrong within the function stays wrong.
"""

from __future__ import annotations

import ast
import re
import textwrap
import unicodedata
from collections.abc import Iterable, Iterator
from itertools import chain, pairwise
from typing import Any

TOGETHER = 12  # pieces that one statement may be spread over, as a text with lines at the margin is
_OPEN = re.compile(r"^[ \t]*(?:\[(?:BEGIN|PYTHON|CODE)\]|<code>)[ \t]*(\n|(?=\S))", re.MULTILINE)
_SPAN = re.compile(r"(?<!`)`+(?:[ \t]*python[ \t]+)?([^`\n]+)`+(?!`)")
_CLOSE = re.compile(r"^[ \t]*(?:\[(?:DONE|END|/PYTHON|/CODE)\]|</code>)[ \t]*$", re.MULTILINE)
_CLOSE_BEHIND = re.compile(_CLOSE.pattern.removeprefix("^"), re.MULTILINE)  # of what was opened in a line of code
_TOKEN = re.compile(r"<[|\uff5c][^|\uff5c<>\n]{1,40}[|\uff5c]>|</s>|<eos>|<(?:start|end)_of_turn>")
_GLUED = re.compile(r"(?<=[^\s`~])[ \t]*(```+|~~~+)(?=[ \t]*[\w+#.-]*[ \t]*$)", re.MULTILINE)
_MARGIN = re.compile(r"^(?=[^\s#)\]}])(?!(?:else|elif|except|finally|case)\b)", re.MULTILINE)
_PROSE = re.compile(r"\n[ \t]*\n(?=[A-Z][\w',-]*(?: [\w'`(),.-]+){2})")
_LATER = re.compile(r"\n(?:async def |def |class |@)")  # a definition at the margin, behind the first line
_FUTURE = re.compile(r"^from __future__ import (?:\([^()]{0,500}\)[ \t]*|[\w, \t]+)(?:#.*)?$\n?", re.MULTILINE)
_FENCE = re.compile(r"^[ \t]*(?:```+|~~~+)[ \t]*([\w+#.-]*)[ \t]*$", re.MULTILINE)
_FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef
_NAMED = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def readings(problem: dict[str, Any], answer: str) -> list[str]:
    """The programs that an answer may stand for, the likeliest first; a further one counts where one before it is no
    Python.

    An answer whose first line is indented continues the prompt. Else the first fenced block that defines the function
    is the program, or an answer without fences that defines it, with or without sentences around; what else is fenced,
    or the whole answer, is the function's body. The prompt's imports and helpers come first. Of what stands behind a
    body, the definitions that it uses belong to it.
    """
    prompt, entry = problem["prompt"], problem["entry_point"]
    plain = _dressed_off(answer)
    texts = [plain, *(text for text in (_cleaned(plain), _TOKEN.split(plain)[0]) if text != plain)]
    found: list[str] = []
    for program in chain.from_iterable(_programs(text, prompt, entry) for text in texts):
        if _tree(program) is not None:
            return [program, *found[:1]]
        found.append(program)
    return found[:1] + [program for program in found[1:2] if program != found[0]]


def whole(prompt: str) -> str:
    """The code of a prompt by itself: a function without a body gets one."""
    for end in ("", "\n    pass\n", "\n        pass\n"):
        if _tree(prompt + end) is not None:
            return prompt + end
    return ""


def is_python(code: str) -> bool:
    """Whether code can be read as Python, and says anything."""
    return bool(getattr(_tree(code), "body", ()))


def defined(code: str) -> set[str]:
    """The names that code binds at its margin; none where it is no Python."""
    return {name for node in getattr(_tree(code), "body", ()) for name in _names(node)}


def _dressed_off(answer: str) -> str:
    """Line ends as they should be; what stands between marks like ``[BEGIN]`` and ``[DONE]``."""
    text = answer.replace("\r\n", "\n").replace("\r", "\n").removeprefix("\ufeff")
    if begins := _OPEN.search(text):
        text = text[begins.end() :]
    ends = (_CLOSE if not begins or begins[1] else _CLOSE_BEHIND).search(text)
    return text[: ends.start()] if ends else text


def _cleaned(text: str) -> str:
    """Every blank an ASCII one, what is invisible gone."""
    if text.isascii():
        return text
    kinds = {sign: unicodedata.category(sign) for sign in set(text)}
    return text.translate({ord(s): " " if k == "Zs" else None for s, k in kinds.items() if k in ("Zs", "Cf")})


def _programs(text: str, prompt: str, entry: str) -> Iterator[str]:
    """What one text may be, in turn."""
    own = re.search(rf"^(?:async )?def {re.escape(entry)}\b", prompt, re.MULTILINE)
    before = prompt[: own.start()] if own else ""
    names_it = re.compile(
        rf"^[ \t]*(?:async )?def {re.escape(entry)}\b|^[ \t]*{re.escape(entry)}\b[^=\n]*=", re.MULTILINE
    )
    apart = _GLUED.sub(_on_its_own_line, text)
    fences = list(_FENCE.finditer(apart))
    if len(fences) == 1 and not fences[0][1]:  # one that closes what was never opened
        code, rest = apart[: fences[0].start()], apart[fences[0].end() :]
        if (_indented(code) or names_it.search(code)) and not names_it.search(rest):
            text = code
    blocks = _blocks(text)
    if _indented(text) and not names_it.match(text.lstrip("\n")):
        yield from _continued(prompt, text, entry)
        return
    pieces = [*(blocks or [text]), *_SPAN.findall(text)]
    named = sorted(filter(names_it.search, pieces), key=lambda block: _is_stub(block, entry))
    if named and _is_stub(named[0], entry):  # the prompt again, and what was asked for behind it
        for body in blocks:
            if body not in named:
                yield from _continued(prompt, body, entry)
    for block in named:
        others = [other for other in blocks if other is not block]
        yield from _complete(before, block, entry, others, fenced=bool(blocks))
    if blocks:
        yield from _continued(prompt, blocks[0], entry)
    yield from _continued(prompt, text, entry)


def _is_stub(code: str, entry: str) -> bool:
    """Whether code defines the function and leaves out what it does."""
    tree = _tree(code) or _tree(f"{code}\n    pass")
    nodes = [node for node in getattr(tree, "body", ()) if isinstance(node, _FUNCTIONS) and node.name == entry]
    empty = ast.Pass, ast.Expr
    return bool(nodes) and all(
        isinstance(part, empty) and isinstance(getattr(part, "value", ast.Constant(None)), ast.Constant)
        for part in nodes[-1].body
    )


def _indented(text: str) -> bool:
    """Whether the first line with something on it is set in, as the body of a function is. One blank is none: some
    tokenizers put it before every text."""
    rest = text.lstrip()
    indent = text[: len(text) - len(rest)].rpartition("\n")[2]
    return not rest.startswith(("`", "~~~")) and (len(indent) > 1 or indent == "\t")


def _blocks(text: str) -> list[str]:
    """What stands between fences, set in or not; the last may be open, as the canvas may have ended."""
    if "```" not in text and "~~~" not in text:
        return []
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark").disable(["inline", "code", "html_block"])
    tokens = parser.parse(_GLUED.sub(_on_its_own_line, text))
    return [token.content for token in tokens if token.type == "fence"]


def _on_its_own_line(fence: re.Match[str]) -> str:
    """A fence behind prose or code; one behind the mark of a list or a quotation stays there."""
    line = fence.string[fence.string.rfind("\n", 0, fence.start()) + 1 : fence.start()]
    return fence[0] if re.fullmatch(r"[\s>*+-]*(?:\d+[.)])?", line) else f"\n{fence[1]}"


def _complete(before: str, code: str, entry: str, others: Iterable[str], fenced: bool) -> Iterator[str]:
    """Code that defines the function, behind what the prompt has before it."""
    first_line_in = re.sub(r"\A\s*\n|\A[ \t]+", "", code)
    for text in dict.fromkeys((code if fenced else _code_alone(code), textwrap.dedent(code), first_line_in)):
        for piece in (text, _code_alone(text)):
            tree = _tree(piece)
            if tree is None or not _binds(tree, entry):
                continue
            helpers = [node for other in others for node in getattr(_tree(other), "body", ())]
            used = "\n\n".join(map(ast.unparse, _used(tree.body, helpers, entry)))
            future = "".join(_FUTURE.findall(piece))
            yield f"{future}{before}\n{used}\n{_FUTURE.sub('', piece)}{_method(tree, entry)}"
    yield f"{before}\n{code}"


def _method(tree: ast.Module, entry: str) -> str:
    """A line that makes the function of a class's method of that name, where there is no such function."""
    if any(entry in _names(node) for node in tree.body):
        return ""
    holder = next(node.name for node in tree.body if isinstance(node, ast.ClassDef) and _has_method(node, entry))
    return f"\n{entry} = {holder}().{entry}\n"


def _has_method(node: ast.ClassDef, entry: str) -> bool:
    return any(isinstance(part, _FUNCTIONS) and part.name == entry for part in node.body)


def _binds(tree: ast.Module, entry: str) -> bool:
    """Whether code defines the function: by ``def``, an assignment, or as the method of a class."""
    return any(entry in _names(n) or (isinstance(n, ast.ClassDef) and _has_method(n, entry)) for n in tree.body)


def _code_alone(text: str) -> str:
    """The statements of a text at the margin, without the sentences around them."""
    kept, pieces, at = [], _pieces(text), 0
    while at < len(pieces):
        for size in range(1, TOGETHER + 1):
            piece = "".join(pieces[at : at + size])
            if (tree := _tree(piece)) is not None:
                kept += [] if all(map(_is_word, tree.body)) else [piece]
                break
        else:
            size = 1
            if re.match(r"(?:async )?def |class |@", pieces[at]):
                kept.append(pieces[at])  # broken code is no sentence
        at += size
    return "".join(kept)


def _is_word(node: ast.stmt) -> bool:
    """Whether a statement is rather a sentence: ``Done``, ``Complexity: O(n)``."""
    if isinstance(node, ast.AnnAssign):
        return node.value is None
    return isinstance(node, ast.Expr) and not isinstance(node.value, ast.Call | ast.Await)


def _pieces(text: str) -> list[str]:
    """A text cut before every line at the margin that may begin a statement."""
    cuts = [0, *(mark.start() for mark in _MARGIN.finditer(text) if mark.start()), len(text)]
    return [text[a:b] for a, b in pairwise(cuts)]


def _continued(prompt: str, text: str, entry: str) -> Iterator[str]:
    """The prompt with a body, however far that is set in."""
    prompt = prompt if prompt.endswith("\n") else f"{prompt}\n"
    lines = [line for line in prompt.splitlines() if line.strip()]
    inside = re.match(r"[ \t]*", lines[-1] if lines else "")
    indent = (inside[0] if inside else "") or "    "
    body = text.strip("\n") if text.strip() else ""
    set_in = textwrap.indent(textwrap.dedent(body), indent)
    bare = _PROSE.split(body)[0]
    first_in = indent + body.lstrip()  # where the first line alone is not set in as the others are
    turns = (first_in, set_in) if _LATER.search(body) else (set_in, first_in)
    variants = [body, *turns, textwrap.indent(textwrap.dedent(bare), indent)]
    for variant in dict.fromkeys(variants):
        pieces = _pieces(f"\n{variant}")
        for size in range(1, min(len(pieces), TOGETHER) + 1):
            own = prompt + "".join(pieces[:size]).lstrip("\n")
            if (tree := _tree(own)) is not None and (not body or _has_body(tree, entry)):
                if any(piece.startswith("return") for piece in pieces[size:]):
                    break  # what is left is more of the body
                later = _tree(_code_alone("".join(pieces[size:])))
                used = _used(tree.body, later.body if later else [], entry)
                yield "\n\n".join([own, *map(ast.unparse, used)])
                break
    yield prompt + body


def _has_body(tree: ast.Module, entry: str) -> bool:
    """Whether the function does anything beside saying what it does, and nothing of the body is left outside it."""
    node = tree.body[-1] if tree.body else None
    said = isinstance(node, _FUNCTIONS) and node.name == entry and ast.get_docstring(node, clean=False) is not None
    return isinstance(node, _FUNCTIONS) and node.name == entry and len(node.body) > said


def _used(own: Iterable[ast.stmt], others: Iterable[ast.stmt], entry: str) -> list[ast.stmt]:
    """Of other statements the definitions that the own ones need, directly or through each other."""
    own, others = list(own), [node for node in others if entry not in _names(node)]
    have = set(chain.from_iterable(map(_names, own)))
    wanted = {n.id for node in own for n in ast.walk(node) if isinstance(n, ast.Name)} - have
    kept: list[ast.stmt] = []
    while more := [node for node in others if node not in kept and wanted & set(_names(node))]:
        kept += more
        wanted = {n.id for node in kept for n in ast.walk(node) if isinstance(n, ast.Name)} | wanted
    return [node for node in others if node in kept]


def _names(node: ast.stmt) -> list[str]:
    """The names that a definition, an import or an assignment binds."""
    if isinstance(node, _NAMED):
        return [node.name]
    if isinstance(node, ast.Import | ast.ImportFrom):
        return [(alias.asname or alias.name).partition(".")[0] for alias in node.names]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _tree(code: str) -> ast.Module | None:
    """Code as Python reads it; None: it is none."""
    try:
        return ast.parse(code)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None
