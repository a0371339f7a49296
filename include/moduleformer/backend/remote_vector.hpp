// SPDX-License-Identifier: MIT
#pragma once
// RemoteVector: a vector in memory that the host cannot read, as visitors of state see it in place of a Vector: it is
// copied to and from the host part by part, by a backend of its own.

#include <moduleformer/backend/backend.hpp>
#include <moduleformer/core/tensor_view.hpp>

#include <memory>
#include <span>
#include <type_traits>
#include <utility>

namespace moduleformer {

/// Whether callers may read and write a backend's memory.
template <class B>
inline constexpr bool has_host_memory = requires { requires B::Memory::is_host_memory; };

template <class B, class T>
class RemoteVector {
 public:
  using Element = std::remove_const_t<T>;

  RemoteVector(std::shared_ptr<B> backend, Vector<T> values) : backend_(std::move(backend)), values_(values) {}

  [[nodiscard]] Index size() const { return values_.size(); }
  /// host = the elements from number `first` on. What was asked of other backends must be done.
  void read(Index first, std::span<Element> host) const {
    to_host(*backend_, Vector<T const>(values_).rows(first, static_cast<Index>(host.size())), host.data());
  }
  /// The elements from number `first` on = host.
  void write(Index first, std::span<Element const> host) const
    requires(!std::is_const_v<T>)
  {
    from_host(*backend_, host.data(), values_.rows(first, static_cast<Index>(host.size())));
  }

 private:
  std::shared_ptr<B> backend_;
  Vector<T> values_;
};

/// visit(key, values), as a RemoteVector where the host cannot read them.
template <class B, class Visitor, class Key, class T>
void visit_vector(Visitor& visit, Key const& key, std::shared_ptr<B> const& backend, Vector<T> values) {
  if constexpr (has_host_memory<B>) {
    visit(key, values);
  } else {
    RemoteVector<B, T> remote(backend, values);
    visit(key, remote);
  }
}

}  // namespace moduleformer
