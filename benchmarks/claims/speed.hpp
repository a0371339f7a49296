// SPDX-License-Identifier: MIT
#pragma once
// What a model costs that is used: loading, forward and decoding tokens per second, memory. Each model is measured in a
// process of its own, all in turn in several rounds, so that a machine that changes its pace does so for all. Worth
// something on a quiet machine only, so apart from the cells.

#include "claims/training.hpp"

#include <moduleformer/model/generation.hpp>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

namespace bench {

/// Median over the rounds, and half of what lies between the smallest and the largest.
struct Timing {
  double median = 0, spread = 0;
};

struct ModelSpeed {
  std::string name;
  double kept = 1;  // fraction of experts asked for
  Index parameters = 0, active_parameters = 0;
  double file_megabytes = 0;
  Timing load_milliseconds{};     // to the first token of a sequence, weights mapped
  Timing memory_megabytes{};      // that became resident by loading and decoding at batch 1
  Timing decode_1{}, decode_8{};  // tokens/s of continuations of one text, and of eight different ones
  Timing forward{};               // tokens/s of 8 windows
};

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Timing, median, spread)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(ModelSpeed, name, kept, parameters, active_parameters, file_megabytes,
                                   load_milliseconds, memory_megabytes, decode_1, decode_8, forward)

/// Timings that may stand in one table.
struct Speeds {
  int threads = 0;
  std::uint64_t seed = 0;  // of the models
  std::vector<ModelSpeed> models{};
};

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Speeds, threads, seed, models)

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

/// In a process that has done nothing else, on held-out text of the first domain: its first windows forward, and the
/// beginnings of these as prompts. Throws Error if there are fewer than eight.
inline ModelSpeed measure_model(std::filesystem::path const& folder, ClaimOptions const& o) {
  constexpr Index most = 8, prompt = 16;
  mf::ByteBatches const text(o.domains.front().file, {.rows = most, .tokens = o.window, .held_out = o.held_out});
  mf::Batch batch;
  text.held_out().read(0, batch);
  mf::expects(batch.rows == most, "--measure: expected at least ", most, " windows of held-out text, found ",
              batch.rows);
  std::vector<std::vector<mf::TokenId>> prompts;
  for (Index row = 0; row < batch.rows; ++row) {
    auto const first = batch.ids.begin() + row * o.window;
    prompts.emplace_back(first, first + std::min(prompt, o.window));
  }
  ModelSpeed speed;
  auto const decode = [&](Model const& model, Index sequences, Index tokens) {
    std::vector<std::vector<mf::TokenId>> const some(prompts.begin(), prompts.begin() + sequences);
    (void)mf::generate(model, some, {.max_new_tokens = tokens, .temperature = 0, .threads = o.threads});
  };
  double const before = detail::resident_megabytes(), begin = now();
  Model const model = mf::load<Model>(folder);
  decode(model, 1, 1);
  speed.load_milliseconds.median = 1e3 * (now() - begin);
  auto const counts = mf::count(model.config(), model.policies(), model.outputs());
  speed.parameters = counts.parameters;
  speed.active_parameters = counts.active_parameters;
  speed.file_megabytes = detail::folder_megabytes(folder);
  auto const rate = [&](Index sequences) {
    constexpr Index tokens = 128;
    return static_cast<double>(sequences * tokens) / median_seconds(5, [&] { decode(model, sequences, tokens); });
  };
  speed.decode_1.median = rate(1);
  speed.memory_megabytes.median = detail::resident_megabytes() - before;
  speed.decode_8.median = rate(most);
  mf::Session session{model, {.threads = o.threads}};
  speed.forward.median =
      static_cast<double>(batch.rows * batch.tokens) / median_seconds(5, [&] { (void)model.loss(session, batch); });
  return speed;
}

/// The same, by running this program on the folder.
inline ModelSpeed measure_apart(std::filesystem::path const& folder, ClaimOptions const& o) {
  Domain const domain = o.domain(o.task).front();
  std::string const command = fmt::format("'{}' --threads {} --window {} --held-out {} --data '{}={}' --measure '{}'",
                                          std::filesystem::read_symlink("/proc/self/exe").string(), o.threads, o.window,
                                          o.held_out, domain.name, domain.file.string(), folder.string());
  std::unique_ptr<FILE, int (*)(FILE*)> const pipe(popen(command.c_str(), "r"), pclose);
  mf::expects(pipe != nullptr, "--speed: cannot run ", command);
  std::string text;
  std::array<char, 4096> part{};
  while (std::size_t const size = std::fread(part.data(), 1, part.size(), pipe.get())) text.append(part.data(), size);
  auto const json = nlohmann::json::parse(text, nullptr, false);
  mf::expects(json.is_object(), "--speed: expected JSON from ", command, ", found '", text, "'");
  return json.get<ModelSpeed>();
}

inline std::filesystem::path speed_file(ClaimOptions const& o) { return o.out / "speed.json"; }

/// The models of the first seed: those of the first trainings, and the specialised ones with fewer and fewer experts.
/// Throws Error for a model whose cell is of other settings or sources than this program's.
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
    auto const made = read_result<ClaimResult>(cell.settings(o), cell.file(o));
    mf::expects(
        made && made->by_this_program(), "--speed: ", cell.file(o).string(),
        ": expected a result of these settings and of this program, found none or another; its model is not measured");
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
    for (Candidate& c : candidates) c.rounds.push_back(measure_apart(c.folder, o));
  std::vector<ModelSpeed> result;
  for (Candidate const& c : candidates) {
    ModelSpeed& speed = result.emplace_back(c.rounds.front());
    speed.name = c.name;
    speed.kept = c.kept;
    for (auto const number : {&ModelSpeed::load_milliseconds, &ModelSpeed::memory_megabytes, &ModelSpeed::decode_1,
                              &ModelSpeed::decode_8, &ModelSpeed::forward}) {
      std::vector<double> values;
      for (ModelSpeed const& r : c.rounds) values.push_back((r.*number).median);
      auto const [least, largest] = std::ranges::minmax(values);
      speed.*number = {median(values), (largest - least) / 2};
    }
  }
  return result;
}

/// Measures, and puts the figures in the place of older ones of the same models; other models keep theirs, if they were
/// timed alike.
inline void write_speeds(ClaimOptions const& o) {
  Speeds speeds{o.threads, o.seeds.front(), measure_speeds(o)};
  auto const before = read_result<Speeds>(o.settings(), speed_file(o));
  if (before && before->by_this_program() && before->result.threads == speeds.threads &&
      before->result.seed == speeds.seed)
    for (ModelSpeed const& old : before->result.models) {
      auto const same = [&](ModelSpeed const& s) { return s.name == old.name && s.kept == old.kept; };
      if (std::ranges::none_of(speeds.models, same)) speeds.models.push_back(old);
    }
  write_result(o.settings(), speed_file(o), speeds);
}

}  // namespace bench
