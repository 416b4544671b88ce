"""Lines of code by room, without blanks, comments and docstrings; and the largest files: `make size`."""

import ast
import io
import tokenize
from collections import Counter
from pathlib import Path

from tests.conftest import REPO

_QUIET = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


def lines(text: str) -> int:
    """Lines that hold code."""
    words = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            words.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    found: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in _QUIET:
            found.update(range(token.start[0], token.end[0] + 1))
    return len(found - words)


def room(path: Path) -> str:
    """Where a file stands: a folder of the package, or the pipelines."""
    parts = path.relative_to(REPO).parts
    return parts[0] if parts[0] != "components" else parts[2] if len(parts) > 3 else "calrec"


def main() -> None:
    """Print the table."""
    paths = [path for top in ("components", "pipelines") for path in sorted((REPO / top).rglob("*.py"))]
    sizes = {path: lines(path.read_text()) for path in paths}
    code, files = Counter[str](), Counter[str]()
    for path, size in sizes.items():
        code[room(path)] += size
        files[room(path)] += 1
    for name, size in code.most_common():
        print(f"{name:12} {size:6,} lines in {files[name]:2} files")
    print(f"{'all':12} {sum(code.values()):6,} lines in {len(paths):2} files")
    longest = sorted(((len(path.read_text().splitlines()), path) for path in paths), reverse=True)[:3]
    print("longest:", ", ".join(f"{path.relative_to(REPO)} {count}" for count, path in longest))


if __name__ == "__main__":
    main()
