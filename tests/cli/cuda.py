# SPDX-License-Identifier: MIT
"""--device and --precision: refused without CUDA, a sentence without a device, the same commands with one."""
import os
import shutil
import unittest

import support
from support import GOLDEN, TINY, read_safetensors

HAS_CUDA = os.environ["MODULEFORMER_HAS_CUDA"] == "1"
NO_DEVICE = "CUDA backend: expected a CUDA device, found none"


class Device(support.ProgramTest):
    def commands(self):
        """Every command that takes a device, after a model was trained on the CPU."""
        self.train("model", 2, "--no-eval")
        case = GOLDEN / "mlp_router_mutual_information"
        short = self.path / "short.txt"  # an emulated device is slow
        short.write_text(self.text.read_text()[:200])
        return {
            "train": ["train", "--data", self.text, "--out", "new", "--steps", "2", "--no-eval", *TINY],
            "resume": ["train", "--data", self.text, "--out", "model", "--resume", "--steps", "3", "--no-eval"],
            "generate": ["generate", "--model", "model", "--prompt", "the", "--max-new-tokens", "3"],
            "eval": ["eval", "--model", "model", "--data", short],
            "routing": ["routing", "--model", "model", "--data", f"short={short}"],
            "extend": ["extend", "--model", "model", "--feed-forward", "1", "--out", "grown"],
            "prune": ["prune", "--model", "model", "--data", short, "--keep", "0.5", "--out", "small"],
            "extract": ["extract", "--model", "model", "--layer", "0", "--expert", "1", "--out", "expert.safetensors"],
            "finetune": ["finetune", "--model", "model", "--data", short, "--train", "router", "--steps", "1", "--rows", "1", "--window", "8",
                         "--no-eval", "--out", "tuned"],
            "routes": ["routes", "record", "--model", "model", "--data", short, "--out", "routes.safetensors"],
            "logits": ["logits", "--model", case, "--input", case / "expected.safetensors", "--output", "out.safetensors"],
        }

    def has_device(self):
        result = self.run_program("generate", "--model", "model", "--prompt", "a", "--max-new-tokens", "1", "--device", "cuda",
                                  status=None)
        return NO_DEVICE not in result.err

    def test_the_cpu_by_its_name(self):
        for command in self.commands().values():
            self.run_program(*command, "--device", "cpu", "--precision", "float")

    def test_wrong_usage(self):
        for command in self.commands().values():
            self.refuse(2, "--precision bfloat16 is for --device cuda", *command, "--precision", "bfloat16")
            self.refuse(2, "--device", *command, "--device", "abacus")
            self.refuse(2, "--precision", *command, "--device", "cuda", "--precision", "double")
        self.assertFalse((self.path / "new").exists())

    @unittest.skipIf(HAS_CUDA, "built with CUDA")
    def test_without_cuda(self):
        for command in self.commands().values():
            self.refuse(2, "built without CUDA; configure the build with -DMODULEFORMER_CUDA=ON", *command, "--device", "cuda")
        self.assertFalse((self.path / "new").exists())
        self.assertIn("without CUDA", self.run_program("--version").out)

    @unittest.skipUnless(HAS_CUDA, "built without CUDA")
    def test_with_cuda(self):
        self.assertIn("with CUDA", self.run_program("--version").out)
        commands = self.commands()
        self.refuse(2, "--double computes on the CPU", *commands["logits"], "--device", "cuda", "--double")
        weights = (self.path / "model" / "model.safetensors").read_bytes()
        found = self.has_device()
        for precision in [], ["--precision", "float"], ["--precision", "bfloat16"]:
            for name, command in commands.items():
                with self.subTest(command=name, precision=precision):
                    for folder in "grown", "small", "tuned":
                        shutil.rmtree(self.path / folder, ignore_errors=True)
                    if not found:
                        self.refuse(1, NO_DEVICE, *command, "--device", "cuda", *precision)
                    else:
                        again = ["--overwrite"] if name == "train" else []
                        self.run_program(*command, "--device", "cuda", *precision, *again)
        if not found:
            print("no CUDA device here, and the program says so")
            self.assertFalse((self.path / "new").exists())
            self.assertFalse((self.path / "out.safetensors").exists())
            self.assertEqual(weights, (self.path / "model" / "model.safetensors").read_bytes())

    @unittest.skipUnless(HAS_CUDA, "built without CUDA")
    def test_results_on_a_device(self):
        self.train("model", 2, "--no-eval")
        if not self.has_device():
            self.skipTest("no CUDA device")
        case = GOLDEN / "mlp_router_mutual_information"
        expected = read_safetensors(case / "expected.safetensors")
        logits = ["logits", "--model", case, "--input", case / "expected.safetensors", "--output", "out.safetensors", "--gradients",
                  "--device", "cuda"]
        for precision, bound in ("float", 2e-4), ("bfloat16", 0.2):
            self.run_program(*logits, "--precision", precision)
            found = read_safetensors(self.path / "out.safetensors")
            for name in ["logits"] + [name for name in expected if name.startswith("grad.")]:
                error = sum((a - b) ** 2 for a, b in zip(found[name][2], expected[name][2])) ** 0.5
                norm = sum(b ** 2 for b in expected[name][2]) ** 0.5
                if precision == "float" or name == "logits":  # routes that rounding chose show in gradients
                    self.assertLessEqual(error, bound * norm, name)
        # A run that begins on the CPU goes on there or on the device; greedy text is the same in float.
        self.run_program("train", "--data", self.text, "--out", "model", "--resume", "--steps", 6, "--no-eval", "--device", "cuda")
        self.run_program("train", "--data", self.text, "--out", "model", "--resume", "--steps", 8, "--no-eval")
        generate = ["generate", "--model", "model", "--prompt", "the", "--temperature", 0, "--max-new-tokens", 8]
        self.assertEqual(self.run_program(*generate).stdout,
                         self.run_program(*generate, "--device", "cuda", "--precision", "float").stdout)


if __name__ == "__main__":
    unittest.main(verbosity=2)
