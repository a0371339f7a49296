// SPDX-License-Identifier: MIT
// moduleformer routes: keeps which experts each token of a text went to, by which gates, and compares two such records;
// `eval --replay` runs a model on one.
#include "command.hpp"
#include "devices.hpp"
#include "report.hpp"
#include "scored_text.hpp"

#include <moduleformer/io/route_file.hpp>
#include <moduleformer/model/route_agreement.hpp>

#include <CLI/CLI.hpp>
#include <fmt/core.h>

#include <filesystem>
#include <memory>
#include <string>

namespace cli {
namespace {

namespace mf = moduleformer;

struct Routes {
  CLI::App* record;
  std::string model, out, first, second;
  double at_least = 0;
  ScoredText text;
  DeviceOptions device;

  explicit Routes(CLI::App& command) {
    command.require_subcommand(1);
    record = command.add_subcommand("record", "Run a model over a text and keep its routes in a file.");
    record->add_option("--model", model, "folder of the model")->required()->type_name("DIR");
    add_scored_text_options(*record, text);
    record->add_option("--out", out, "the record")->required()->type_name("FILE.safetensors");
    add_device_options(*record, device);
    auto* const compare = command.add_subcommand("compare", "How far two records of one text agree, router by router.");
    compare->add_option("A", first, "a record")->required();
    compare->add_option("B", second, "another, of a model of the same routers; they may have more experts, new ones behind")->required();
    compare->add_option("--at-least", at_least, "fail if a smaller share of slots, mean over routers, has the same expert in both")
        ->check(CLI::Range(0.0, 1.0));
  }

  int run() { return record->parsed() ? run_record() : run_compare(); }

  int run_record() {
    check_output(out, model, text.inputs());
    auto const loaded = find_device(device).load(model, false);
    mf::RouteRecord const routes = loaded->record_routes(text.read(*loaded, model), device.threads);
    mf::save_routes(routes, out);
    fmt::print("{}: {} tokens in {} batches, {} routers, {} bytes\n", out, routes.tokens(), routes.size(),
               routes.routers.size(), std::filesystem::file_size(out));
    return success;
  }

  int run_compare() const {
    auto const agreement = mf::compare_routes(mf::load_routes(first), mf::load_routes(second));
    print_agreement(agreement);
    double const shared = mf::mean_agreement(agreement).shared_slots;
    mf::expects(shared >= at_least, second, ": expected at least ", at_least, " of the slots to have the expert that they have in ", first,
                ", found ", shared);
    return success;
  }
};

}  // namespace

Run set_up_routes(CLI::App& command) {
  return [routes = std::make_shared<Routes>(command)] { return routes->run(); };
}

}  // namespace cli
