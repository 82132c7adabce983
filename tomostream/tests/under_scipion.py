# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs some of the test modules with Scipion's own runner, as `scipion3 test` does, and fails when one of them fails.

pytest runs every module. This shows that Scipion finds the same modules and runs them, which is what its users will type.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile

from tomostream.cli.home import scipion_environment

#: Quick ones, of several rooms: the rest runs under pytest alone.
MODULES = ("test_naming", "test_programs_aretomo", "test_programs_motioncor")


def run(module: str) -> tuple[int, int]:
    """(passed, failed) of one module under Scipion's runner."""
    command = [sys.executable, "-m", "scipion", "test", f"tomostream.tests.{module}"]
    output = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False).stdout
    text = re.sub(r"\x1b\[[0-9;]*m", "", output)
    passed, failed = (sum(int(number) for number in re.findall(rf"\[ +{word} +\] (\d+) test", text))
                      for word in ("PASSED", "FAILED"))
    print(f"{module}: {passed} passed, {failed} failed")
    if failed or not passed:
        print(text[-4000:])
    return passed, failed or int(not passed)


def main() -> int:
    with tempfile.TemporaryDirectory() as home:
        os.environ["SCIPION_HOME"] = home
        os.environ.pop("SCIPION_USER_DATA", None)
        scipion_environment(home)
        results = [run(module) for module in MODULES]
    passed, failed = (sum(column) for column in zip(*results, strict=True))
    print(f"under Scipion: {passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
