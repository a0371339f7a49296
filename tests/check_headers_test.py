#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Plants each mistake that cmake/check_headers.py knows in a small tree and expects it to be found."""
import sys
import tempfile
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "cmake"))
import check_headers  # noqa: E402

HEAD = "// SPDX-License-Identifier: MIT\n#pragma once\n// What it is for: using namespace std, printf(1), exit(1).\n"
SOUND = {
    "version.hpp": "#define MODULEFORMER_VERSION_MAJOR 0\n",
    "core/types.hpp": "#include <cstdint>\n",
    "backend/cpu/gemm.hpp": "#include <moduleformer/core/types.hpp>\n#include <Eigen/Core>\n#include <omp.h>\n",
    "backend/cpu.hpp": "#include <moduleformer/backend/cpu/gemm.hpp>\n",
    "backend/cuda/gpu.cuh": "#include <cuda_runtime.h>\n",
    "backend/cuda_emulated.cuh": "#include <moduleformer/core/types.hpp>\n",
    "backend/default.hpp": "#include <moduleformer/backend/cpu.hpp>\n",
    "nn/linear.hpp": "#include <moduleformer/core/types.hpp>\n",
    "routing/plan.hpp": "#include <moduleformer/nn/linear.hpp>\n",
    "model/block.hpp": "#include <moduleformer/routing/plan.hpp>\n#include <moduleformer/backend/default.hpp>\n",
    "training/trainer.hpp": "#include <moduleformer/model/block.hpp>\n",
    "io/save.hpp": '#include <nlohmann/json.hpp>\ninline char const* text = "std::cout << using namespace std";\n',
    "moduleformer.hpp": "#include <moduleformer/io/save.hpp>\n#include <moduleformer/training/trainer.hpp>\n",
}
MISTAKES = [
    ("core/types.hpp", "#include <moduleformer/nn/linear.hpp>\n", "higher layer nn/"),
    ("io/save.hpp", "#include <moduleformer/training/trainer.hpp>\n", "must not see each other"),
    ("io/save.hpp", "#include <moduleformer/moduleformer.hpp>\n", "higher layer umbrella/"),
    ("model/block.hpp", "#include <moduleformer/backend/cpu/gemm.hpp>\n", "no concrete backend"),
    ("model/block.hpp", "#include <moduleformer/backend/cpu.hpp>\n", "no concrete backend"),
    ("backend/cuda/gemm.hpp", "#include <moduleformer/backend/cpu/gemm.hpp>\n", "cpu/ and cuda/"),
    ("model/block.cuh", "#include <moduleformer/backend/cuda_emulated.cuh>\n", "no concrete backend"),
    ("backend/cpu/gemm.cuh", "#include <moduleformer/backend/cuda_emulated.cuh>\n", "cpu/ and cuda/"),
    ("backend/default.hpp", "#include <moduleformer/backend/cuda_emulated.cuh>\n", "must not include a .cuh"),
    ("backend/default.hpp", "#include <cuda_runtime.h>\n", "<cuda_runtime.h> must not"),
    ("backend/cuda/gemm.cuh", "\n" * 400, "399 are allowed"),
    ("nn/linear.hpp", "#include <moduleformer/routing/plan.hpp>\n", "include cycle: routing/plan.hpp -> nn/linear.hpp"),
    ("core/types.hpp", "#include <moduleformer/core/nothing.hpp>\n", "no such file"),
    ("core/types.hpp", '#include "other.hpp"\n', "full path"),
    ("backend/arguments.hpp", "#include <Eigen/Core>\n", "<Eigen/Core> must not"),
    ("backend/cpu/gemm.hpp", "#include <thrust/sort.h>\n", "<thrust/sort.h> must not"),
    ("nn/linear.hpp", "#include <nlohmann/json.hpp>\n", "<nlohmann/json.hpp> must not"),
    ("core/types.hpp", "#include <iostream>\n", "<iostream> must not"),
    ("core/types.hpp", "using  namespace std;\n", "using namespace"),
    ("core/types.hpp", "namespace mf = moduleformer;\n", "no namespace `mf`"),
    ("core/types.hpp", "#define MF_MAX 1\n", "macro MF_MAX"),
    ("core/types.hpp", "inline void f() { std::exit(1); }\n", "never ends the process"),
    ("core/types.hpp", 'inline void f() { std::printf("x"); }\n', "prints nothing"),
    ("core/types.hpp", "\n" * 400, "399 are allowed"),
    ("other/types.hpp", "", "no known layer"),
]


class CheckHeaders(unittest.TestCase):
    def complaints(self, files):
        with tempfile.TemporaryDirectory() as folder:
            for name, text in files.items():
                path = Path(folder) / "moduleformer" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
            return check_headers.check(folder)[0]

    def test_sound_tree(self):
        self.assertEqual(self.complaints({name: HEAD + text for name, text in SOUND.items()}), [])

    def test_mistakes(self):
        for name, text, expected in MISTAKES:
            with self.subTest(expected):
                files = {each: HEAD + code for each, code in SOUND.items()}
                files[name] = files.get(name, HEAD) + text
                found = self.complaints(files)
                self.assertIn(expected, "\n".join(found))
                # An upward include closes a cycle too.
                self.assertEqual([line for line in found[1:] if "cycle" not in line], [])

    def test_missing_head(self):
        self.assertIn("must begin with", self.complaints({"core/a.hpp": "#pragma once\n"})[0])

    def test_median(self):
        files = {f"core/{n}.hpp": HEAD + "\n" * 250 for n in range(3)}
        self.assertIn("the median header has", self.complaints(files)[0])


if __name__ == "__main__":
    unittest.main()
