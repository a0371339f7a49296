// SPDX-License-Identifier: MIT
// The counting sort against CUB's sort on the device, at sizes that take an emulated device too long.
#include "device.hpp"
// What the tests use:
#include "support.hpp"

#include <moduleformer/backend/cuda/counting_sort.cuh>
#include <moduleformer/backend/cuda/cub_sort.cuh>

#include <boost/test/unit_test.hpp>

#include <cstdint>
#include <tuple>
#include <vector>

namespace mf = moduleformer;

BOOST_AUTO_TEST_CASE(both_sorts_agree) {
  using Backend = std::tuple_element_t<0, mf::test::Backends>;
  for (mf::Index const size : {0, 1, 33, 2048, 2049, 32768, 131073, 1000003})
    for (mf::Index const key_count : {1, 2, 33, 64, 256, 300, 50257, 1 << 24}) {
      std::vector<std::int32_t> keys(static_cast<std::size_t>(size));
      for (std::size_t p = 0; p < keys.size(); ++p)
        keys[p] = static_cast<std::int32_t>(mf::random_words({5}, p)[0] % static_cast<std::uint32_t>(key_count));
      mf::test::Device<Backend> device;
      auto const on_device = device.upload(keys);
      auto const order = device.allocate<std::int32_t>(size), other = device.allocate<std::int32_t>(size);
      auto const offsets = device.allocate<mf::Index>(key_count + 1),
                 others = device.allocate<mf::Index>(key_count + 1);
      mf::detail::sort_by_key(device.backend(), on_device, key_count, order, offsets);
      mf::detail::sort_by_key_with_cub(device.backend(), on_device, key_count, other, others);
      BOOST_TEST((device.download(order) == device.download(other)), size << " values, " << key_count << " keys");
      BOOST_TEST((device.download(offsets) == device.download(others)), size << " values, " << key_count << " keys");
    }
}
