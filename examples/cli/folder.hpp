// SPDX-License-Identifier: MIT
#pragma once
// What a model's folder holds, without its weights.

#include <moduleformer/core/settings.hpp>
#include <moduleformer/model/config.hpp>
#include <moduleformer/model/count.hpp>

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace cli {

struct FolderContents {
  moduleformer::Config config;
  moduleformer::Settings settings;
  std::string architecture;                                     // class of the published code
  std::string published_obstacle;                               // why that cannot load the folder; empty if it can
  std::vector<std::pair<std::string, std::string>> policies{};  // role, name and numbers
  moduleformer::Counts counts{};
  struct Tensor {
    std::string name;
    std::string_view type;
    std::string shape;
    moduleformer::Index bytes;
  };
  std::vector<Tensor> tensors{};

  [[nodiscard]] bool classifies() const { return config.labels > 0; }
};

/// Whether a folder holds a classifier.
bool is_classifier(std::string const& folder);
/// Throws FormatError for a folder that could not be loaded.
FolderContents read_folder(std::string const& folder);

}  // namespace cli
