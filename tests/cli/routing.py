# SPDX-License-Identifier: MIT
"""The report of routing: its numbers, its files, and what it refuses."""
import csv
import json
import os
import unittest
import xml.etree.ElementTree as ElementTree

import support


class Routing(support.ProgramTest):
    def setUp(self):
        super().setUp()
        self.train("model", 6, "--no-eval")
        self.digits = self.path / "digits.txt"
        self.digits.write_text("0123456789 " * 80)

    def routing(self, *more, status=0):
        data = [item for pair in (("words", self.text), ("di<g>its", self.digits)) for item in ("--data", f"{pair[0]}={pair[1]}")]
        return self.run_program("routing", "--model", "model", *data, *more, status=status)

    def test_the_report(self):
        shown = self.routing("--report", "report.html", "--json", "report.json", "--csv", "report.csv").out
        report = json.loads((self.path / "report.json").read_text())
        self.assertEqual(set(report["domains"]), {"words", "di<g>its"})
        self.assertEqual(len(report["all"]), 4)
        for number, router in enumerate(report["all"]):
            self.assertEqual(router["experts"], 4)
            self.assertEqual(sum(router["load"]), 2 * router["tokens"])
            self.assertAlmostEqual(sum(router["mean_probability"]), 1, places=6)
            self.assertLessEqual(router["effective_experts"], 4 + 1e-9)
            self.assertGreaterEqual(router["mutual_information"], -1e-6)
            self.assertGreaterEqual(router["domain_information"], 0)
            parts = [report["domains"][name][number] for name in report["domains"]]
            self.assertEqual([sum(x) for x in zip(*(part["load"] for part in parts))], router["load"])
            for e in range(4):
                self.assertEqual(router["coactivation"][e][e], router["load"][e])
        rows = list(csv.DictReader((self.path / "report.csv").read_text().splitlines()))
        self.assertEqual([row["domain"] for row in rows], ["words"] * 4 + ["di<g>its"] * 4 + [""] * 4)
        self.assertEqual([row["domain_information"] for row in rows[:8]], [""] * 8)
        self.assertAlmostEqual(float(rows[8]["domain_information"]), report["all"][0]["domain_information"])
        self.assertAlmostEqual(float(rows[8]["effective_experts"]), report["all"][0]["effective_experts"])
        page = (self.path / "report.html").read_text()
        root = ElementTree.fromstring(page.replace("<!DOCTYPE html>", ""))  # well-formed as XML too
        self.assertEqual(len([e for e in root.iter() if e.tag.endswith("svg")]), 2 + 4 + 4)
        self.assertIn("di&lt;g&gt;its", page)
        self.assertNotIn("http", page.replace("http://www.w3.org/2000/svg", ""))
        self.assertIn("1 feed-forward", shown)

    def test_agreement_of_two_checkpoints(self):
        self.train("other", 6, "--no-eval", "--seed", 5)
        self.routing("--compare", "model", "--json", "same.json")
        self.routing("--compare", "other", "--json", "other.json", "--csv", "other.csv", "--report", "other.html")
        same = json.loads((self.path / "same.json").read_text())["agreement"]
        other = json.loads((self.path / "other.json").read_text())["agreement"]
        self.assertTrue(all(router["same_set"] == 1 and router["gate_difference"] == 0 for router in same["all"]))
        self.assertTrue(any(router["same_set"] < 1 for router in other["all"]))
        rows = list(csv.DictReader((self.path / "other.csv").read_text().splitlines()))
        for key in "same_set", "shared_slots", "same_first", "gate_difference":
            parts = [[router[key] for router in other["domains"][name]] for name in ("words", "di<g>its")]
            means = [router[key] for router in other["all"]]
            for of_words, of_digits, mean in zip(*parts, means):
                self.assertAlmostEqual((of_words + of_digits) / 2, mean)
            for row, number in zip(rows, parts[0] + parts[1] + means):
                self.assertAlmostEqual(float(row[key]), number)
        self.assertIn("Agreement with other", (self.path / "other.html").read_text())

    def test_load_over_training(self):
        self.train("run", 4, "--no-eval", "--observe-load", 2)
        resumed = self.run_program("train", "--data", self.text, "--out", "run", "--resume", "--steps", 6, "--no-eval")
        self.assertIn("6/6", resumed.err)
        self.run_program("routing", "--model", "run", "--data", f"a={self.text}", "--json", "run.json", "--report", "run.html")
        history = json.loads((self.path / "run.json").read_text())["history"]
        self.assertEqual([moment["step"] for moment in history], [2, 4, 6])
        for moment in history:
            self.assertEqual([sum(load) for load in moment["load"]], [2 * 2 * 16] * 4)  # slots of rows of tokens
        page = (self.path / "run.html").read_text()
        self.assertIn("Load over training", page)
        self.assertEqual(page.count("step 6"), 4 * (1 + 4))  # a row's name and its cells', of each router
        # A run that was not observed goes on to be.
        self.run_program("train", "--data", self.text, "--out", "model", "--resume", "--steps", 8, "--no-eval", "--observe-load", 1)
        self.routing("--json", "late.json")
        self.assertEqual([m["step"] for m in json.loads((self.path / "late.json").read_text())["history"]], [7, 8])

    def test_what_is_refused(self):
        def refuse(status, words, *arguments):
            result = self.run_program("routing", "--model", "model", *arguments, status=status)
            self.assertIn(words, result.err)
        one = ("--data", f"a={self.text}")
        refuse(2, "expected NAME=FILE", "--data", self.text)
        refuse(2, "named twice", *one, *one)
        refuse(1, "domain b: ", *one, "--data", "b=nowhere.txt")
        (self.path / "byte.txt").write_text("a")
        refuse(1, "domain b: ", *one, "--data", "b=byte.txt")
        refuse(2, "UTF-8", "--data", os.fsdecode(b"\xff=") + str(self.text))
        (self.path / "empty.txt").write_text("")
        refuse(1, "domain b: ", *one, "--data", "b=empty.txt")
        refuse(2, "twice", *one, "--json", "x", "--csv", "x")
        refuse(2, "twice", *one, "--json", "x", "--csv", "./x")
        self.train("small", 2, "--no-eval", "--ffn-experts", 3)
        refuse(1, "other sizes", *one, "--compare", "small")
        before = (self.path / "small" / "config.json").read_bytes()
        self.run_program("routing", "--model", "model", *one, "--compare", "small", "--json", "small/config.json", status=2)
        self.assertEqual(before, (self.path / "small" / "config.json").read_bytes())
        refuse(1, "nowhere", *one, "--report", "nowhere/report.html")
        self.run_program("routing", "--model", "nothing", *one, status=1)
        self.run_program("routing", "--model", "model", *one, "--compare", "nothing", status=1)
        self.assertFalse((self.path / "x").exists())


if __name__ == "__main__":
    unittest.main(verbosity=2)
