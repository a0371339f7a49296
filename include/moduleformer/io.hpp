// SPDX-License-Identifier: MIT
#pragma once
// Files: saving and loading models (config.json, model.safetensors), records of routes, reports of
// routing, and reading safetensors.

#include <moduleformer/io/checkpoint.hpp>
#include <moduleformer/io/route_file.hpp>
#include <moduleformer/io/routing_history.hpp>
#include <moduleformer/io/routing_report.hpp>
#include <moduleformer/io/safetensors.hpp>
#include <moduleformer/io/tensor_source.hpp>
