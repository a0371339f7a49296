// SPDX-License-Identifier: MIT
#pragma once
// Fiber: a stack of its own, and the switch from one to another: a dozen instructions on x86-64, ucontext (which
// makes system calls) elsewhere. Sanitizers are told of every switch. A fiber may go on in another OS thread.

#include <moduleformer/core/error.hpp>

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <utility>

#if defined(__SANITIZE_ADDRESS__)
#define MODULEFORMER_FIBER_ASAN 1
#endif
#if defined(__SANITIZE_THREAD__)
#define MODULEFORMER_FIBER_TSAN 1
#endif
#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define MODULEFORMER_FIBER_ASAN 1
#endif
#if __has_feature(thread_sanitizer)
#define MODULEFORMER_FIBER_TSAN 1
#endif
#endif
#if defined(MODULEFORMER_FIBER_ASAN)
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(MODULEFORMER_FIBER_TSAN)
#include <sanitizer/tsan_interface.h>
#endif
#if !defined(__x86_64__) || defined(MODULEFORMER_FIBER_UCONTEXT)
#undef MODULEFORMER_FIBER_UCONTEXT
#define MODULEFORMER_FIBER_UCONTEXT 1
#include <ucontext.h>
#endif

namespace moduleformer::emulation {

#if !defined(MODULEFORMER_FIBER_UCONTEXT)
/// Saves the registers that a call keeps and the stack pointer in *from, takes those of `to`, and hands the
/// argument to a function that begins there (System V ABI: rdi, rsi, rdx).
__attribute__((naked, noinline)) inline void switch_stacks(void** /*from*/, void* /*to*/, void* /*argument*/) {
  asm volatile(
      "pushq %rbp\n\tpushq %rbx\n\tpushq %r12\n\tpushq %r13\n\tpushq %r14\n\tpushq %r15\n\t"
      "movq %rsp, (%rdi)\n\tmovq %rsi, %rsp\n\tmovq %rdx, %rdi\n\t"
      "popq %r15\n\tpopq %r14\n\tpopq %r13\n\tpopq %r12\n\tpopq %rbx\n\tpopq %rbp\n\tret\n\t");
}
#endif

class Fiber {
 public:
  /// What runs on the stack; it must never return and never let an exception out.
  using Body = void (*)(void* argument, Fiber& self);

  /// The stack that the caller runs on.
  Fiber() {
#if defined(MODULEFORMER_FIBER_TSAN)
    thread_ = __tsan_get_current_fiber();
#endif
  }

  /// A new stack, which body(argument, *this) begins on at the first switch. `number` staggers the tops of many
  /// stacks, which would share cache sets otherwise.
  Fiber(Body body, void* argument, int number) : body_(body), argument_(argument) {
    mapping_ =
        mmap(nullptr, guard + stack_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    expects(mapping_ != MAP_FAILED, "emulation: no memory for the stack of a fiber");
    (void)mprotect(mapping_, guard, PROT_NONE);  // an overflow stops here
    bottom_ = static_cast<char*>(mapping_) + guard;
    size_ = stack_bytes - static_cast<std::size_t>(number % 31) * 128;
#if defined(MODULEFORMER_FIBER_TSAN)
    thread_ = __tsan_create_fiber(0);
#endif
#if defined(MODULEFORMER_FIBER_UCONTEXT)
    getcontext(&context_);
    context_.uc_stack.ss_sp = bottom_;
    context_.uc_stack.ss_size = size_;
    context_.uc_link = nullptr;
    auto const self = reinterpret_cast<std::uintptr_t>(this);
    makecontext(&context_, reinterpret_cast<void (*)()>(&Fiber::begin_halves), 2, static_cast<unsigned>(self >> 32),
                static_cast<unsigned>(self));
#else
    auto* place = reinterpret_cast<void**>(static_cast<char*>(bottom_) + size_);
    *--place = nullptr;  // where a return address would be: the stack is aligned as after a call
    *--place = reinterpret_cast<void*>(&Fiber::begin);
    for (int saved = 0; saved < 6; ++saved) *--place = nullptr;
    stack_pointer_ = place;
#endif
  }
  Fiber(Fiber const&) = delete;
  Fiber& operator=(Fiber const&) = delete;
  ~Fiber() {
    if (mapping_ == nullptr) return;
#if defined(MODULEFORMER_FIBER_TSAN)
    __tsan_destroy_fiber(thread_);
#endif
    (void)munmap(mapping_, guard + stack_bytes);
  }

  /// Suspends this fiber, which must be the running one, and goes on in the other. Returns when somebody
  /// switches back.
  void switch_to(Fiber& other) {
#if defined(MODULEFORMER_FIBER_ASAN)
    other.came_from_ = this;
    __sanitizer_start_switch_fiber(&fake_stack_, other.bottom_, other.size_);
#endif
#if defined(MODULEFORMER_FIBER_TSAN)
    __tsan_switch_to_fiber(other.thread_, 0);
#endif
#if defined(MODULEFORMER_FIBER_UCONTEXT)
    swapcontext(&context_, &other.context_);
#else
    switch_stacks(&stack_pointer_, other.stack_pointer_, &other);
#endif
    arrived();
  }

 private:
  static constexpr std::size_t guard = 4096;
  static constexpr std::size_t stack_bytes = 256 << 10;

#if defined(MODULEFORMER_FIBER_UCONTEXT)
  static void begin_halves(unsigned high, unsigned low) {
    begin(reinterpret_cast<Fiber*>((static_cast<std::uintptr_t>(high) << 32) | low));
  }
#endif
  static void begin(Fiber* self) {
    self->arrived();
    self->body_(self->argument_, *self);
    __builtin_unreachable();
  }

  /// After a switch to this fiber. The sanitizer tells where the stack that we left lies, also of the one that
  /// the OS made.
  void arrived() {
#if defined(MODULEFORMER_FIBER_ASAN)
    void const* bottom = nullptr;
    std::size_t size = 0;
    __sanitizer_finish_switch_fiber(std::exchange(fake_stack_, nullptr), &bottom, &size);
    if (came_from_->mapping_ == nullptr) {
      came_from_->bottom_ = const_cast<void*>(bottom);
      came_from_->size_ = size;
    }
#endif
  }

  [[maybe_unused]] void* stack_pointer_ = nullptr;  // of a suspended fiber
  Body body_ = nullptr;
  void* argument_ = nullptr;
  void* mapping_ = nullptr;
  void* bottom_ = nullptr;
  std::size_t size_ = 0;
  [[maybe_unused]] Fiber* came_from_ = nullptr;
  [[maybe_unused]] void* fake_stack_ = nullptr;
  [[maybe_unused]] void* thread_ = nullptr;
#if defined(MODULEFORMER_FIBER_UCONTEXT)
  ucontext_t context_{};
#endif
};

}  // namespace moduleformer::emulation
