# SPDX-License-Identifier: MIT
"""Evaluation, drawings, inspection, generation, and vocabularies that are not bytes."""
import json
import unittest
import xml.etree.ElementTree

import support
from support import TINY, read_safetensors, write_safetensors


class Evaluation(support.ProgramTest):
    def test_numbers_and_drawing(self):
        trained = self.train("model", 8)
        result = self.run_program("eval", "--model", "model", "--data", self.text, "--held-out", "0.1", "--svg", "routers.svg")
        # The same split, window and weights: the same figures as after training.
        for line in trained.out.splitlines()[1:]:
            self.assertIn(line, result.out)
        self.assertIn("bits per byte", result.out)
        self.assertIn("perplexity", result.out)
        rows = [line for line in result.out.splitlines() if " of 4 " in line]
        self.assertEqual(len(rows), 4)  # two layers, two routers each
        for row in rows:
            shares = [int(share) for share in row.split("of 4")[1].split()]
            self.assertEqual(len(shares), 4)
            self.assertAlmostEqual(sum(shares), 100, delta=4)
        drawing = xml.etree.ElementTree.parse(self.path / "routers.svg").getroot()
        bars = drawing.findall(".//{http://www.w3.org/2000/svg}rect/{http://www.w3.org/2000/svg}title")
        self.assertEqual(len(bars), 16)

    def test_every_byte_is_predicted_once_whatever_the_batches(self):
        self.train("model", 4, "--no-eval")
        figures = {self.run_program("eval", "--model", "model", "--data", self.text, "--rows", rows).out.split("perplexity")[0]
                   for rows in (1, 3, 64)}
        self.assertEqual(len(figures), 1)
        shown = self.run_program("eval", "--model", "model", "--data", self.text).out
        self.assertIn(f"{self.text.stat().st_size} tokens", shown)
        self.assertNotIn("trigram", shown)  # all was held out, nothing to fit it on


class Inspection(support.ProgramTest):
    def test_sizes(self):
        self.train("model", 2, "--no-eval")
        shown = self.run_program("inspect", "--model", "model", "--tensors").out
        tensors = read_safetensors(self.path / "model" / "model.safetensors")
        count = sum(len(values) for _, _, values in tensors.values())
        self.assertIn(f"parameters            {count:,}", shown)
        self.assertIn(f"{4 * count:,} in the file (F32)", shown)
        for name in tensors:
            self.assertIn(name, shown)
        for text in ("4 experts, top 2, 2 heads, hidden size 16", "FLOPs per token", "can load this folder", "active per token"):
            self.assertIn(text, shown)

    def test_a_classifier_of_the_published_code(self):
        shown = self.run_program("inspect", "--model", support.GOLDEN / "sequence_classification").out
        self.assertIn("ModuleFormerForSequenceClassification", shown)
        self.assertIn("labels                3", shown)
        self.refuse(1, "ModuleFormerForSequenceClassification", "generate", "--model", support.GOLDEN / "sequence_classification",
                    "--prompt", "a")

    def test_more_layers_than_the_file_has(self):
        self.train("model", 2, "--no-eval")
        config = self.path / "model" / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"n_layer": 2_000_000_000}))
        self.refuse(1, "no tensor begins with 'transformer.h.2.'", "inspect", "--model", "model")


class Generation(support.ProgramTest):
    def test_text(self):
        self.train("model", 30, "--no-eval")
        generate = ["generate", "--model", "model", "--max-new-tokens", 20]
        first = self.run_program(*generate, "--prompt", "the quick ", "--seed", 1).stdout
        self.assertTrue(first.startswith(b"the quick "))
        self.assertEqual(len(first), len(b"the quick ") + 20 + 1)
        self.assertEqual(first, self.run_program(*generate, "--prompt", "the quick ", "--seed", 1, "--threads", 1).stdout)
        self.assertNotEqual(first, self.run_program(*generate, "--prompt", "the quick ", "--seed", 2).stdout)
        bare = self.run_program(*generate, "--prompt", "the quick ", "--seed", 1, "--no-echo").stdout
        self.assertEqual(b"the quick " + bare, first)
        both = self.run_program(*generate, "--prompt", "the quick ", "--prompt", "a dog", "--seed", 1).stdout
        self.assertTrue(both.startswith(first))
        greedy = [self.run_program(*generate, "--prompt", "the", "--temperature", 0, "--seed", seed).stdout for seed in (1, 2)]
        self.assertEqual(*greedy)
        stop = greedy[0][len(b"the")]
        self.assertEqual(self.run_program(*generate, "--prompt", "the", "--temperature", 0, "--stop-id", stop).stdout, b"the\n")

    def test_the_end_mark(self):
        self.train("model", 10, "--eos", "--no-eval")
        config = json.loads((self.path / "model" / "config.json").read_text())
        self.assertEqual((config["vocab_size"], config["eos_token_id"]), (257, 256))
        self.run_program("generate", "--model", "model", "--prompt", "", "--max-new-tokens", 5)
        self.run_program("eval", "--model", "model", "--data", self.text)


class OtherVocabularies(support.ProgramTest):
    def test_ids_in_place_of_text(self):
        ids = self.path / "ids.safetensors"
        write_safetensors(ids, {"input_ids": ("I64", [2, 120], [i % 7 + 30 * (i // 120) for i in range(240)])})
        trained = self.run_program("train", "--tokens", ids, "--vocab", 40, "--out", "model", "--steps", 5, *TINY)
        self.assertIn("bits per token", trained.out)
        self.assertIn("24 tokens", trained.out)
        self.assertIn("bits per token", self.run_program("eval", "--model", "model", "--tokens", ids).out)
        shown = self.run_program("generate", "--model", "model", "--tokens", ids, "--max-new-tokens", 4).out
        rows = [[int(token) for token in row.split()] for row in shown.splitlines()]
        self.assertEqual([len(row) for row in rows], [4, 4])
        self.assertTrue(all(0 <= token < 40 for row in rows for token in row))
        for command in ("generate", "--prompt", "a"), ("eval", "--data", self.text):
            self.refuse(2, "--tokens", command[0], "--model", "model", *command[1:])
        self.run_program("train", "--tokens", ids, "--out", "model", "--resume", "--steps", 7)

    def test_bad_files_of_ids(self):
        train = ["train", "--vocab", 40, "--out", "model", "--steps", 2, *TINY, "--tokens"]
        ids = self.path / "ids.safetensors"
        self.refuse(1, "ids.safetensors", *train, ids)
        ids.write_bytes(b"text")
        self.refuse(1, "ids.safetensors", *train, ids)
        write_safetensors(ids, {"ids": ("I64", [4], [1, 2, 3, 4])})
        self.refuse(1, "input_ids", *train, ids)
        write_safetensors(ids, {"input_ids": ("F32", [4], [1, 2, 3, 4])})
        self.refuse(1, "expected a tensor of I64", *train, ids)
        write_safetensors(ids, {"input_ids": ("I64", [1, 2, 2], [1, 2, 3, 4])})
        self.refuse(1, "expected shape (T) or (B, T)", *train, ids)
        write_safetensors(ids, {"input_ids": ("I64", [40], [1, 2, 3, 40] * 10)})
        self.refuse(1, "expected an id from 0 to 39, found 40", *train, ids)
        write_safetensors(ids, {"input_ids": ("I64", [4], [1, 2, 1 << 40, 4])})
        self.refuse(1, "does not fit", *train, ids)
        self.assertFalse((self.path / "model").exists())


if __name__ == "__main__":
    unittest.main(verbosity=2)
