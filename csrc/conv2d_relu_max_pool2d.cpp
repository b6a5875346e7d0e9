// conv2d_relu_max_pool2d, glue: the shape of the convolution and of the pooling, then one call to the direct kernels.
#include "conv2d_relu_max_pool2d.h"

#include "glue/conv2d_direct.h"

namespace torchext {
namespace {
using Cpu = CpuDirect;

// On a GPU, and on the CPU as the `.simt` overloads.
struct Cuda {
  template <typename T>
  static void conv2d(T* y, uint8_t* offsets, const T* x, const T* w, const T* b, Epilogue, const ConvShape& s,
                     const ConvPool* pool, const Tensor& like) {
    const OnDevice on(like);
    cuda::conv2d_relu_max_pool2d(y, offsets, x, w, b, s, *pool, on.stream());
  }

  template <typename T>
  static void conv2d_backward(T* dx, T* dw, T* db, const T* dy, const T*, const uint8_t* offsets, const T* x,
                              const T* w, const ConvShape& s, const ConvPool* pool, const Tensor& like) {
    const OnDevice on(like);
    auto sums = accumulators<T>(like, dw || db ? cuda::conv2d_relu_max_pool2d_backward_scratch_size<T>(s, *pool) : 0);
    const cuda::PooledGradients<T> gradients{
        .dx = dx, .dw = dw, .db = db, .sums = ptr<acc_t<T>>(sums), .dy = dy, .offsets = offsets, .x = x, .w = w};
    cuda::conv2d_relu_max_pool2d_backward<T>(gradients, s, *pool, on.stream());
  }
};

// How many windows max-pooling takes; with ceil_mode the last may reach past the end, but it starts before it.
int64_t pooled(int64_t size, int64_t kernel, int64_t stride, int64_t padding, bool ceil_mode) {
  const int64_t room = size + 2 * padding - kernel, count = (room + (ceil_mode ? stride - 1 : 0)) / stride + 1;
  return ceil_mode && (count - 1) * stride >= size + padding ? count - 1 : count;
}

ConvPool conv_pool(ConvShape s, const Ints& kernel, const Ints& stride, const Ints& padding, bool ceil_mode) {
  require(kernel[0] * kernel[1] <= 255, "conv2d_relu_max_pool2d: the pooling window has more than 255 taps");
  const int64_t p = pooled(s.p, kernel[0], stride[0], padding[0], ceil_mode);
  const int64_t q = pooled(s.q, kernel[1], stride[1], padding[1], ceil_mode);
  require(p > 0 && q > 0, "conv2d_relu_max_pool2d: the pooling window is larger than the padded image");
  return {.kh = kernel[0],
          .kw = kernel[1],
          .sh = stride[0],
          .sw = stride[1],
          .ph = padding[0],
          .pw = padding[1],
          .p = p,
          .q = q};
}

template <class Backend>
std::tuple<Tensor, Tensor> conv2d_relu_max_pool2d(const Tensor& x, const Tensor& w, const std::optional<Tensor>& b,
                                                  Ints stride, Ints padding, Ints dilation, int64_t groups,
                                                  Ints pool_kernel, Ints pool_stride, Ints pool_padding,
                                                  bool ceil_mode) {
  const ConvShape s = conv_shape(x, w, stride, padding, dilation, groups);
  const ConvPool pool = conv_pool(s, pool_kernel, pool_stride, pool_padding, ceil_mode);
  return direct<Backend>(x, w, b, Epilogue::kRelu, s, &pool);
}

template <class Backend>
std::tuple<Tensor, Tensor, Tensor> conv2d_relu_max_pool2d_backward(
    const Tensor& dy, const Tensor& offsets, const Tensor& x, const Tensor& w, Ints stride, Ints padding, Ints dilation,
    int64_t groups, Ints pool_kernel, Ints pool_stride, Ints pool_padding, bool want_dx, bool want_dw, bool want_db) {
  const ConvShape s = conv_shape(x, w, stride, padding, dilation, groups);
  ConvPool pool = conv_pool(s, pool_kernel, pool_stride, pool_padding, false);
  pool.p = dy.size(2), pool.q = dy.size(3);
  return direct_backward<Backend>(dy, x, w, std::nullopt, offsets, s, &pool, want_dx, want_dw, want_db);
}

template <class Backend>
void implement(Library& m) {
  m.impl(OVERLOAD("conv2d_relu_max_pool2d"), TORCH_BOX(&conv2d_relu_max_pool2d<Backend>));
  m.impl(OVERLOAD("conv2d_relu_max_pool2d_backward"), TORCH_BOX(&conv2d_relu_max_pool2d_backward<Backend>));
}
REGISTER(implement)
}  // namespace
}  // namespace torchext
