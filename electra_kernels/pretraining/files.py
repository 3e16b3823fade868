"""Files that are whole or not there at all."""

import os
from pathlib import Path


def write_whole(target: Path, content: bytes | str) -> None:
    """Write beside ``target`` and put it in its place only when it is whole; text is UTF-8."""
    data = content.encode() if isinstance(content, str) else content
    unfinished = target.with_name(f"{target.name}.{os.getpid()}.part")
    unfinished.write_bytes(data)
    os.replace(unfinished, target)
