# SPDX-License-Identifier: MIT
# Enables the language CUDA for our own build and defines moduleformer::cuda, or stops with a sentence.
option(MODULEFORMER_SELF_CONTAINED "Programs for devices find their libraries in their own folder (tests/build_device.sh)" OFF)
if(MODULEFORMER_SELF_CONTAINED)
  set(CMAKE_CUDA_RUNTIME_LIBRARY Shared)  # one for the programs and for the library of primitives
  set(CMAKE_INSTALL_RPATH $ORIGIN)
  set(CMAKE_BUILD_WITH_INSTALL_RPATH ON)
endif()

if(PROJECT_IS_TOP_LEVEL AND NOT DEFINED CMAKE_CUDA_ARCHITECTURES AND NOT DEFINED ENV{CUDAARCHS})
  # Code for 8.x, and for 9.0 with products of warpgroups; PTX for what comes after.
  set(CMAKE_CUDA_ARCHITECTURES 80-real 90a-real 90-virtual)
endif()
set(nvcc nvcc)
if(CMAKE_CUDA_COMPILER)
  set(nvcc ${CMAKE_CUDA_COMPILER})
elseif(DEFINED ENV{CUDACXX})
  set(nvcc $ENV{CUDACXX})
endif()
find_program(MODULEFORMER_NVCC ${nvcc} HINTS ${CUDAToolkit_ROOT} ENV CUDA_PATH PATHS /usr/local/cuda PATH_SUFFIXES bin)
mark_as_advanced(MODULEFORMER_NVCC)
if(NOT MODULEFORMER_NVCC)
  message(FATAL_ERROR "moduleformer: MODULEFORMER_CUDA is ON, but no CUDA compiler (${nvcc}) was found; install the CUDA "
    "toolkit, 12.0 or later, or say with CMAKE_CUDA_COMPILER where its nvcc is")
endif()
set(CMAKE_CUDA_COMPILER ${MODULEFORMER_NVCC})
enable_language(CUDA)
include(cmake/moduleformer-cuda.cmake)
if(NOT TARGET moduleformer::cuda)
  message(FATAL_ERROR "moduleformer: MODULEFORMER_CUDA is ON, but ${moduleformer_cuda_problem}")
endif()
