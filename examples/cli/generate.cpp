// SPDX-License-Identifier: MIT
// moduleformer generate: continues prompts.
#include "command.hpp"
#include "devices.hpp"
#include "text.hpp"
#include "values.hpp"

#include <CLI/CLI.hpp>
#include <fmt/core.h>

#include <cstdio>
#include <memory>
#include <string>
#include <vector>

namespace cli {
namespace {

namespace mf = moduleformer;

struct Generate {
  std::string model, ids;
  std::vector<std::string> prompts;
  mf::GenerationOptions options{.max_new_tokens = 200, .temperature = 0.8};
  DeviceOptions device;
  bool no_echo = false;

  explicit Generate(CLI::App& command) {
    command.add_option("--model", model, "folder of the model")->required()->check(named())->type_name("DIR");
    auto* const texts = command.add_option("--prompt", prompts, "text to continue; several are continued together")->type_name("TEXT");
    command
        .add_option("--tokens", ids,
                    "safetensors file with prompts as the integer tensor input_ids, (T) or (B,T), for\n"
                    "vocabularies other than bytes; prints ids")
        ->check(named())
        ->type_name("IDS.safetensors")
        ->excludes(texts);
    command.add_option("--max-new-tokens", options.max_new_tokens, "tokens to add, at most")
        ->capture_default_str()
        ->check(integer(1, largest_size))
        ->type_name("INTEGER");
    command.add_option("--temperature", options.temperature, "0 takes the most probable token")
        ->capture_default_str()
        ->check(number({0, 1e6, false, true}))
        ->type_name("NUMBER");
    command.add_option("--top-k", options.top_k, "draw from the k most probable tokens; 0: all")
        ->capture_default_str()
        ->check(integer(0, largest_size))
        ->type_name("INTEGER");
    command.add_option("--top-p", options.top_p, "draw from the fewest tokens whose probabilities reach p")
        ->capture_default_str()
        ->check(number({0, 1, true}))
        ->type_name("NUMBER");
    command.add_option("--repetition-penalty", options.repetition_penalty, "above 1 discourages tokens that occurred")
        ->capture_default_str()
        ->check(number({0, 1e6, true, true}))
        ->type_name("NUMBER");
    command.add_option("--stop-id", options.stop_ids, "ids that end a continuation, beside the model's end mark")
        ->check(integer(0, largest_size))
        ->type_name("ID");
    command.add_option("--seed", options.seed, "of the draws")
        ->capture_default_str()
        ->check(seed())
        ->type_name("INTEGER");
    command.add_flag("--no-echo", no_echo, "print the continuation without its prompt");
    add_device_options(command, device);
  }

  int run() {
    if (prompts.empty() && ids.empty()) throw UsageError("expected --prompt TEXT or --tokens IDS.safetensors");
    options.threads = device.threads;
    auto const loaded = find_device(device).load(model, false);
    if (loaded->config().eos_token_id >= 0) options.stop_ids.push_back(static_cast<mf::TokenId>(loaded->config().eos_token_id));
    if (!ids.empty()) {
      for (auto const& result : loaded->generate(read_ids(ids), options, [](mf::Index, mf::TokenId) {})) {
        for (mf::TokenId const id : result.tokens) fmt::print("{} ", id);
        fmt::print("\n");
      }
      return success;
    }
    expect_text_model(loaded->config(), model);
    return continue_texts(*loaded);
  }

  int continue_texts(LanguageModel const& loaded) {
    std::vector<std::vector<mf::TokenId>> encoded;
    for (auto const& prompt : prompts) {
      auto& prompt_ids = encoded.emplace_back(bytes_to_ids(prompt));
      // As in training, where the mark stands before each document.
      if (has_end_mark(loaded.config())) prompt_ids.insert(prompt_ids.begin(), mf::ByteBatches::eos_id);
    }
    // One text is shown as it grows.
    bool const streams = prompts.size() == 1;
    auto const echo = [&](std::size_t i) {
      if (!no_echo) std::fwrite(prompts[i].data(), 1, prompts[i].size(), stdout);
    };
    if (streams) echo(0);
    auto const results = loaded.generate(encoded, options, [&](mf::Index, mf::TokenId id) {
      if (!streams) return;
      std::putchar(static_cast<int>(id));
      std::fflush(stdout);
    });
    for (std::size_t i = 0; i < results.size(); ++i) {
      if (!streams) {
        echo(i);
        for (mf::TokenId const id : results[i].tokens) std::putchar(static_cast<int>(id));
      }
      std::putchar('\n');
    }
    return success;
  }
};

}  // namespace

Run set_up_generate(CLI::App& command) {
  return [generate = std::make_shared<Generate>(command)] { return generate->run(); };
}

}  // namespace cli
