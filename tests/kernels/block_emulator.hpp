// Runs CUDA/HIP kernels on the CPU, one block at a time: each thread is a fiber, barriers and wave operations yield.
// EMULATED_WAVE is 32 or 64. The order of the fibers is shuffled at every round, and
// waves fall behind at random, so that a missing barrier shows.
#pragma once
#include <ucontext.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <functional>
#include <utility>
#include <vector>

#define __device__
#define __global__
#define __shared__
#define __launch_bounds__(...)

struct Dim { unsigned x; };
struct int4 { int x, y, z, w; };
typedef void* cudaStream_t;
typedef void* hipStream_t;
inline int cudaGetLastError() { return 0; }
inline int hipGetLastError() { return 0; }
inline int cudaGetDeviceCount(int* count) { return *count = 1, 0; }
inline int hipGetDeviceCount(int* count) { return *count = 1, 0; }

inline Dim threadIdx, blockIdx, blockDim, gridDim;
inline int shared[48 * 1024 / 4];

template <class T> T min(T a, T b) { return b < a ? b : a; }
template <class T> T max(T a, T b) { return a < b ? b : a; }
inline int atomicAdd(int* where, int value) { return std::exchange(*where, *where + value); }
inline float __int_as_float(int bits) { return std::bit_cast<float>(bits); }
inline int __float_as_int(float value) { return std::bit_cast<int>(value); }
inline float __fadd_rn(float a, float b) { return a + b == a + b ? a + b : __int_as_float(0x7fffffff); }
inline float __expf(float value) { return std::exp(value); }
inline float __fdividef(float over, float under) { return over / under; }
inline int __popcll(unsigned long long bits) { return __builtin_popcountll(bits); }
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }

namespace emulator {

constexpr std::size_t STACK = 64 * 1024;

struct Fiber {
  ucontext_t context;
  std::vector<char> stack = std::vector<char>(STACK);
  bool is_done = false;
};

struct Barrier {
  unsigned arrived = 0, round = 0;
};

inline std::vector<Fiber> fibers;
inline std::vector<Barrier> barriers;  // the block's, then one for each wave
inline std::vector<long long> slots;
inline ucontext_t scheduler;
inline std::function<void()> body;
inline unsigned long long seed = 1;

inline void wait_at(Barrier& barrier, unsigned parties) {
  unsigned self = threadIdx.x, round = barrier.round;
  if (++barrier.arrived == parties) {
    barrier.arrived = 0;
    ++barrier.round;
  }
  while (barrier.round == round) {
    swapcontext(&fibers[self].context, &scheduler);
    threadIdx.x = self;
  }
}

inline void wait_for_wave() { wait_at(barriers[1 + threadIdx.x / EMULATED_WAVE], EMULATED_WAVE); }

inline void enter() {
  unsigned self = threadIdx.x;
  body();
  fibers[self].is_done = true;
  swapcontext(&fibers[self].context, &scheduler);
}

inline void run_block() {
  std::vector<unsigned> order(blockDim.x);
  for (unsigned t = 0; t < blockDim.x; ++t) {
    order[t] = t;
    getcontext(&fibers[t].context);
    fibers[t].context.uc_stack.ss_sp = fibers[t].stack.data();
    fibers[t].context.uc_stack.ss_size = STACK;
    fibers[t].is_done = false;
    makecontext(&fibers[t].context, enter, 0);
  }
  for (bool is_running = true; is_running;) {
    is_running = false;
    for (unsigned t = blockDim.x - 1; t > 0; --t) {
      seed = seed * 6364136223846793005ull + 1442695040888963407ull;
      std::swap(order[t], order[(seed >> 33) % (t + 1)]);
    }
    unsigned long long stalled = seed >> 24;  // half of the waves fall behind in each round
    for (unsigned t : order) {
      if (fibers[t].is_done) continue;
      is_running = true;
      if (stalled >> (t / EMULATED_WAVE) & 1) continue;
      threadIdx.x = t;
      swapcontext(&scheduler, &fibers[t].context);
    }
  }
}

template <class Call>
void launch(int blocks, int threads, std::size_t bytes, Call call) {
  if (bytes > sizeof(shared) || threads % EMULATED_WAVE) __builtin_trap();
  gridDim.x = blocks;
  blockDim.x = threads;
  body = call;
  if (fibers.size() < static_cast<std::size_t>(threads)) fibers.resize(threads);
  slots.assign(threads, 0);
  for (int block = 0; block < blocks; ++block) {
    blockIdx.x = block;
    for (int& word : shared) word = 0x5a5a5a5a;  // shared memory starts with anything
    barriers.assign(1 + threads / EMULATED_WAVE, Barrier{});
    run_block();
  }
}

}  // namespace emulator

#define __builtin_amdgcn_fence(order, scope)
inline void __builtin_amdgcn_wave_barrier() { emulator::wait_for_wave(); }
inline void __syncwarp() { emulator::wait_for_wave(); }
inline void __syncthreads() { emulator::wait_at(emulator::barriers[0], blockDim.x); }

template <class T, class Choose>
auto across_wave(T value, Choose choose) {
  unsigned self = threadIdx.x, first = self / EMULATED_WAVE * EMULATED_WAVE;
  emulator::slots[self] = value;
  emulator::wait_for_wave();
  auto chosen = choose(&emulator::slots[first], self - first);
  emulator::wait_for_wave();
  return chosen;
}

inline unsigned long long __ballot(bool is_set) {
  return across_wave(is_set, [](const long long* wave, unsigned) {
    unsigned long long bits = 0;
    for (int lane = 0; lane < EMULATED_WAVE; ++lane) bits |= static_cast<unsigned long long>(wave[lane] != 0) << lane;
    return bits;
  });
}

inline unsigned __ballot_sync(unsigned, bool is_set) { return static_cast<unsigned>(__ballot(is_set)); }

inline int __shfl_up(int value, unsigned by) {
  return across_wave(value, [by](const long long* wave, unsigned lane) {
    return static_cast<int>(lane >= by ? wave[lane - by] : wave[lane]);
  });
}

inline int __shfl_up_sync(unsigned, int value, unsigned by) { return __shfl_up(value, by); }

// Shuffles carry the bits of four-byte values.
template <class T>
T __shfl(T value, unsigned from) {
  static_assert(sizeof(T) == 4);
  return across_wave(std::bit_cast<int>(value), [from](const long long* wave, unsigned) {
    return std::bit_cast<T>(static_cast<int>(wave[from]));
  });
}

template <class T>
T __shfl_xor(T value, unsigned by) {
  return __shfl(value, threadIdx.x % EMULATED_WAVE ^ by);
}

template <class T>
T __shfl_sync(unsigned, T value, unsigned from) {
  return __shfl(value, from);
}

template <class T>
T __shfl_xor_sync(unsigned, T value, unsigned by) {
  return __shfl_xor(value, by);
}

inline int __reduce_max_sync(unsigned, int value) {
  return across_wave(value, [](const long long* wave, unsigned) {
    return static_cast<int>(*std::max_element(wave, wave + EMULATED_WAVE));
  });
}
