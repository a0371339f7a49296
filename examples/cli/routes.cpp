// SPDX-License-Identifier: MIT
// moduleformer routes: keeps which experts each token of a text went to, by which gates, and compares two such records;
// `eval --replay` runs a model on one.
#include "command.hpp"
#include "devices.hpp"
#include "report.hpp"
#include "scored_text.hpp"
#include "values.hpp"

#include <moduleformer/io/route_file.hpp>
#include <moduleformer/model/route_agreement.hpp>

#include <CLI/CLI.hpp>
#include <fmt/core.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

namespace cli {
namespace {

namespace mf = moduleformer;

struct Routes {
  CLI::App* record;
  std::string model, out, first, second;
  double at_least = 0;
  bool grown = false;
  ScoredText text;
  DeviceOptions device;

  explicit Routes(CLI::App& command) {
    command.require_subcommand(1);
    record = command.add_subcommand("record", "Run a model over a text and keep its routes in a file.");
    record->add_option("--model", model, "folder of the model")->required()->check(named())->type_name("DIR");
    add_scored_text_options(*record, text);
    record->add_option("--out", out, "the record")->required()->check(named())->type_name("FILE.safetensors");
    add_device_options(*record, device);
    auto* const compare = command.add_subcommand("compare", "How far two records of one text agree, router by router.");
    compare->add_option("A", first, "a record")->required()->check(named());
    compare->add_option("B", second, "another, of a model of the same routers")->required()->check(named());
    compare->add_flag("--grown", grown, "B's model is A's with new experts behind its own, as extend makes them");
    compare
        ->add_option("--at-least", at_least,
                     "exit with 3 if a smaller share of slots, mean over routers, has the same expert in both")
        ->check(number({0, 1}))
        ->type_name("NUMBER");
  }

  int run() { return record->parsed() ? run_record() : run_compare(); }

  int run_record() {
    check_output(out, model, text.inputs());
    auto const loaded = find_device(device).load(model, false);
    mf::RouteRecord const routes = loaded->record_routes(text.read(*loaded, model), device.threads);
    mf::save_routes(routes, out);
    fmt::print("{}: {} tokens in {} batches of windows of {}, {} routers, {} bytes\n", out, routes.tokens(),
               routes.size(), text.window_for(model), routes.routers.size(), std::filesystem::file_size(out));
    return success;
  }

  int run_compare() const {
    auto const agreement = compare();
    print_agreement(agreement);
    double const shared = mf::mean_agreement(agreement).shared_slots;
    if (shared >= at_least) return success;
    fmt::print(
        stderr,
        "moduleformer: {}: expected at least {} of the slots to have the expert that they have in {}, found {}\n",
        second, at_least, first, shared);
    return drifted;
  }

  /// Errors name both files.
  [[nodiscard]] std::vector<mf::RouteAgreement> compare() const {
    mf::RouteRecord const a = mf::load_routes(first), b = mf::load_routes(second);
    try {
      return mf::compare_routes(a, b, grown ? mf::SecondModel::grown : mf::SecondModel::same_routers);
    } catch (mf::Error const& error) {
      mf::fail<mf::Error>(first, " and ", second, ": ", error.what());
    }
  }
};

}  // namespace

Run set_up_routes(CLI::App& command) {
  return [routes = std::make_shared<Routes>(command)] { return routes->run(); };
}

}  // namespace cli
