// SPDX-License-Identifier: MIT
#pragma once
// Files: saving and loading models (config.json, model.safetensors), records of routes, and reading safetensors.

#include <moduleformer/io/checkpoint.hpp>
#include <moduleformer/io/route_file.hpp>
#include <moduleformer/io/safetensors.hpp>
#include <moduleformer/io/tensor_source.hpp>
