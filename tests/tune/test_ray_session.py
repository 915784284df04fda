"""The Ray cluster that a search starts on its machine."""

import os
import subprocess
import sys
from pathlib import Path

from neuroimagen.tune.ray_session import _remove_abandoned_folders

ASK = """
import sys
import ray
from neuroimagen.tune.ray_session import ray_session

@ray.remote
class Worker:  # as a trial is: an actor
    def python(self):
        return sys.executable

if __name__ == "__main__":
    with ray_session(num_cpus=1, address=None):
        print("answer:", ray.get(Worker.remote().python.remote(), timeout=90))
"""


def test_workers_start_where_python_s_path_has_a_space(tmp_path: Path) -> None:
    """A virtual environment like this one, in a folder whose name has a space."""
    place = tmp_path / "a folder"
    (place / "bin").mkdir(parents=True)
    here = Path(sys.executable).parent
    (place / "bin" / "python").symlink_to((here / "python").resolve())
    (place / "pyvenv.cfg").write_bytes((here.parent / "pyvenv.cfg").read_bytes())
    (place / "lib").symlink_to(here.parent / "lib")
    script = tmp_path / "ask.py"
    script.write_text(ASK)
    python = str(place / "bin" / "python")
    done = subprocess.run([python, str(script)], capture_output=True, text=True, timeout=180, check=False)
    assert f"answer: {python}" in done.stdout, done.stderr


def test_folders_of_killed_searches_are_removed_and_others_kept(tmp_path: Path) -> None:
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    names = (f"ni-ray-{done.pid}-abc", f"ni-ray-{os.getpid()}-abc", "ni-ray-x-abc", "ray-something")
    for name in names:
        (tmp_path / name / "session").mkdir(parents=True)
    _remove_abandoned_folders(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names[1:])
