// A stand-in for the CUDA runtime: -Icsrc/simt in place of the toolkit's folder compiles csrc/cuda with a C++ compiler
// and runs it on the CPU, thread by thread, so that every test of a kernel runs where there is no GPU.
//
// A kernel sees what the CUDA C++ Programming Guide promises and no more: threads and blocks come in a random order
// (SIMT_SEED, or simt::order), lanes of a warp do not run in step, shared memory and cp.async destinations begin as
// NaN. What the guide forbids throws, naming kernel, block and thread: a barrier that not all live threads reach or
// that is not the same for all, a collective whose mask names lanes that do not come, an unaligned access, an overrun
// of shared memory, copies nobody waits for. What is not modelled does not exist, and so does not compile: clusters,
// mbarrier, TMA, wgmma, named barriers, cooperative groups, textures, streams, dynamic parallelism, clock, printf,
// `__shared__` (see vectors.h). Not modelled either, and not noticed: that memory is weakly ordered (a missing
// __threadfence), waiting for another block by spinning (hangs), the cost of anything.
#pragma once
#include "arithmetic.h"
#include "mma.h"
#include "run.h"
#include "warp.h"
