#include "../conv2d_winograd.h"

#define KERNELS "conv2d_winograd_kernels.h"
#include "each_isa.h"

namespace torchext::cpu {
int64_t winograd_weights_size(WinogradShape s) { return CHOOSE_ISA(winograd_weights_size(s)); }
void winograd_weights(float* u, const float* w, bool flipped, WinogradShape s, int64_t c0, int64_t c1) {
  CHOOSE_ISA(winograd_weights(u, w, flipped, s, c0, c1));
}
int64_t winograd_bands(WinogradShape s) { return CHOOSE_ISA(winograd_bands(s)); }
bool winograd_conv2d(float* y, WinogradImages x, const float* u, const float* b, Epilogue epilogue, WinogradShape s,
                     int64_t band0, int64_t band1) {
  return CHOOSE_ISA(winograd_conv2d(y, x, u, b, epilogue, s, band0, band1));
}
int64_t winograd_parts(WinogradShape s) { return CHOOSE_ISA(winograd_parts(s)); }
int64_t winograd_db_parts(WinogradShape s) { return CHOOSE_ISA(winograd_db_parts(s)); }
int64_t winograd_part_size(WinogradShape s) { return CHOOSE_ISA(winograd_part_size(s)); }
void winograd_part(float* sums, float* db_sums, const float* x, WinogradImages dy, WinogradShape s, int64_t part) {
  CHOOSE_ISA(winograd_part(sums, db_sums, x, dy, s, part));
}
bool winograd_dw(float* dw, const float* sums, WinogradShape s, int64_t c0, int64_t c1) {
  return CHOOSE_ISA(winograd_dw(dw, sums, s, c0, c1));
}
}  // namespace torchext::cpu
