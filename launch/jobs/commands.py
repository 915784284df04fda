"""Commands of `neuroimagen` that one of them starts: the trainings of controls."""

import shlex
import subprocess
import sys
from collections.abc import Sequence

from neuroimagen.data_shards.common.errors import UserError


def run_commands(commands: Sequence[tuple[str, ...]], *, what: str) -> None:
    """Run them one after the other, each in a process of its own. Raises UserError at the first that fails.

    what: what they are for, in messages.
    """
    for number, arguments in enumerate(commands, start=1):
        print(f"{what} [{number}/{len(commands)}] neuroimagen {shlex.join(arguments)}", flush=True)
        done = subprocess.run([sys.executable, "-m", "neuroimagen.launch.cli", *arguments], check=False)
        if done.returncode:
            step = " ".join(word for word in arguments[:2] if not word.startswith("-"))
            raise UserError(
                f"{what}: {step} failed (exit code {done.returncode}); its messages are above. Run the same "
                "command again to continue from here."
            )
