// SPDX-License-Identifier: MIT
#pragma once
// Places in source text: their printed form, file:line, and whether two are one.

#include <cstring>
#include <ostream>
#include <source_location>
#include <string_view>

namespace moduleformer::emulation {

struct Place {
  std::source_location where;
  friend std::ostream& operator<<(std::ostream& out, Place place) {
    std::string_view const path = place.where.file_name();
    return out << path.substr(path.rfind('/') + 1) << ':' << place.where.line();
  }
};

inline bool same_place(std::source_location a, std::source_location b) {
  return a.line() == b.line() && a.column() == b.column() &&
         (a.file_name() == b.file_name() || std::strcmp(a.file_name(), b.file_name()) == 0);
}

}  // namespace moduleformer::emulation
