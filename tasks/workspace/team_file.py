"""team.env in the workspace: variables that every command of this workspace shall find, such as addresses of databases.

What the environment itself sets goes before. The file may hold passwords, so only its owner may read it.
"""

from __future__ import annotations

from pathlib import Path

from configs.errors import UserError

NAME = "team.env"
OTHERS = 0o077


def read_team_file(root: Path) -> dict[str, str]:
    """Names and values in the workspace's file; empty where there is none.

    Raises UserError where others can read it or a line of it is not NAME=value; the sentence holds no value.
    """
    file = root / NAME
    if not file.is_file():
        return {}
    if file.stat().st_mode & OTHERS:
        raise UserError(f"{file} may hold passwords and others can read it: chmod 600 {file}")
    from dotenv.parser import parse_stream

    found = {}
    try:
        with file.open(encoding="utf-8") as lines:
            for binding in parse_stream(lines):
                if binding.error or (binding.key and binding.value is None):
                    raise UserError(f"{file}, line {binding.original.line} is not NAME=value: put that right.")
                if binding.key and binding.value is not None:
                    found[binding.key] = binding.value
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise UserError(f"{file} cannot be read ({reason}): put that right, or remove it.") from None
    return found
