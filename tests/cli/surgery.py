# SPDX-License-Identifier: MIT
"""extend, prune, extract and insert: new folders, the old one untouched; what does not fit is refused."""
import json
import unittest

import support
from support import read_safetensors


class Surgery(support.ProgramTest):
    def setUp(self):
        super().setUp()
        self.train("model", 6, "--no-eval")
        self.before = {f.name: f.read_bytes() for f in (self.path / "model").iterdir()}

    def tearDown(self):
        self.assertEqual(self.before, {f.name: f.read_bytes() for f in (self.path / "model").iterdir()})
        super().tearDown()

    def score(self, model):
        return self.run_program("eval", "--model", model, "--data", self.text, "--window", 16).out.splitlines()[0]

    def test_dormant_experts_change_no_figure(self):
        self.run_program("extend", "--model", "model", "--out", "grown", "--attention", 1, "--feed-forward", 2, "--layers", "1")
        shown = self.run_program("inspect", "--model", "grown").out
        self.assertRegex(shown, r"dormant experts +0 1 attention, 0 2 feed-forward")
        self.assertIn("cannot load", shown)
        self.assertEqual(self.score("model"), self.score("grown"))
        own = json.loads((self.path / "grown" / "config.json").read_text())["moduleformer"]
        self.assertEqual((own["n_mlp_experts"], own["dormant_mlp_experts"]), ([4, 6], [0, 2]))
        self.run_program("extend", "--model", "model", "--out", "active", "--feed-forward", 2, "--activate", "--initial", "copies",
                         "--data", self.text)
        self.assertNotEqual(self.score("model"), self.score("active"))
        name = "transformer.h.0.mlpf.experts.weight"
        old, new = (read_safetensors(self.path / f / "model.safetensors")[name] for f in ("model", "active"))
        self.assertEqual((old[1][0], new[1][0]), (4, 6))
        self.assertEqual(old[2], new[2][:len(old[2])])
        size = len(old[2]) // 4
        self.assertIn(new[2][4 * size:5 * size], [old[2][i * size:(i + 1) * size] for i in range(4)])

    def test_pruning(self):
        task = ("--data", self.text)
        self.run_program("prune", "--model", "model", "--out", "all", *task, "--keep", 1)
        least = self.run_program("prune", "--model", "model", "--out", "least", *task, "--keep", 0)
        self.assertIn("4 of 4 routers are down to the experts that a token needs", least.err)
        self.assertEqual(self.score("model"), self.score("all"))
        shown = self.run_program("prune", "--model", "model", "--out", "half", *task, "--keep", 0.5).out
        self.assertIn("layer 1: 2 of 4 attention, 2 of 4 feed-forward experts stay", shown)
        sizes = [(self.path / f / "model.safetensors").stat().st_size for f in ("model", "half")]
        self.assertLess(sizes[1], 0.8 * sizes[0])
        self.assertIn("2 experts", self.run_program("inspect", "--model", "half").out)
        self.assertIn("can load", self.run_program("inspect", "--model", "half").out)
        self.run_program("prune", "--model", "model", "--out", "masked", *task, "--keep-of-all", 0.6, "--router-rows", "keep", "--by", "probability")
        self.assertRegex(self.run_program("inspect", "--model", "masked").out, r"removed, rows kept +\d")
        self.run_program("prune", "--model", "model", "--out", "merged", *task, "--threshold", 0.5, "--merge")
        for folder in "half", "masked", "merged":
            self.score(folder)
            self.run_program("generate", "--model", folder, "--prompt", "the", "--max-new-tokens", 3)
            self.run_program("train", "--data", self.text, "--out", "x", "--resume", status=1)
        mask = read_safetensors(self.path / "masked" / "model.safetensors")["transformer.h.0.mlpf.gate.kept_rows"][2]
        self.assertEqual(set(mask) - {0.0, 1.0}, set())

    def test_an_expert_goes_and_comes_back(self):
        expert = ("--layer", 1, "--kind", "attention", "--expert")
        shown = self.run_program("extract", "--model", "model", *expert, 2, "--out", "expert.safetensors").out
        self.assertIn("attention expert 2 of layer 1", shown)
        self.run_program("insert", "--model", "model", "--out", "twice", "--layer", 1, "--kind", "attention", "--at", 3, "--expert",
                         "expert.safetensors")
        values = read_safetensors(self.path / "twice" / "model.safetensors")["transformer.h.1.attn.q_proj.experts.weight"]
        size = len(values[2]) // 5
        self.assertEqual(values[1][0], 5)
        self.assertEqual(values[2][2 * size:3 * size], values[2][3 * size:4 * size])
        into = ["insert", "--model", "model", "--out", "no", "--layer", 1, "--at", 3, "--expert"]
        self.refuse(1, "expected one of feed-forward, found one of attention", *into, "expert.safetensors")
        self.refuse(1, "expert: layer 1, attention: expected a routed expert from 0 to 4, found 9", *into[:-2], 9, "--kind", "attention",
                    "--expert", "expert.safetensors")
        self.run_program("extract", "--model", "model", "--layer", 0, "--expert", 0, "--out", "gelu.safetensors")
        self.train("relu", 2, "--no-eval", "--activation", "relu")
        self.refuse(1, "expected activation relu", "insert", "--model", "relu", "--out", "no", "--layer", 0, "--at", 1, "--expert", "gelu.safetensors")
        self.train("wide", 2, "--no-eval", "--attention-hidden", 32)
        self.refuse(1, "tensor 'experts.weight'", *into[:2], "wide", *into[3:], "expert.safetensors", "--kind", "attention")
        self.refuse(1, "absent", *into, "absent")

    def test_fine_tuning(self):
        other = self.path / "other.txt"
        other.write_text("0123456789 and 9876543210 then " * 60)
        tune = ["finetune", "--data", other, "--steps", 8, "--rows", 2, "--window", 16, "--warmup", 1, "--threads", 2]
        tensors = lambda folder: read_safetensors(self.path / folder / "model.safetensors")
        old = tensors("model")
        result = self.run_program(*tune, "--model", "model", "--out", "routers", "--train", "router", "--routing-loss", "load_concentration",
                                  "--aux-loss-weight", 0.1)
        self.assertIn("8/8", result.err)
        self.assertIn("bits per byte", result.out)
        new = tensors("routers")
        self.assertEqual({n for n in old if old[n][2] != new[n][2]}, {n for n in old if ".gate." in n})
        self.assertIn("load_concentration", self.run_program("inspect", "--model", "routers").out)
        # New experts alone, guarded on the old text.
        self.run_program("extend", "--model", "model", "--out", "grown", "--feed-forward", 2)
        shown = self.run_program(*tune, "--model", "grown", "--out", "learnt", "--train", "new", "--kl", 1, "--l2", 0.01, "--old-data", self.text)
        self.assertIn("old data:", shown.out)
        new, size = tensors("learnt"), lambda t: len(t[2])
        for name, tensor in old.items():
            self.assertEqual(tensor[2], new[name][2][:size(tensor)], name)
        grown = tensors("grown")
        changed = {n for n in grown if grown[n][2] != new[n][2]}
        self.assertEqual(changed, {n for n in grown if ".mlpf." in n and "w_gate.0" not in n})
        self.assertNotIn("dormant", self.run_program("inspect", "--model", "learnt").out)
        self.run_program(*tune, "--model", "model", "--out", "heads", "--train", "lm_head.*", "--no-eval")
        new = tensors("heads")
        self.assertEqual({n for n in old if old[n][2] != new[n][2]}, {n for n in old if n.startswith("lm_head.")})
        no = [*tune, "--model", "model", "--out", "no"]
        self.refuse(1, "--train new: expected a model with dormant experts, found none", *no, "--train", "new")
        self.refuse(1, "no tensor is called *.nothing", *no, "--train", "*.nothing")
        self.refuse(2, "--loss-numbers: expected with --routing-loss", *no, "--loss-numbers", "z_weight=0.5")
        self.run_program(*tune, "--model", "routers", "--out", "again", "--routing-loss", "switch", "--no-eval")
        # A loss that statistics of more than a micro-batch mean nothing to.
        self.train("streaming", 2, "--no-eval", "--statistics", "streaming")
        self.run_program(*tune, "--model", "streaming", "--out", "without", "--routing-loss", "none", "--no-eval")
        self.train("weightless", 2, "--no-eval", "--aux-loss-weight", 0)
        self.refuse(2, "--routing-loss: has no effect", *tune, "--model", "weightless", "--out", "no", "--routing-loss", "switch")
        weight = lambda folder: json.loads((self.path / folder / "config.json").read_text())["aux_loss_weight"]
        self.assertEqual((weight("routers"), weight("again")), (0.1, 0.1))
        self.refuse(2, "expected --train new", *no, "--kl", 1, "--old-data", self.text)
        self.refuse(2, "--old-data", *no, "--train", "new", "--kl", 1)
        self.refuse(2, "exists already", *tune, "--model", "model", "--out", "model")
        self.refuse(2, "--aux-loss-weight", *no, "--aux-loss-weight", -1)
        self.assertFalse((self.path / "no").exists())

    def test_the_window_of_the_training_stays_with_the_model(self):
        score = lambda model: self.run_program("eval", "--model", model, "--data", self.text).out.splitlines()[0]
        record = lambda model: self.run_program("routes", "record", "--model", model, "--data", self.text, "--out", model + ".safetensors").out
        self.assertIn("in windows of 16", score("model"))
        self.run_program("extend", "--model", "model", "--out", "grown", "--feed-forward", 2, "--activate")
        self.run_program("extend", "--model", "model", "--out", "dormant", "--feed-forward", 2)
        self.run_program("prune", "--model", "dormant", "--out", "all", "--data", self.text, "--keep", 1)
        self.run_program("extract", "--model", "model", "--layer", 0, "--expert", 0, "--out", "expert.safetensors")
        self.run_program("insert", "--model", "model", "--out", "twice", "--layer", 0, "--at", 4, "--expert", "expert.safetensors")
        for folder in "grown", "dormant", "all", "twice":
            self.assertIn("in windows of 16", score(folder))
        self.assertEqual(score("model"), score("dormant"))
        # Fine-tuning takes the model's window, too, so that its routes can be compared.
        self.run_program("finetune", "--data", self.text, "--steps", 2, "--rows", 2, "--model", "dormant", "--out", "learnt", "--train", "new", "--no-eval")
        self.assertIn("in windows of 16", score("learnt"))
        record("learnt")
        self.run_program("finetune", "--data", self.text, "--steps", 2, "--rows", 2, "--window", 24, "--model", "model", "--out", "tuned", "--no-eval")
        self.assertIn("in windows of 24", score("tuned"))
        # The drift gate, over the same windows.
        for folder in "model", "dormant", "grown":
            self.assertIn("batches of windows of 16", record(folder))
        self.run_program("routes", "compare", "model.safetensors", "dormant.safetensors", "--at-least", 1)
        self.refuse(1, "model.safetensors and grown.safetensors: record of routes: of another model", "routes", "compare",
                    "model.safetensors", "grown.safetensors")
        self.run_program("routes", "compare", "model.safetensors", "learnt.safetensors", "--grown", "--at-least", 0.01)
        shown = self.run_program("routes", "compare", "model.safetensors", "grown.safetensors", "--grown").out
        self.assertRegex(shown, r"0 attention +100.00 %")
        self.refuse(3, "grown.safetensors: expected at least 1 of the slots", "routes", "compare", "model.safetensors", "grown.safetensors",
                    "--grown", "--at-least", 1)
        self.run_program("eval", "--model", "dormant", "--data", self.text, "--replay", "model.safetensors")

    def test_what_is_refused(self):
        extend, prune = ["extend", "--model", "model", "--out", "no"], ["prune", "--model", "model", "--out", "no"]
        self.refuse(2, "--attention or --feed-forward", *extend)
        self.refuse(2, "with --initial copies", *extend, "--attention", 1, "--initial", "copies")
        self.refuse(1, "expected layers below 2, found 2", *extend, "--attention", 1, "--layers", "2")
        self.refuse(2, "exists already", "extend", "--model", "model", "--out", "model", "--attention", 1)
        self.refuse(1, "does not exist", "extend", "--model", "model", "--out", "nowhere/no", "--attention", 1)
        self.refuse(2, "", *prune, "--data", self.text)
        self.refuse(2, "", *prune, "--data", self.text, "--keep", 0.5, "--threshold", 0.1)
        for way, bad in (("--keep", 2), ("--keep", "nan"), ("--keep-of-all", -1), ("--threshold", "nan")):
            self.refuse(2, f"{way}: expected a number from 0 to 1, found '{bad}'", *prune, "--data", self.text, way, bad)
        self.refuse(2, "expected --data", *prune, "--keep", 0.5)
        self.refuse(2, "--merge", *prune, "--data", self.text, "--keep", 0.5, "--merge", "--router-rows", "keep")
        self.refuse(1, "expected a routed expert from 0 to 3, found 4", "extract", "--model", "model", "--layer", 0, "--expert", 4, "--out", "e")
        self.assertFalse((self.path / "no").exists())


if __name__ == "__main__":
    unittest.main(verbosity=2)
