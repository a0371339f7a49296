# SPDX-License-Identifier: MIT
"""`moduleformer logits` against the published reference: logits, losses and every gradient of every golden case."""
import unittest

import support
from support import GOLDEN, read_safetensors, write_safetensors

CASES = sorted(path.parent.name for path in GOLDEN.glob("*/config.json"))


class Golden(support.ProgramTest):
    def compare(self, name, found, expected, tolerance, counted=None):
        """Relative to the tensor's largest magnitude; `counted` says which positions of the first dimensions count."""
        self.assertEqual(found[1], expected[1], name)
        width = len(expected[2]) // len(counted) if counted else len(expected[2])
        largest = max(abs(value) for value in expected[2]) or 1.0
        for i, (a, b) in enumerate(zip(found[2], expected[2])):
            if counted and not counted[i // width]:
                continue
            self.assertLessEqual(abs(a - b), tolerance * largest, f"{name}[{i}]: {a}, expected {b}")

    def check(self, case, double):
        folder = GOLDEN / case
        expected = read_safetensors(folder / "expected.safetensors")
        self.run_program("logits", "--model", folder, "--input", folder / "expected.safetensors", "--output", "out.safetensors",
                         "--gradients", *(["--double"] if double else []))
        found = read_safetensors(self.path / "out.safetensors")
        self.assertEqual({kind for kind, _, _ in found.values()}, {"F64" if double else "F32"})
        mask = expected["attention_mask"][2] if "attention_mask" in expected else None
        counted = mask if mask and "score" not in "".join(found) else None
        forward, backward = (1e-9, 1e-9) if double else (2e-5, 2e-4)
        self.compare("logits", found["logits"], expected["logits"], forward, counted)
        self.compare("loss", found["loss"], expected["loss"], forward)
        if not mask:  # the reference counts padding in its routing statistics
            self.compare("aux_loss", found["aux_loss"], expected["aux_loss"], forward)
        gradients = [name for name in expected if name.startswith("grad.")]
        self.assertTrue(gradients)
        self.assertEqual(set(gradients), {name for name in found if name.startswith("grad.")})
        for name in gradients:
            stored_in_float = double and expected[name][0] == "F32"
            self.compare(name, found[name], expected[name], 1e-6 if stored_in_float else backward)

    def test_double(self):
        self.assertEqual(len(CASES), 7)
        for case in CASES:
            with self.subTest(case=case):
                self.check(case, double=True)

    def test_float(self):
        for case in CASES:
            with self.subTest(case=case):
                self.check(case, double=False)

    def test_without_labels_and_bad_input(self):
        folder = GOLDEN / "gmm_router_mutual_information"
        logits = ["logits", "--model", folder, "--output", "out.safetensors", "--input", "in.safetensors"]
        given = self.path / "in.safetensors"
        write_safetensors(given, {"input_ids": ("I64", [1, 3], [1, 2, 3])})
        self.run_program(*logits)
        found = read_safetensors(self.path / "out.safetensors")
        self.assertEqual(set(found), {"logits", "aux_loss"})
        self.refuse(2, "labels", *logits, "--gradients")
        for tensors, message in (
                ({"input_ids": ("I64", [3], [1, 2, 3])}, "expected shape (B, T)"),
                ({"input_ids": ("I64", [1, 2], [1, 61])}, "expected an id from 0 to"),
                ({"input_ids": ("I64", [1, 2], [1, -1])}, "expected an id from 0 to"),
                ({"input_ids": ("I64", [1, 2], [1, 2]), "attention_mask": ("I64", [1, 2], [1, 2])}, "zeros and ones"),
                ({"input_ids": ("I64", [1, 2], [1, 2]), "attention_mask": ("I64", [2], [1, 1])}, "expected shape (1, 2)"),
                ({"input_ids": ("I64", [1, 2], [1, 2]), "labels": ("I64", [1, 3], [1, 2, 3])}, "labels"),
                ({"input_ids": ("I64", [1, 2], [1, 2]), "labels": ("I64", [1, 2], [1, 61])}, "labels"),
                ({"input_ids": ("I64", [2, 3], [1] * 6), "labels": ("I64", [3, 2], [1] * 6)}, "expected shape (2, 3)"),
                ({"input_ids": ("I64", [1, 2], [1, 2]), "labels": ("I64", [1, 2], [-100, -100])}, "no label counts"),
                ({"labels": ("I64", [1, 2], [1, 2])}, "input_ids")):
            write_safetensors(given, tensors)
            self.refuse(1, message, *logits)


if __name__ == "__main__":
    unittest.main(verbosity=2)
