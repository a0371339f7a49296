// SPDX-License-Identifier: MIT
#pragma once
// Buffer<T, Memory>: the move-only owner of an aligned array of trivial elements.

#include <moduleformer/core/error.hpp>
#include <moduleformer/core/tensor_view.hpp>

#include <limits>
#include <type_traits>
#include <utility>

namespace moduleformer {

template <class T, class Memory>
class Buffer {
  static_assert(std::is_trivially_copyable_v<T>, "moduleformer: a buffer holds trivial types only");

 public:
  Buffer() = default;
  /// Uninitialised elements. Throws Error for a size that no memory holds.
  explicit Buffer(Index size) : size_(checked(size)) {
    if (size > 0) data_ = static_cast<T*>(Memory::allocate(static_cast<std::size_t>(size) * sizeof(T)));
  }
  Buffer(Buffer&& other) noexcept : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~Buffer() {
    if (data_ != nullptr) Memory::deallocate(data_, static_cast<std::size_t>(size_) * sizeof(T));
  }

  [[nodiscard]] T* data() { return data_; }
  [[nodiscard]] T const* data() const { return data_; }
  [[nodiscard]] Index size() const { return size_; }
  [[nodiscard]] Vector<T> view() { return {data_, {size_}}; }
  [[nodiscard]] Vector<T const> view() const { return {data_, {size_}}; }

 private:
  static Index checked(Index size) {
    constexpr auto largest = std::numeric_limits<Index>::max() / static_cast<Index>(sizeof(T));
    expects(size >= 0 && size <= largest, "buffer: expected 0 to ", largest, " elements, found ", size);
    return size;
  }

  T* data_ = nullptr;
  Index size_ = 0;
};

}  // namespace moduleformer
