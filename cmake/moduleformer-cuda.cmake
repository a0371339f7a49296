# SPDX-License-Identifier: MIT
# Defines moduleformer::cuda, for targets with .cu files: the headers without Eigen and OpenMP, the toolkit's headers,
# C++20, and the one option that nvcc needs. The CUDA runtime is linked by CMake itself (CMAKE_CUDA_RUNTIME_LIBRARY).
# Used by our build (MODULEFORMER_CUDA=ON) and by the package's component `cuda`. Where there is no target,
# moduleformer_cuda_problem says why.
set(moduleformer_cuda_problem "")
if(NOT CMAKE_CUDA_COMPILER)
  set(moduleformer_cuda_problem "the language CUDA is not enabled: say project(... LANGUAGES CXX CUDA)")
else()
  find_package(CUDAToolkit 12.0 QUIET)
  if(NOT CUDAToolkit_FOUND)
    set(moduleformer_cuda_problem "no CUDA toolkit of version 12.0 or later was found beside ${CMAKE_CUDA_COMPILER}")
  elseif(NOT TARGET moduleformer::cuda)
    add_library(moduleformer::cuda INTERFACE IMPORTED GLOBAL)
    target_link_libraries(moduleformer::cuda INTERFACE moduleformer::headers CUDA::toolkit)
    target_compile_options(moduleformer::cuda INTERFACE $<$<COMPILE_LANG_AND_ID:CUDA,NVIDIA>:--expt-relaxed-constexpr>)
    if(cuda_std_20 IN_LIST CMAKE_CUDA_COMPILE_FEATURES)
      target_compile_features(moduleformer::cuda INTERFACE cuda_std_20)
    else()  # CMake 3.25.1 does not know that nvcc does
      target_compile_options(moduleformer::cuda INTERFACE $<$<COMPILE_LANG_AND_ID:CUDA,NVIDIA>:-std=c++20>)
    endif()
  endif()
endif()
