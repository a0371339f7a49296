#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Every block of C++ in docs/policies.md stands word for word in a file that is compiled and tested, and the page shows
every policy of examples/custom_policies.hpp."""
import pathlib
import re
import sys

root = pathlib.Path(__file__).resolve().parent.parent
page = (root / "docs/policies.md").read_text()
policies = (root / "examples/custom_policies.hpp").read_text()
compiled = policies + (root / "examples/custom_policy.cpp").read_text()
blocks = re.findall(r"^```cpp\n(.*?)^```$", page, re.M | re.S)
for block in blocks:
    if block not in compiled:
        sys.exit("docs/policies.md: not in examples/custom_policies.hpp or custom_policy.cpp, paste it from there:\n" + block)
shown = "".join(blocks)
for name in re.findall(r"^struct (\w+)", policies, re.M):
    if f"\nstruct {name} " not in shown:
        sys.exit(f"docs/policies.md: does not show {name} of examples/custom_policies.hpp")
print(f"docs/policies.md shows {len(blocks)} blocks of compiled code")
