"""What parameters of a pipeline may hold: Kubeflow stores them, shows them and makes cache keys of them, in clear."""

from collections.abc import Iterator, Mapping
from typing import Any

from calrec.system.printing import redact


def faults(where: str, value: Any) -> Iterator[str]:
    """Each address in a value, a text or nested, that carries what may be a secret; said without it."""
    for text in texts(value):
        if (harmless := redact(text)) != text:
            yield (
                f"{where}: {harmless} has a user, a password or a query, and Kubeflow, its local runner too, stores "
                "and shows parameters in clear; give gs:// or s3:// and the pods' identity or Secret, a folder, or an "
                "address without them"
            )


def texts(node: Any) -> Iterator[str]:
    """All texts of a nested value, the keys left out."""
    if isinstance(node, str):
        yield node
    elif isinstance(node, Mapping):
        for value in node.values():
            yield from texts(value)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from texts(value)
