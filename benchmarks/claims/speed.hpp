// SPDX-License-Identifier: MIT
#pragma once
// What a model costs that is used: loading, forward and decoding tokens per second, resident memory. Each model is measured in a
// process of its own, all in turn in several rounds, so that a machine that changes its pace does so for all. Worth something on a
// quiet machine only, so apart from the cells.

#include "claims/training.hpp"

#include <moduleformer/model/generation.hpp>

#include <array>
#include <cstdio>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

namespace bench {

struct ModelSpeed {
  std::string name;
  double kept = 1;              // fraction of experts asked for
  Index parameters = 0, active_parameters = 0;
  double file_megabytes = 0;
  double load_milliseconds = 0; // to the first token of a sequence, weights mapped
  double resident_megabytes = 0;  // of the process after decoding at batch 1
  double decode_1 = 0, decode_8 = 0;  // tokens/s
  double forward = 0;           // tokens/s of 2048 tokens
};

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(ModelSpeed, name, kept, parameters, active_parameters, file_megabytes, load_milliseconds,
                                   resident_megabytes, decode_1, decode_8, forward)

namespace detail {

inline double resident_megabytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with("VmRSS:")) return std::stod(line.substr(6)) / 1024;
  return 0;
}

inline double folder_megabytes(std::filesystem::path const& folder) {
  double bytes = 0;
  for (auto const& entry : std::filesystem::directory_iterator(folder)) bytes += static_cast<double>(entry.file_size());
  return bytes * 1e-6;
}

}  // namespace detail

/// In a process that has done nothing else.
inline ModelSpeed measure_model(std::filesystem::path const& folder, int threads) {
  ModelSpeed speed;
  auto const decode = [&](Model const& model, Index sequences, Index tokens) {
    std::vector<std::vector<mf::TokenId>> const prompts(static_cast<std::size_t>(sequences), {'T', 'h', 'e', ' '});
    (void)mf::generate(model, prompts, {.max_new_tokens = tokens, .temperature = 0, .threads = threads});
  };
  double const begin = now();
  Model const model = mf::load<Model>(folder);
  decode(model, 1, 1);
  speed.load_milliseconds = 1e3 * (now() - begin);
  auto const counts = mf::count(model.config(), model.policies(), model.outputs());
  speed.parameters = counts.parameters;
  speed.active_parameters = counts.active_parameters;
  speed.file_megabytes = detail::folder_megabytes(folder);
  auto const rate = [&](Index sequences) {
    constexpr Index tokens = 128;
    return static_cast<double>(sequences * tokens) / median_seconds(5, [&] { decode(model, sequences, tokens); });
  };
  speed.decode_1 = rate(1);
  speed.resident_megabytes = detail::resident_megabytes();
  speed.decode_8 = rate(8);
  mf::Batch batch{.rows = 8, .tokens = 256};
  batch.ids.resize(2048);
  for (std::size_t i = 0; i < batch.ids.size(); ++i) batch.ids[i] = static_cast<mf::TokenId>(32 + (i * 7 + i / 11) % 90);
  batch.targets = batch.ids;
  mf::Session session{model, {.threads = threads}};
  speed.forward = 2048 / median_seconds(5, [&] { (void)model.loss(session, batch); });
  return speed;
}

/// The same, by running this program on the folder.
inline ModelSpeed measure_apart(std::filesystem::path const& folder, int threads) {
  std::string const command = fmt::format("'{}' --threads {} --measure '{}'", std::filesystem::read_symlink("/proc/self/exe").string(),
                                          threads, folder.string());
  std::unique_ptr<FILE, int (*)(FILE*)> const pipe(popen(command.c_str(), "r"), pclose);
  mf::expects(pipe != nullptr, "--speed: cannot run ", command);
  std::string text;
  std::array<char, 4096> part{};
  while (std::size_t const size = std::fread(part.data(), 1, part.size(), pipe.get())) text.append(part.data(), size);
  auto const json = nlohmann::json::parse(text, nullptr, false);
  mf::expects(json.is_object(), "--speed: expected JSON from ", command, ", found '", text, "'");
  return json.get<ModelSpeed>();
}

/// The models of the first seed: those of the first trainings, and the specialised ones with fewer and fewer experts.
inline std::vector<ModelSpeed> measure_speeds(ClaimOptions const& o) {
  struct Candidate {
    std::string name;
    double kept;
    std::filesystem::path folder;
    std::vector<ModelSpeed> rounds{};
  };
  std::vector<Candidate> candidates;
  for (ClaimCell const& cell : claim_cells(o)) {
    if (cell.seed != o.seeds.front() || !std::filesystem::exists(cell.model(o))) continue;
    std::string const name(cell.recipe->name);
    if (cell.recipe->stage == Stage::first) candidates.push_back({name, 1, cell.model(o)});
    if (cell.recipe->concentration == 0) continue;
    for (double const kept : kept_fractions) {
      auto const folder = o.out / fmt::format("{}.kept{}.model", cell.name(), kept);
      Model const model = mf::load<Model>(cell.model(o));
      mf::Session session{model, {.threads = o.threads}};
      mf::save(mf::prune(model, mf::keep_fraction_of_all(model, use_on_task(o, cell, model, session), kept)).model, folder);
      candidates.push_back({name, kept, folder});
    }
  }
  mf::expects(!candidates.empty(), "--speed: no model of seed ", o.seeds.front(), " is in ", o.out.string());
  for (int round = 0; round < 5; ++round)
    for (Candidate& c : candidates) c.rounds.push_back(measure_apart(c.folder, o.threads));
  std::vector<ModelSpeed> result;
  for (Candidate const& c : candidates) {
    ModelSpeed& speed = result.emplace_back(c.rounds.front());
    speed.name = c.name;
    speed.kept = c.kept;
    for (auto const number : {&ModelSpeed::load_milliseconds, &ModelSpeed::resident_megabytes, &ModelSpeed::decode_1, &ModelSpeed::decode_8,
                              &ModelSpeed::forward}) {
      std::vector<double> values;
      for (ModelSpeed const& r : c.rounds) values.push_back(r.*number);
      speed.*number = median(values);
    }
  }
  return result;
}

inline std::filesystem::path speed_file(ClaimOptions const& o) { return o.out / "speed.json"; }

}  // namespace bench
