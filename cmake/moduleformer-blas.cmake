# SPDX-License-Identifier: MIT
# Defines moduleformer::blas by MODULEFORMER_BLAS: OFF (none), AUTO (the first that is found, or none),
# OpenBLAS, MKL, BLIS (that one, or an error). Used by our build and by the package's component `blas`.
# Where libraries lie elsewhere, CMAKE_PREFIX_PATH says so; MKLROOT is honoured.

function(moduleformer_add_blas vendor)
  if(vendor STREQUAL "OpenBLAS")
    set(libraries openblas)
    set(header cblas.h)
    set(folders openblas openblas-pthread openblas-openmp)
  elseif(vendor STREQUAL "MKL")
    set(libraries mkl_rt)
    set(header mkl_cblas.h)
    set(folders mkl)
  else()
    set(libraries blis)
    set(header cblas.h)
    set(folders blis)
  endif()
  find_library(MODULEFORMER_${vendor}_LIBRARY NAMES ${libraries} HINTS $ENV{MKLROOT} PATH_SUFFIXES lib lib/intel64)
  # A vendor's own folder comes first: cblas.h beside it may be another library's.
  find_path(MODULEFORMER_${vendor}_INCLUDE_DIR NAMES ${header} HINTS $ENV{MKLROOT}
    PATH_SUFFIXES ${folders} include include/${folders})
  mark_as_advanced(MODULEFORMER_${vendor}_LIBRARY MODULEFORMER_${vendor}_INCLUDE_DIR)
  if(NOT MODULEFORMER_${vendor}_LIBRARY OR NOT MODULEFORMER_${vendor}_INCLUDE_DIR)
    return()
  endif()
  string(TOUPPER ${vendor} macro)
  add_library(moduleformer::blas INTERFACE IMPORTED GLOBAL)
  set_target_properties(moduleformer::blas PROPERTIES
    INTERFACE_COMPILE_DEFINITIONS "MODULEFORMER_USE_CBLAS;MODULEFORMER_USE_${macro}"
    INTERFACE_INCLUDE_DIRECTORIES "${MODULEFORMER_${vendor}_INCLUDE_DIR}"
    INTERFACE_LINK_LIBRARIES "${MODULEFORMER_${vendor}_LIBRARY}"
  )
endfunction()

if(NOT MODULEFORMER_BLAS MATCHES "^(OFF|AUTO|OpenBLAS|MKL|BLIS)$")
  message(FATAL_ERROR "moduleformer: MODULEFORMER_BLAS must be OFF, AUTO, OpenBLAS, MKL or BLIS, not ${MODULEFORMER_BLAS}")
endif()
set(moduleformer_blas_vendors ${MODULEFORMER_BLAS})
if(MODULEFORMER_BLAS STREQUAL "AUTO")
  set(moduleformer_blas_vendors OpenBLAS MKL BLIS)
elseif(MODULEFORMER_BLAS STREQUAL "OFF")
  set(moduleformer_blas_vendors "")
endif()
set(moduleformer_blas_found none)
foreach(moduleformer_vendor IN LISTS moduleformer_blas_vendors)
  if(NOT TARGET moduleformer::blas)
    moduleformer_add_blas(${moduleformer_vendor})
    if(TARGET moduleformer::blas)
      set(moduleformer_blas_found "${moduleformer_vendor} (${MODULEFORMER_${moduleformer_vendor}_LIBRARY})")
    endif()
  endif()
endforeach()
if(NOT TARGET moduleformer::blas AND NOT MODULEFORMER_BLAS MATCHES "^(OFF|AUTO)$")
  message(FATAL_ERROR "moduleformer: MODULEFORMER_BLAS is ${MODULEFORMER_BLAS}, but its library or header was not found")
endif()
message(STATUS "moduleformer: BLAS: ${moduleformer_blas_found}")
