// The gate for CUDA and HIP from one text. Same choice, bit for bit, as gate.py: best first, ties to the lower id.
//
// Legend: T tokens, E experts. A wave takes one token; a lane holds EACH experts that follow each other, sorted. A
// choice is one key: the score in an order-preserving form whose lowest bits are replaced by the complement of the id,
// so that one maximum over the wave's heads finds score and expert. Where two of the best keys agree in all that is
// left of the score, the wave decides again with whole scores. Scores of 16 bits lose nothing (NARROW).

#if defined(__HIP_PLATFORM_AMD__)
#include <hip/hip_runtime.h>
#define STREAM hipStream_t
#define LAST_ERROR() static_cast<int>(hipGetLastError())
#define SHUFFLE_XOR(value, by) __shfl_xor(value, by)
#define SHUFFLE(value, lane) __shfl(value, lane)
constexpr int WAVE = 64;
#else
#include <cuda_runtime.h>
#define STREAM cudaStream_t
#define LAST_ERROR() static_cast<int>(cudaGetLastError())
#define SHUFFLE_XOR(value, by) __shfl_xor_sync(0xffffffffu, value, by)
#define SHUFFLE(value, lane) __shfl_sync(0xffffffffu, value, lane)
constexpr int WAVE = 32;
#endif

constexpr int WAVES = 4;  // of a block; they do not know of each other

struct Problem {
  const void* logits;
  const float* bias;
  float* weights;
  int* ids;
  int num_tokens, num_experts, top_k, num_shared, num_groups, top_groups, splits, id_bits;
  float scale;
  bool is_softmax, is_renormalized, is_rounded, is_top2;
};

__device__ inline float as_float(unsigned bits) { return __uint_as_float(bits); }
__device__ inline float to_float(float value) { return value; }
__device__ inline float to_float(unsigned short bfloat) { return as_float(static_cast<unsigned>(bfloat) << 16); }

// Unsigned integers in the order of floats; NaN above all, -0 as +0, and nothing real is 0.
__device__ inline unsigned ordered(float value) {
  unsigned bits = __float_as_uint(value + 0.0f);
  unsigned key = bits >> 31 ? ~bits : bits | 0x80000000u;
  return value != value ? 0xffffffffu : key;
}

__device__ inline float unordered(unsigned key) { return as_float(key >> 31 ? key & 0x7fffffffu : ~key); }

__device__ inline unsigned wave_max(unsigned value) {
#if defined(__HIP_PLATFORM_AMD__)
#pragma unroll
  for (int by = WAVE / 2; by > 0; by /= 2) value = max(value, static_cast<unsigned>(SHUFFLE_XOR(value, by)));
  return value;
#else
  return __reduce_max_sync(0xffffffffu, value);
#endif
}

__device__ inline float wave_sum(float value) {
#pragma unroll
  for (int by = WAVE / 2; by > 0; by /= 2) value += SHUFFLE_XOR(value, by);
  return value;
}

__device__ inline float rounded_to_bfloat(float value) {
  unsigned bits = __float_as_uint(value);
  if (value != value) return value;
  return as_float((bits + 0x7fffu + (bits >> 16 & 1)) & 0xffff0000u);
}

template <class T, int EACH>
struct alignas(EACH * sizeof(T) < 16 ? EACH * sizeof(T) : 16) Pack {
  T value[EACH];
};

// The logits of experts first, first + 1, ...: the sum of the parts, which are T * E apart.
template <class T, int EACH>
__device__ inline void load_logits(const Problem& p, int token, int first, float (&logit)[EACH]) {
  const T* row = static_cast<const T*>(p.logits) + static_cast<long long>(token) * p.num_experts + first;
  Pack<T, EACH> pack = *reinterpret_cast<const Pack<T, EACH>*>(row);
#pragma unroll
  for (int i = 0; i < EACH; ++i) logit[i] = to_float(pack.value[i]);
  for (int part = 1; part < p.splits; ++part) {
    row += static_cast<long long>(p.num_tokens) * p.num_experts;
    pack = *reinterpret_cast<const Pack<T, EACH>*>(row);
#pragma unroll
    for (int i = 0; i < EACH; ++i) logit[i] += to_float(pack.value[i]);
  }
  if (p.is_rounded) {
#pragma unroll
    for (int i = 0; i < EACH; ++i) logit[i] = rounded_to_bfloat(logit[i]);
  }
}

// Batcher's odd-even merge sort, largest first.
template <int N>
__device__ inline void sort(unsigned (&key)[N]) {
#pragma unroll
  for (int size = 1; size < N; size *= 2)
#pragma unroll
    for (int gap = size; gap >= 1; gap /= 2)
#pragma unroll
      for (int i = 0; i < N; ++i) {
        bool is_pair = i >= gap % size && i + gap < N && (i - gap % size) % (2 * gap) < gap &&
                       i / (2 * size) == (i + gap) / (2 * size);
        if (is_pair) {
          unsigned upper = max(key[i], key[i + gap]);
          key[i + gap] = min(key[i], key[i + gap]);
          key[i] = upper;
        }
      }
}

// True for lanes whose group is among the best ones; `lanes` of them share a group.
template <int EACH>
__device__ inline bool is_in_best_groups(const Problem& p, const unsigned (&key)[EACH], int lane, int lanes) {
  unsigned first = 0, second = 0;
#pragma unroll
  for (int i = 0; i < EACH; ++i) {
    second = max(second, min(first, key[i]));
    first = max(first, key[i]);
  }
  for (int by = 1; by < lanes; by *= 2) {
    unsigned other = SHUFFLE_XOR(first, by), next = SHUFFLE_XOR(second, by);
    second = max(max(second, next), min(first, other));
    first = max(first, other);
  }
  unsigned rating = p.is_top2 ? ordered(unordered(first) + unordered(second)) : first;
  int rank = 0;
  for (int group = 0; group < p.num_groups; ++group) {
    unsigned other = SHUFFLE(rating, group * lanes);
    rank += other > rating || (other == rating && group < lane / lanes);
  }
  return rank < p.top_groups && lane / lanes < p.num_groups;
}

// Lane k < top_k gets the key whose lowest bits are the complement of the k-th id; keys are sorted and used up.
// `is_unsure` becomes true where two keys differ in their ids only.
template <int EACH, bool NARROW>
__device__ inline unsigned take_best(const Problem& p, unsigned (&key)[EACH], int lane, bool& is_unsure) {
  unsigned mine = 0, last = 0, id_mask = (1u << p.id_bits) - 1;
  sort<EACH>(key);
  for (int k = 0; k < p.top_k + !NARROW; ++k) {
    unsigned best = wave_max(key[0]);
    if (!NARROW) is_unsure |= ((best ^ last) & ~id_mask) == 0;
    last = best;
    if (lane == k) mine = best;
    if (key[0] == best) {
#pragma unroll
      for (int i = 0; i + 1 < EACH; ++i) key[i] = key[i + 1];
      key[EACH - 1] = 0;
    }
  }
  return mine;
}

// The same with whole scores; lanes from 0 on hold ascending ids.
template <int EACH>
__device__ unsigned take_best_exactly(const Problem& p, unsigned (&score)[EACH], int lane) {
  unsigned mine = 0, id_mask = (1u << p.id_bits) - 1;
  for (int k = 0; k < p.top_k; ++k) {
    unsigned head = 0, rest = 0;
#pragma unroll
    for (int i = 0; i < EACH; ++i) {
      if (score[i] > head) {
        head = score[i];
        rest = id_mask - (lane * EACH + i);
      }
    }
    unsigned best = wave_max(head), best_rest = wave_max(head == best ? rest : 0);
    if (lane == k) mine = best_rest;
#pragma unroll
    for (int i = 0; i < EACH; ++i)
      if (id_mask - (lane * EACH + i) == best_rest) score[i] = 0;
  }
  return mine;
}

template <class T>
__device__ inline void store_choice(const Problem& p, int token, int lane, unsigned key, float peak, float total) {
  unsigned id_mask = (1u << p.id_bits) - 1;
  int id = static_cast<int>(id_mask - (key & id_mask));
  float weight = 0.0f;
  if (lane < p.top_k) {
    float logit[1];
    load_logits<T, 1>(p, token, id, logit);
    weight = p.is_softmax ? __expf(logit[0] - peak) * total : __fdividef(1.0f, 1.0f + __expf(-logit[0]));
  }
  if (p.is_renormalized) weight = __fdividef(weight, wave_sum(weight) + 1e-20f);
  int width = p.top_k + p.num_shared, where = token * width + lane;
  if (lane >= width) return;
  bool is_routed = lane < p.top_k;
  p.weights[where] = is_routed ? weight * p.scale : 1.0f;
  p.ids[where] = is_routed ? id : p.num_experts + lane - p.top_k;
}

template <class T, int EACH, bool NARROW>
__global__ void __launch_bounds__(WAVES* WAVE) gate_kernel(Problem p) {
  int token = blockIdx.x * WAVES + threadIdx.x / WAVE, lane = threadIdx.x % WAVE, first = lane * EACH;
  if (token >= p.num_tokens) return;
  float value[EACH];
  bool is_real = first < p.num_experts;
  if (is_real) load_logits<T, EACH>(p, token, first, value);
  unsigned score[EACH], key[EACH], top = 0;
  float peak = 0.0f, total = 1.0f;
  if (p.is_softmax) {
#pragma unroll
    for (int i = 0; i < EACH; ++i) top = max(top, is_real ? ordered(value[i]) : 0u);
    peak = unordered(wave_max(top));
    if (!NARROW || !p.is_renormalized) {
      float sum = 0.0f;
#pragma unroll
      for (int i = 0; i < EACH; ++i) sum += is_real ? __expf(value[i] - peak) : 0.0f;
      total = __fdividef(1.0f, wave_sum(sum));
    }
  }
  if (!p.is_softmax) {
#pragma unroll
    for (int i = 0; i < EACH; ++i) value[i] = __fdividef(1.0f, 1.0f + __expf(-value[i]));
  } else if (p.bias != nullptr || p.num_groups > 1) {
#pragma unroll
    for (int i = 0; i < EACH; ++i) value[i] = __expf(value[i] - peak) * total;
  }
  if (p.bias != nullptr && is_real) {
    Pack<float, EACH> bias = *reinterpret_cast<const Pack<float, EACH>*>(p.bias + first);
#pragma unroll
    for (int i = 0; i < EACH; ++i) value[i] += bias.value[i];
  }
#pragma unroll
  for (int i = 0; i < EACH; ++i) score[i] = is_real ? ordered(value[i]) : 0u;
  if (p.num_groups > 1) {
    bool is_open = is_in_best_groups<EACH>(p, score, lane, p.num_experts / p.num_groups / EACH);
#pragma unroll
    for (int i = 0; i < EACH; ++i) score[i] = is_open ? score[i] : 0u;
  }
  unsigned id_mask = (1u << p.id_bits) - 1;
#pragma unroll
  for (int i = 0; i < EACH; ++i) key[i] = score[i] == 0 ? 0 : (score[i] & ~id_mask) | (id_mask - (first + i));
  bool is_unsure = false;
  unsigned mine = take_best<EACH, NARROW>(p, key, lane, is_unsure);
  if (!NARROW && is_unsure) mine = take_best_exactly<EACH>(p, score, lane);
  store_choice<T>(p, token, lane, mine, peak, total);
}

template <class T, bool NARROW>
static int launch(const Problem& p, int each, STREAM stream) {
  int blocks = (p.num_tokens + WAVES - 1) / WAVES;
  if (each == 1) gate_kernel<T, 1, NARROW><<<blocks, WAVES * WAVE, 0, stream>>>(p);
  else if (each == 2) gate_kernel<T, 2, NARROW><<<blocks, WAVES * WAVE, 0, stream>>>(p);
  else if (each == 4) gate_kernel<T, 4, NARROW><<<blocks, WAVES * WAVE, 0, stream>>>(p);
  else gate_kernel<T, 8, NARROW><<<blocks, WAVES * WAVE, 0, stream>>>(p);
  return LAST_ERROR();
}

// Experts of one lane, or 0 where this text does not serve the shape.
extern "C" int proa_gate_each(int num_experts, int num_groups) {
  int each = 1;
  while (each * WAVE < num_experts) each *= 2;
  int lanes = num_groups > 1 ? num_experts / num_groups / each : 1;
  bool is_whole = num_experts % each == 0 && (num_groups == 1 || lanes * each * num_groups == num_experts);
  return each <= 8 && is_whole && lanes > 0 && (lanes & (lanes - 1)) == 0 ? each : 0;
}

// `is_wide`: logits are float32, else bfloat16. Returns 0, -1 for a shape that is not served, or the runtime's error.
extern "C" int proa_gate(
    const void* logits, const float* bias, float* weights, int* ids, int num_tokens, int num_experts, int top_k,
    int num_shared, int num_groups, int top_groups, int splits, int is_wide, int is_softmax, int is_renormalized,
    int is_rounded, int is_top2, float scale, STREAM stream) {
  int each = proa_gate_each(num_experts, num_groups), bits = 1;
  if (each == 0 || top_k + num_shared > WAVE) return -1;
  while ((1 << bits) < num_experts) ++bits;
  Problem p = {logits, bias, weights, ids, num_tokens, num_experts, top_k, num_shared, num_groups, top_groups, splits,
               bits, scale, is_softmax != 0, is_renormalized != 0, is_rounded != 0, is_top2 != 0};
  bool is_narrow = is_softmax && bias == nullptr && num_groups == 1 && (!is_wide || is_rounded);
  if (is_wide) return is_narrow ? launch<float, true>(p, each, stream) : launch<float, false>(p, each, stream);
  return is_narrow ? launch<unsigned short, true>(p, each, stream) : launch<unsigned short, false>(p, each, stream);
}
