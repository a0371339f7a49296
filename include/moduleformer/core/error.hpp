// SPDX-License-Identifier: MIT
#pragma once
// Errors: one type for callers' mistakes, one for bad files, one for CUDA's failures. Every message says where, what was
// expected and what was found. Nothing is printed, nothing exits.

#include <sstream>
#include <stdexcept>
#include <string>

namespace moduleformer {

/// A caller's mistake, or a run that cannot go on (a non-finite loss).
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// A file that is not what it should be; the message names file, tensor or key, and byte offset.
class FormatError : public Error {
 public:
  using Error::Error;
};

/// A CUDA call that failed; the message names the call and its sizes. What lies on the host stays usable.
class CudaError : public Error {
 public:
  using Error::Error;
};

/// Joins the parts into one message and throws.
template <class Exception = Error, class... Parts>
[[noreturn]] void fail(Parts const&... parts) {
  std::ostringstream message;
  (message << ... << parts);
  throw Exception(message.str());
}

/// Throws Error with the joined parts unless the condition holds. Allocates only on failure.
template <class... Parts>
void expects(bool condition, Parts const&... parts) {
  if (!condition) fail<Error>(parts...);
}

}  // namespace moduleformer
