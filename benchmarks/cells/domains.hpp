// SPDX-License-Identifier: MIT
#pragma once
// Labelled text: --data NAME=FILE. A fingerprint of each text enters the settings of what is made of it.

#include <moduleformer/training/documents.hpp>
#include <moduleformer/training/text_file.hpp>

#include <fmt/core.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace bench {

namespace mf = moduleformer;
using mf::Index;

struct Domain {
  std::string name;
  std::filesystem::path file;
  std::uint64_t fingerprint = 0;  // of its text
};

/// NAME=FILE. Throws Error for a name given twice and a file that cannot be read as text.
inline std::vector<Domain> parse_domains(std::vector<std::string> const& data) {
  std::vector<Domain> domains;
  for (std::string const& item : data) {
    auto const equals = item.find('=');
    mf::expects(equals != std::string::npos && equals > 0 && equals + 1 < item.size(),
                "--data: expected NAME=FILE, found '", item, "'");
    Domain domain{item.substr(0, equals), item.substr(equals + 1)};
    mf::expects(std::ranges::find(domains, domain.name, &Domain::name) == domains.end(), "--data: the name ",
                domain.name, " is given twice");
    mf::expects(std::filesystem::is_regular_file(domain.file), "--data: ", domain.name, ": ", domain.file.string(),
                ": expected a text file, found none");
    auto const text = mf::read_text_file(domain.file);
    mf::Documents<unsigned char> documents(0);
    documents.add(domain.name, std::span<unsigned char const>(text));
    domain.fingerprint = documents.fingerprint();
    domains.push_back(std::move(domain));
  }
  return domains;
}

/// " NAME=FINGERPRINT" of each.
inline std::string fingerprints(std::span<Domain const> domains) {
  std::string text;
  for (Domain const& d : domains) text += fmt::format(" {}={:016x}", d.name, d.fingerprint);
  return text;
}

}  // namespace bench
