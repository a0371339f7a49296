# SPDX-License-Identifier: MIT
"""Exit status and message for every way to use the program wrongly, and for what goes wrong."""
import os
import subprocess
import unittest

import support
from support import TINY

COMMANDS = {
    "train": "--data --tokens --out --resume --overwrite --save-every --no-eval --threads --device --precision --vocab --hidden --layers "
             "--router-hidden --attention-experts --attention-top-k --heads --attention-hidden --ffn-experts --ffn-top-k "
             "--ffn-hidden --attention --activation --router --selection --selection-numbers --gating --shared-experts --shared-numbers --norm --routing-loss --loss-numbers --statistics "
             "--aux-loss-weight --embedding-dropout --residual-dropout --router-dropout --router-jitter --sampled-slots "
             "--initializer-range --rows --window --steps --accumulate --held-out --eos --schedule --rate --warmup --decay "
             "--floor --weight-decay --beta1 --beta2 --epsilon --clip --recompute --seed",
    "generate": "--model --prompt --tokens --max-new-tokens --temperature --top-k --top-p --repetition-penalty --stop-id "
                "--seed --no-echo --threads --device --precision",
    "eval": "--model --data --tokens --held-out --window --rows --replay --svg --threads --device --precision",
    "inspect": "--model --window --tensors",
    "extend": "--model --out --attention --feed-forward --layers --initial --seed --activate --data --tokens --threads --device --precision",
    "finetune": "--model --out --data --tokens --train --l2 --kl --old-data --no-eval --routing-loss --steps --rate --seed --threads --device --precision",
    "prune": "--model --out --data --tokens --threshold --keep --keep-of-all --by --router-rows --merge --threads --device --precision",
    "extract": "--model --layer --kind --expert --out --threads --device --precision",
    "insert": "--model --out --expert --layer --kind --at --threads --device --precision",
    "routes record": "--model --data --tokens --held-out --window --rows --out --threads --device --precision",
    "routes compare": "A B",
    "logits": "--model --input --output --gradients --double --threads --device --precision",
}


class Help(support.ProgramTest):
    def test_every_command_lists_its_options_with_defaults(self):
        top = self.run_program("--help").out
        for command, options in COMMANDS.items():
            self.assertIn(command.split()[0], top)
            text = self.run_program(*command.split(), "--help").out
            for option in options.split():
                self.assertRegex(text, rf"{option}\b", command)
        text = self.run_program("train", "--help").out
        for default in ("[1000]", "[0.003]", "[cosine]", "[inclusive]", "[mlp]", "[mi]", "[gelu_new]", "[softmax]"):
            self.assertIn(default.strip("[]"), text)
        for name in "inclusive_remainder strict strict_remainder linear gmm mlp_relu load_concentration switch router_z " \
                    "importance_cv2 load_cv2 weighted_sum none silu relu tanh stable_decay constant gumbel_top_k biased_top_k expert_choice document_pool top_k_softmax " \
                    "sigmoid normalised_sigmoid streaming whole_batch".split():
            self.assertIn(name, text)

    def test_version_tells_how_it_was_built(self):
        self.assertIn("moduleformer", self.run_program("--version").out)


class WrongUsage(support.ProgramTest):
    def test_the_command_line(self):
        self.refuse(2, "subcommand")
        self.refuse(2, "", "walk")
        self.refuse(2, "--out", "train", "--data", self.text)
        self.refuse(2, "--nonsense", "eval", "--nonsense", "--model", "m", "--data", self.text)
        self.refuse(2, "--steps", "train", "--data", self.text, "--out", "m", "--steps", "many")
        self.refuse(2, "--router", "train", "--data", self.text, "--out", "m", "--router", "oracle")
        self.refuse(2, "--threads", "generate", "--model", "m", "--prompt", "a", "--threads", "-1")
        self.refuse(2, "--held-out", "eval", "--model", "m", "--data", self.text, "--held-out", "2")

    def test_training_options(self):
        train = ["train", "--data", self.text, "--out", "m", *TINY]
        self.refuse(2, "--attention-top-k: 5 exceeds --attention-experts 4", *train, "--attention-top-k", "5")
        self.refuse(2, "--heads: 3 does not divide --attention-hidden 16", *train, "--heads", "3")
        self.refuse(2, "--hidden: expected an integer from 1 to 2147483647, found '-4'", *train, "--hidden", "-4")
        self.refuse(2, "--layers", *train, "--layers", "99999999999")
        self.refuse(2, "--router-dropout: expected a number from 0 to below 1, found '1'", *train, "--router-dropout", "1")
        self.refuse(2, "--router-jitter", *train, "--router-jitter", "-0.1")
        self.refuse(2, "--sampled-slots: expected 0 to top-k 2, found 3", *train, "--sampled-slots", "3")
        self.refuse(2, "warmup", *train, "--steps", "5", "--warmup", "9")
        self.refuse(2, "beta2", *train, "--beta2", "1")
        for option, bad in (("--steps", "0"), ("--rows", "0"), ("--rows", "-1"), ("--window", "0"), ("--window", "99999999999999999999"),
                            ("--held-out", "nan"), ("--held-out", "1"), ("--seed", "-1"), ("--seed", "18446744073709551616"),
                            ("--observe-load", "9223372036854775808"), ("--rate", "inf"), ("--rate", "-1"), ("--clip", "nan"),
                            ("--aux-loss-weight", "1e30"), ("--initializer-range", "1e6"), ("--epsilon", "0"), ("--floor", "1.5"),
                            ("--save-every", "-1"), ("--router-hidden", "3000000000"), ("--accumulate", "0")):
            message = self.run_program(*train, option, bad, status=2).err
            self.assertRegex(message, rf"{option}: expected (an integer|a number|a finite number) .*found '{bad}'")
        self.refuse(2, "--router-hidden: expected a positive number, the hidden size of --router mlp, found 0", *train, "--router-hidden", "0")
        self.refuse(2, "--rows 65536 of --window 65536: expected at most 2147483647 tokens", *train, "--rows", "65536", "--window", "65536")
        self.refuse(2, "--out: expected a name", "train", "--data", self.text, "--out", "", *TINY)
        self.refuse(2, "--data: expected a name", "train", "--data", "", "--out", "m", *TINY)
        self.refuse(2, "switch: z_weight: expected a number from 0, found -1", *train, "--routing-loss", "switch", "--loss-numbers", "z_weight=-1")
        self.refuse(2, "--resume and --overwrite", *train, "--resume", "--overwrite")
        self.refuse(2, "no number 'mi'", *train, "--loss-numbers", "mi=1")
        self.refuse(2, "no number 'rate'", *train, "--selection-numbers", "rate=1")
        self.refuse(2, "KEY=VALUE", *train, "--routing-loss", "switch", "--loss-numbers", "z_weight=x")
        self.refuse(2, "z_weight: expected a finite number, found 'inf'", *train, "--routing-loss", "switch", "--loss-numbers", "z_weight=inf")
        self.refuse(2, "z_weight is given twice", *train, "--routing-loss", "switch", "--loss-numbers", "z_weight=1,z_weight=2")
        self.refuse(2, "load_cv2 has nothing to even out", *train, "--selection", "expert_choice", "--routing-loss", "weighted_sum",
                    "--loss-numbers", "importance_cv2=1,load_cv2=1")
        self.refuse(2, "expected a weight that is not 0", *train, "--routing-loss", "weighted_sum", "--loss-numbers", "mi=0")
        self.refuse(2, "--router-dropout: has no effect, router gmm has no dropout", *train, "--router", "gmm", "--router-dropout", "0.1")
        self.refuse(2, "--aux-loss-weight: has no effect", *train, "--routing-loss", "none", "--aux-loss-weight", "0.1")
        self.refuse(2, "--statistics: has no effect", *train, "--statistics", "streaming", "--aux-loss-weight", "0")
        self.refuse(2, "gives a token one expert at most", *train, "--selection", "expert_choice", "--selection-numbers", "most_experts=1",
                    "--gating", "top_k_softmax")
        self.refuse(2, "statistics: streaming changes nothing", *train, "--statistics", "streaming", "--routing-loss", "weighted_sum",
                    "--loss-numbers", "router_z=1")
        for selection, number, message in (
                ("gumbel_top_k", "scale=nan", "scale: expected a finite number"),
                ("gumbel_top_k", "scale=-1", "gumbel_top_k: scale: expected a number from 0 to below 1e6, found -1"),
                ("biased_top_k", "rate=-1", "biased_top_k: rate: expected a number from 0 to below 1e6, found -1"),
                ("expert_choice", "capacity=0", "expert_choice: capacity: expected a number above 0 and below 1e6, found 0"),
                ("expert_choice", "most_experts=nan", "most_experts: expected an integer"),
                ("document_pool", "smallest=5", "document_pool: smallest: expected 2 to 4 experts, or 0, found 5"),
                ("document_pool", "smallest=4,largest=3", "document_pool: smallest: expected at most largest, 3, found 4")):
            self.refuse(2, message, *train, "--selection", selection, "--selection-numbers", number)
        self.refuse(2, "--sampled-slots: selection expert_choice samples no slots", *train, "--selection", "expert_choice", "--sampled-slots", "1")
        self.refuse(2, "--observe-load", *train, "--observe-load", "-1")
        shared = [*train, "--shared-experts", "shared", "--shared-numbers"]
        self.refuse(2, "--shared-numbers: feed_forward: expected 0 to 1, fewer than --ffn-top-k, found 2", *shared, "feed_forward=2")
        self.refuse(2, "--sampled-slots: expected 0 to top-k 1, found 2", *shared, "attention=0,feed_forward=1", "--sampled-slots", "2")
        self.refuse(2, "leaves one expert to choose", *shared, "attention=1,feed_forward=1", "--gating", "top_k_softmax")
        self.refuse(2, "attention: expected an integer, found '0.5'", *shared, "attention=0.5")
        self.refuse(2, "no number 'heads'", *shared, "heads=1")
        self.refuse(2, "257", *train, "--eos", "--vocab", "256")
        self.refuse(2, "--tokens", "train", "--out", "m", *TINY)
        self.refuse(2, "--tokens", *train, "--vocab", "300")
        self.assertFalse((self.path / "m").exists())

    def test_generation_options(self):
        self.train()
        generate = ["generate", "--model", "model"]
        self.refuse(2, "--prompt", *generate)
        self.refuse(2, "--temperature", *generate, "--prompt", "a", "--temperature", "-1")
        self.refuse(2, "--temperature", *generate, "--prompt", "a", "--temperature", "nan")
        self.refuse(2, "--top-p", *generate, "--prompt", "a", "--top-p", "0")
        self.refuse(2, "--top-k", *generate, "--prompt", "a", "--top-k", "9223372036854775808")
        self.refuse(2, "--repetition-penalty", *generate, "--prompt", "a", "--repetition-penalty", "0")
        self.refuse(2, "--seed", *generate, "--prompt", "a", "--seed", "-1")
        self.refuse(2, "--model: expected a name", "generate", "--model", "", "--prompt", "a")
        self.refuse(2, "--max-new-tokens", *generate, "--prompt", "a", "--max-new-tokens", "0")
        self.refuse(1, "prompt 0 is empty", *generate, "--prompt", "")
        self.refuse(1, "stop_ids", *generate, "--prompt", "a", "--stop-id", "256")

    def test_a_model_is_not_replaced_by_accident(self):
        self.train()
        before = (self.path / "model" / "model.safetensors").read_bytes()
        self.refuse(2, "--overwrite", "train", "--data", self.text, "--out", "model", *TINY)
        self.assertEqual(before, (self.path / "model" / "model.safetensors").read_bytes())
        self.train("model", 3, "--overwrite", "--seed", "5")
        self.assertNotEqual(before, (self.path / "model" / "model.safetensors").read_bytes())


    def test_outputs_do_not_replace_inputs(self):
        self.train()
        weights = self.path / "model" / "model.safetensors"
        before = weights.read_bytes()
        self.refuse(2, "model's own files", "eval", "--model", "model", "--data", self.text, "--svg", weights)
        self.refuse(2, "replace an input", "eval", "--model", "model", "--data", self.text, "--svg", self.text)
        self.refuse(2, "replace an input", "logits", "--model", "model", "--input", weights, "--output", weights)
        self.refuse(1, "current directory", "train", "--data", self.text, "--out", ".", *TINY)
        self.assertEqual(before, weights.read_bytes())

    def test_empty_names_are_not_taken_for_none(self):
        for command, option in (("eval", "--svg"), ("eval", "--replay"), ("routing", "--report"), ("routing", "--compare"),
                                ("routing", "--json"), ("routing", "--csv"), ("prune", "--out"), ("extract", "--out")):
            self.refuse(2, f"{option}: expected a name, found an empty one", command, "--model", "m", option, "")


class Failure(support.ProgramTest):
    def test_texts(self):
        self.refuse(1, "a device", "train", "--data", "/dev/zero", "--out", "m", *TINY)
        empty = self.path / "empty.txt"
        empty.touch()
        for name, message in (("absent.txt", "nothing of that name"), (empty, "empty"), (self.path, "folder")):
            self.refuse(1, message, "train", "--data", name, "--out", "m", *TINY)
        short = self.path / "short.txt"
        short.write_text("a")
        self.refuse(1, "training text", "train", "--data", short, "--out", "m", *TINY)

    def test_folders(self):
        train = ["train", "--data", self.text, *TINY, "--out"]
        self.refuse(1, "does not exist", *train, "absent/model")
        self.refuse(1, "found a file", *train, self.text)
        self.refuse(1, "absent", "train", "--data", self.text, "--out", "absent", "--resume")
        for command in ("generate", "--prompt", "a"), ("eval", "--data", self.text), ("inspect",):
            self.refuse(1, "absent", command[0], "--model", "absent", *command[1:])
        if os.geteuid() != 0:
            os.chmod(self.path, 0o555)
            self.refuse(1, "not writable", *train, "model")
            os.chmod(self.path, 0o755)

    def test_damaged_models(self):
        self.train()
        weights = self.path / "model" / "model.safetensors"
        whole = weights.read_bytes()
        weights.write_bytes(whole[:-4])
        for command in ("inspect",), ("generate", "--prompt", "a"), ("eval", "--data", self.text):
            self.refuse(1, "model.safetensors", command[0], "--model", "model", *command[1:])
        weights.write_bytes(whole)
        config = self.path / "model" / "config.json"
        good = config.read_text()
        config.write_text(good.replace('"k_att": 2', '"k_att": 9'))
        self.refuse(1, "k_att", "inspect", "--model", "model")
        config.write_text(good.replace('"n_embd": 16', '"n_embd": 24'))
        self.refuse(1, "shape", "inspect", "--model", "model")
        config.write_text("{")
        self.refuse(1, "config.json", "inspect", "--model", "model")

    def test_output_that_cannot_be_written(self):
        self.train()
        if os.path.exists("/dev/full"):
            with open("/dev/full", "wb") as full:
                result = subprocess.run([support.PROGRAM, "inspect", "--model", "model"], cwd=self.path, stdout=full,
                                        stderr=subprocess.PIPE, check=False)
            self.assertEqual(result.returncode, 1)
            self.assertIn(b"standard output", result.stderr)
        self.refuse(1, "absent/a.svg", "eval", "--model", "model", "--data", self.text, "--svg", "absent/a.svg")
        (self.path / "folder").mkdir()
        self.refuse(1, "folder: expected a file, found a folder", "eval", "--model", "model", "--data", self.text, "--svg", "folder")
        self.refuse(1, "folder: expected a file, found a folder", "routing", "--model", "model", "--data", f"a={self.text}", "--json",
                    "written.json", "--csv", "folder")
        self.assertFalse((self.path / "written.json").exists())

    def test_a_diverging_run_stops_and_keeps_the_last_checkpoint(self):
        self.train("model", 4)
        before = (self.path / "model" / "model.safetensors").read_bytes()
        result = self.run_program("train", "--data", self.text, "--out", "model", "--resume", "--steps", 40, "--rate", "1e30",
                                  "--clip", "0", "--schedule", "constant", "--threads", "2", status=1)
        self.assertRegex(result.err, r"training step \d+: .*not finite")
        self.assertEqual(before, (self.path / "model" / "model.safetensors").read_bytes())


if __name__ == "__main__":
    unittest.main(verbosity=2)
