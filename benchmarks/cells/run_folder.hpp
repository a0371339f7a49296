// SPDX-License-Identifier: MIT
#pragma once
// Training that can be stopped: what it needs to go on lies in a folder beside the results, saved every so many
// seconds, and a resumed run ends as an uninterrupted one. Whoever writes the result removes the folder after it.

#include "support.hpp"

#include <moduleformer/io/checkpoint.hpp>

#include <nlohmann/json.hpp>

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace bench {

/// What a run knows beside weights and optimizer.
struct RunState {
  static constexpr std::string_view file_stem = "cell";
  std::string identity{};
  std::string notes{};  // of the run's own making

  template <class Self, class Visitor>
  static void visit(Self& self, Visitor&& visit) {
    visit("identity", self.identity);
    visit("notes", self.notes);
  }
};

class RunFolder {
 public:
  /// `identity`: what a stored run must have been made with to go on.
  RunFolder(std::filesystem::path folder, std::string identity, double save_every)
      : folder_(std::move(folder)), save_every_(save_every) {
    state_.identity = std::move(identity);
  }

  /// The stored run's model, if there is a run to go on with; what is left of another is removed.
  template <class Model>
  std::optional<Model> stored() {
    if (!is_of_this_run()) {
      std::filesystem::remove_all(folder_);
      return {};
    }
    Model model = mf::load<Model>(folder_, {.map = false});
    mf::load_state(folder_, model, state_);
    resumed_ = true;
    return model;
  }

  /// Trains until step `steps`: step(trainer) makes one, notes() tells what to keep in notes().
  template <class Trainer, class Step, class Notes>
  void train(Trainer& trainer, mf::Index steps, Step const& step, Notes const& notes) {
    if (resumed_) mf::load_state(folder_, trainer.model(), trainer);
    double saved = now();
    while (trainer.steps() < steps) {
      step(trainer);
      if (now() - saved < save_every_ || trainer.steps() == steps) continue;
      state_.notes = notes();
      mf::save(trainer.model(), folder_, {}, trainer, state_);
      saved = now();
    }
  }

  /// Of the stored run; empty for a new one.
  [[nodiscard]] std::string const& notes() const { return state_.notes; }

 private:
  /// By what the folder says of itself: another build may not even be able to load its model.
  [[nodiscard]] bool is_of_this_run() const try {
    mf::SafetensorsFile const file{mf::resolve_folder(folder_) / (std::string(RunState::file_stem) + ".safetensors")};
    auto const state = nlohmann::json::parse(file.metadata("state"), nullptr, false);
    return state.is_object() && state.value("identity", std::string()) == state_.identity;
  } catch (mf::Error const&) {
    return false;
  } catch (nlohmann::json::exception const&) {
    return false;
  }

  std::filesystem::path folder_;
  double save_every_;
  RunState state_;
  bool resumed_ = false;
};

}  // namespace bench
