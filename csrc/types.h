// The element types every kernel is written for, and the type each accumulates in.
#pragma once
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <cstdint>
#include <type_traits>

namespace torchext {
using torch::headeronly::BFloat16;
using torch::headeronly::Half;

template <typename T>
using acc_t = std::conditional_t<std::is_same_v<T, double>, double, float>;
}  // namespace torchext
