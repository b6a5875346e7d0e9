// One pass of each_isa.h: the vector tools, then KERNELS. Headers built once per instruction set guard themselves with
// a macro that is undefined here, so that each pass gets them anew and a pass that reaches one twice does not.
#undef TORCHEXT_VEC
#undef TORCHEXT_TRANSPOSE
#undef TORCHEXT_GEMM
#undef TORCHEXT_GEMM_PACK
#undef TORCHEXT_GEMM_TILES
#undef TORCHEXT_LANES
#undef TORCHEXT_EXP
#undef TORCHEXT_CROSS_ENTROPY_ROWS
#undef TORCHEXT_CROSS_ENTROPY_LANES
#undef TORCHEXT_PHILOX_VEC
#undef TORCHEXT_IMAGE_LANES
#undef TORCHEXT_CONV2D_TILES
#undef TORCHEXT_CONV2D_BACKWARD
#undef TORCHEXT_CONV2D_ROWS
#undef TORCHEXT_CONV2D_PATCHES
#undef TORCHEXT_CONV2D_WINNERS
#undef TORCHEXT_MAX_POOL2D_PLANES
#undef TORCHEXT_MAX_POOL2D_QUADS
#undef TORCHEXT_CONV2D_WINOGRAD_TRANSFORMS
#undef TORCHEXT_CONV2D_WINOGRAD_STRIP
#undef TORCHEXT_CONV2D_WINOGRAD_TILES
#include "vec.h"
#include KERNELS
#undef ISA
#undef ISA_LEVEL
#undef VECTOR_BYTES
