// conv2d and conv2d_relu: forward, the input gradient and the weight gradient as products over gathered operands
// (conv2d_products.cuh). dy is masked in a pass of its own that adds up the bias gradient too (relu_backward.cuh): both
// gradients read dz some r s times, and a mask would take their loads off the asynchronous copies.
#include "conv2d_products.cuh"
#include "relu_backward.cuh"

namespace torchext::cuda {
namespace {
// Three stages of 20 KB for the large tile of 16-bit elements, and its rows' and columns' points:
// two blocks a processor.
using SmallHalf = Tiles<64, 64, 32, 2, 2, 4>;
using LargeHalf = Tiles<128, 128, 32, 2, 4, 3>;
using SmallFloat = Tiles<64, 64, 16, 2, 4, 3>;
using LargeFloat = Tiles<128, 64, 16, 4, 2, 3>;

template <typename T>
using Small = std::conditional_t<sizeof(T) == 2, SmallHalf, SmallFloat>;
template <typename T>
using Large = std::conditional_t<sizeof(T) == 2, LargeHalf, std::conditional_t<sizeof(T) == 4, LargeFloat, SmallFloat>>;

template <typename T>
void run(const ConvProduct<T>& g, bool tf32, acc_t<T>* scratch, void* stream) {
  run_conv<Small<T>, Large<T>>(g, tf32, scratch, stream);
}
template <typename T>
int64_t pieces_size(const ConvProduct<T>& g) {
  return conv_pieces_size<Small<T>, Large<T>>(g);
}

template <typename T, typename F>
void each_residue(const Products<T>& products, F&& f) {
  for (int64_t i = 0; i < products.residues_h(); ++i)
    for (int64_t j = 0; j < products.residues_w(); ++j) f(i, j);
}
}  // namespace

template <typename T>
int64_t conv2d_scratch_size(ConvShape s, ConvWants wants) {
  const Products<T> products(s);
  int64_t size = 0;
  const auto fit = [&](int64_t pieces) { size = std::max(size, pieces); };
  if (wants.y) fit(pieces_size(products.forward(nullptr, nullptr, nullptr, nullptr, Epilogue::kNone)));
  if (wants.dx)
    each_residue(products, [&](int64_t i, int64_t j) {
      fit(pieces_size(products.input_gradient(nullptr, nullptr, nullptr, i, j)));
    });
  if (wants.dw) fit(pieces_size(products.weight_gradient(nullptr, nullptr, nullptr)));
  if (wants.db)
    fit(s.channels_last ? mask_rows_scratch_size(s.n * s.p * s.q, s.k) : mask_planes_scratch_size(s.n, s.k, s.p * s.q));
  return size;
}

template <typename T>
void conv2d(T* y, const T* x, const T* w, const T* b, Epilogue epilogue, bool tf32, ConvShape s, acc_t<T>* scratch,
            void* stream) {
  run(Products<T>(s).forward(y, x, w, b, epilogue), tf32, scratch, stream);
}

template <typename T>
void conv2d_mask(T* dz, T* db, const T* dy, const T* y, ConvShape s, acc_t<T>* scratch, void* stream) {
  if (s.channels_last)
    mask_rows(dz, db, dy, y, s.n * s.p * s.q, s.k, scratch, stream);
  else
    mask_planes(dz, db, dy, y, s.n, s.k, s.p * s.q, scratch, stream);
}

template <typename T>
void conv2d_backward(T* dx, T* dw, const T* dz, const T* x, const T* w, bool tf32, ConvShape s, acc_t<T>* scratch,
                     void* stream) {
  const Products<T> products(s);
  if (dx)
    each_residue(products,
                 [&](int64_t i, int64_t j) { run(products.input_gradient(dx, dz, w, i, j), tf32, scratch, stream); });
  if (dw) run(products.weight_gradient(dw, dz, x), tf32, scratch, stream);
}

#define INSTANTIATE(T)                                                                                 \
  template int64_t conv2d_scratch_size<T>(ConvShape, ConvWants);                                       \
  template void conv2d(T*, const T*, const T*, const T*, Epilogue, bool, ConvShape, acc_t<T>*, void*); \
  template void conv2d_mask(T*, T*, const T*, const T*, ConvShape, acc_t<T>*, void*);                  \
  template void conv2d_backward(T*, T*, const T*, const T*, const T*, bool, ConvShape, acc_t<T>*, void*)
INSTANTIATE(double);
INSTANTIATE(float);
INSTANTIATE(BFloat16);
INSTANTIATE(Half);
}  // namespace torchext::cuda
