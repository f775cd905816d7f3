// What CUDA and HIP spell differently, for the texts that are compiled as either.

#if defined(__HIP_PLATFORM_AMD__)
#include <hip/hip_runtime.h>
#define STREAM hipStream_t
#define LAST_ERROR() static_cast<int>(hipGetLastError())
#define COUNT_DEVICES(count) static_cast<int>(hipGetDeviceCount(count))
#define SHUFFLE(value, lane) __shfl(value, lane)
#define SHUFFLE_UP(value, by) __shfl_up(value, by)
#define SHUFFLE_XOR(value, by) __shfl_xor(value, by)
#define BALLOT(is_set) __ballot(is_set)
#define COUNT_LANES(lanes) __popcll(lanes)
#define CANONICAL(value) ((value) != (value) ? __int_as_float(0x7fffffff) : (value) + 0.0f)
#define WAVE_BARRIER() \
  __builtin_amdgcn_fence(__ATOMIC_RELEASE, "wavefront"); \
  __builtin_amdgcn_wave_barrier(); \
  __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "wavefront")
typedef unsigned long long Lanes;
constexpr int WAVE = 64;
constexpr int ROWS_IN_FLIGHT = 4;  // eight spill scalar registers
#else
#include <cuda_runtime.h>
#define STREAM cudaStream_t
#define LAST_ERROR() static_cast<int>(cudaGetLastError())
#define COUNT_DEVICES(count) static_cast<int>(cudaGetDeviceCount(count))
#define SHUFFLE(value, lane) __shfl_sync(0xffffffffu, value, lane)
#define SHUFFLE_UP(value, by) __shfl_up_sync(0xffffffffu, value, by)
#define SHUFFLE_XOR(value, by) __shfl_xor_sync(0xffffffffu, value, by)
#define BALLOT(is_set) __ballot_sync(0xffffffffu, is_set)
#define COUNT_LANES(lanes) __popc(lanes)
#define CANONICAL(value) __fadd_rn(value, 0.0f)  // every NaN becomes 0x7fffffff, -0 becomes +0
#define WAVE_BARRIER() __syncwarp()
typedef unsigned Lanes;
constexpr int WAVE = 32;
constexpr int ROWS_IN_FLIGHT = 16;
#endif

// The error of the runtime that this text was built with, which may be newer than the driver here; 0 if it can launch.
extern "C" int proa_runtime_error() {
  int count = 0;
  return COUNT_DEVICES(&count);
}
