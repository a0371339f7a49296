// SPDX-License-Identifier: MIT
// expect: moduleformer: vocab_size must be positive or mf::dynamic
#include <moduleformer/core/shape.hpp>

constexpr moduleformer::Shape shape{
#ifdef MISUSE
    .vocab_size = -2
#else
    .vocab_size = moduleformer::dynamic
#endif
};

int main() { moduleformer::check_shape<shape>(); }
