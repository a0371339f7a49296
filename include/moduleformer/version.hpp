// SPDX-License-Identifier: MIT
#pragma once
// The library's version; the build system reads the three numbers from here.

#define MODULEFORMER_VERSION_MAJOR 0
#define MODULEFORMER_VERSION_MINOR 1
#define MODULEFORMER_VERSION_PATCH 0
