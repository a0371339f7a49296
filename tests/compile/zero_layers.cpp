// SPDX-License-Identifier: MIT
// expect: moduleformer: layers must be positive or mf::dynamic
#include <moduleformer/core/shape.hpp>

constexpr moduleformer::Shape shape{
#ifdef MISUSE
    .layers = 0
#else
    .layers = 1
#endif
};

int main() { moduleformer::check_shape<shape>(); }
