# SPDX-License-Identifier: MIT
"""needs_device.py PROGRAM ARGUMENTS...: the program succeeds, or says in a sentence that there is no device and returns 1."""
import re
import subprocess
import sys

SENTENCE = r"CUDA backend: expected a CUDA device, found none \(.+\)"

result = subprocess.run(sys.argv[1:], capture_output=True, text=True)
print(result.stdout + result.stderr)
if result.returncode == 1 and re.search(SENTENCE, result.stderr):
    print("no device here, and the program says so")
    sys.exit(0)
sys.exit(result.returncode)
