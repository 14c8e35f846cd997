import subprocess
import sys

from lightllm.base import env


def test_a_child_finds_the_package_of_its_parent(tmp_path):
    (tmp_path / "lightllm.py").write_text("raise SystemExit('the wrong one')")
    code = "import lightllm.base.env as env; print(env.__file__)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=tmp_path, env=env.child_environment(), capture_output=True, text=True
    )
    assert done.stdout.strip() == env.__file__
